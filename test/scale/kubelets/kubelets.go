// Package kubelets plays the kubelets of many nodes for the pods of the canary, and the
// network between these. It needs an API server and nothing else: it creates the nodes,
// binds the pods, lets them run, gives them addresses, makes their reports when these are
// due, and serves their logs to the API server, which finds all nodes at one listener.
//
// What is a fake is the work of the pods. What the operator sees of it is as real pods
// would write it: the pods of a node report in the turns of their plans, a second or two
// after the turn has begun.
package kubelets

import (
	"context"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/pathproof/pathproof/canary"
)

const (
	// workers work on pods at a time.
	workers = 8
	// tick is how often is looked for reports that are due, and roundTime what a round
	// takes: one round of attempts of a second.
	tick      = 100 * time.Millisecond
	roundTime = 1700 * time.Millisecond
	// heartbeat is how often a kubelet writes the status of its node.
	heartbeat = 5 * time.Minute
)

// Fleet is the kubelets of all nodes.
type Fleet struct {
	client kubernetes.Interface
	server *httptest.Server
	port   int32
	queue  workqueue.TypedRateLimitingInterface[types.NamespacedName]
	lister corelisters.PodLister
	logf   func(format string, args ...any)

	mu sync.Mutex
	// pods are those that run, and addrs whose an address is.
	pods  map[types.NamespacedName]*pod
	addrs map[netip.Addr]*pod
	// nodes are those that have a kubelet; one that is false does not answer.
	nodes map[string]bool
	// unpoliced are the nodes that enforce nothing.
	unpoliced map[string]bool
	// made counts the addresses that were given.
	made int
}

// Start starts the kubelets, which end with the context. Errors that a kubelet would log
// go to logf.
func Start(ctx context.Context, config *rest.Config, logf func(format string, args ...any)) (*Fleet, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1 // a thousand kubelets have a limit each
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("building client of the kubelets: %w", err)
	}
	f := &Fleet{
		client: client, logf: logf, pods: map[types.NamespacedName]*pod{}, addrs: map[netip.Addr]*pod{}, nodes: map[string]bool{}, unpoliced: map[string]bool{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[types.NamespacedName]()),
	}
	if err := f.serve(ctx); err != nil {
		return nil, err
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = canary.Label }))
	f.lister = factory.Core().V1().Pods().Lister()
	add := func(o any) {
		if key, err := cache.DeletionHandlingObjectToName(o); err == nil {
			f.queue.Add(types.NamespacedName{Namespace: key.Namespace, Name: key.Name})
		}
	}
	if _, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: add, UpdateFunc: func(_, o any) { add(o) }, DeleteFunc: add,
	}); err != nil {
		return nil, fmt.Errorf("watching pods: %w", err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	context.AfterFunc(ctx, f.queue.ShutDown)
	for range workers {
		go f.work(ctx)
	}
	go f.runTurns(ctx)
	return f, nil
}

// AddNodes creates nodes and starts their kubelets.
func (f *Fleet) AddNodes(ctx context.Context, names ...string) error {
	for _, name := range names {
		node, err := f.client.CoreV1().Nodes().Create(ctx, f.node(name), metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("creating node %s: %w", name, err)
		}
		// The API server taints new nodes; the node controller, which would take the taint
		// off, is not there.
		if len(node.Spec.Taints) > 0 {
			node.Spec.Taints = nil
			if _, err := f.client.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{}); err != nil {
				return fmt.Errorf("taking the taints off node %s: %w", name, err)
			}
		}
		f.mu.Lock()
		f.nodes[name] = true
		f.mu.Unlock()
		go f.beat(ctx, name)
	}
	return nil
}

func (f *Fleet) node(name string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64"}},
		Status: corev1.NodeStatus{
			// The API server asks here for logs.
			Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: f.port}},
			Conditions:      []corev1.NodeCondition{readyCondition(true)},
			NodeInfo:        corev1.NodeSystemInfo{OperatingSystem: "linux", Architecture: "amd64"},
		},
	}
}

func readyCondition(ready bool) corev1.NodeCondition {
	status := corev1.ConditionUnknown
	if ready {
		status = corev1.ConditionTrue
	}
	return corev1.NodeCondition{Type: corev1.NodeReady, Status: status, LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}
}

// SetReady makes the kubelet of a node answer again, or fall silent: then its pods report
// no more, and its node is not Ready, as the node controller would write.
func (f *Fleet) SetReady(ctx context.Context, name string, ready bool) error {
	f.mu.Lock()
	f.nodes[name] = ready
	f.mu.Unlock()
	return f.writeCondition(ctx, name, ready)
}

func (f *Fleet) writeCondition(ctx context.Context, name string, ready bool) error {
	node, err := f.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading node %s: %w", name, err)
	}
	node.Status.Conditions = []corev1.NodeCondition{readyCondition(ready)}
	if _, err := f.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("writing status of node %s: %w", name, err)
	}
	return nil
}

// beat writes the status of a node as its kubelet does, from a moment of its own on.
func (f *Fleet) beat(ctx context.Context, name string) {
	wait := time.Duration(float64(heartbeat) * fraction(name))
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = heartbeat
		if !f.alive(name) {
			continue
		}
		if err := f.writeCondition(ctx, name, true); err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) {
			f.logf("heartbeat: %v", err)
		}
	}
}

func (f *Fleet) alive(node string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nodes[node]
}

// Enforce says whether a node enforces policies. It does from the beginning.
func (f *Fleet) Enforce(node string, on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unpoliced[node] = !on
}

// Running counts the pods that run.
func (f *Fleet) Running() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.pods)
}
