package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	policyclient "sigs.k8s.io/network-policy-api/pkg/client/clientset/versioned"
	policyinformers "sigs.k8s.io/network-policy-api/pkg/client/informers/externalversions"
	policylisters "sigs.k8s.io/network-policy-api/pkg/client/listers/apis/v1alpha2"
)

// Options configure the agent of one node. The process is expected to run in
// the node's network namespace already.
type Options struct {
	Node   string
	Dir    string // holds the mode file, the confirmation and the gate's socket
	Client kubernetes.Interface
	// Policies is the client of the cluster-wide policies, whose kind has to be served.
	Policies policyclient.Interface
	Log      *slog.Logger
}

const (
	// coalesce joins the events of one API change (a rollout, a namespace
	// deletion) without adding visibly to the time until it is enforced.
	coalesce = 2 * time.Millisecond
	// modePoll bounds how long `break` and `heal` wait for the agent.
	modePoll = 50 * time.Millisecond
)

// enforcer is owned by one goroutine, the loop in Run; nothing in it is locked.
type enforcer struct {
	Options
	pods        corelisters.PodLister
	namespaces  corelisters.NamespaceLister
	policies    networkinglisters.NetworkPolicyLister
	clusterwide policylisters.ClusterNetworkPolicyLister

	order   Order
	applied string    // text that nft took last
	inForce versions  // of the policies that the text was compiled from
	serial  int       // counts the texts that nft took
	late    []pending // slow mode: texts that wait for their moment
	pinned  map[types.UID]map[string]string
	early   map[types.UID][]netip.Addr // addresses that the gate announced
	waiting []request                  // pods at the gate that the watch has not shown yet
}

// everything lists a store unfiltered.
var everything = labels.Everything()

type pending struct {
	due time.Time
	ruling
}

// ruling is a text and the policies that it was compiled from.
type ruling struct {
	text     string
	policies versions
}

func rulingOf(s Snapshot, m Mode) ruling {
	return ruling{Compile(s, m).Text(), versionsOf(s.Policies)}
}

// Run enforces until ctx ends. The table is left in place then, as an agent
// that stops leaves it in a real cluster.
func Run(ctx context.Context, o Options) error {
	e := &enforcer{Options: o, early: map[types.UID][]netip.Addr{}}
	order, err := readOrder(o.Dir)
	if err != nil {
		return err
	}
	e.setOrder(order)

	changed := make(chan string, 1)
	if err := e.watch(ctx, changed); err != nil {
		return err
	}
	requests, err := serveGate(ctx, o.Dir, o.Log)
	if err != nil {
		return err
	}
	if err := e.enforce(ctx, "start"); err != nil {
		return err
	}
	if err := confirm(e.Dir, e.order); err != nil {
		return err
	}
	return e.loop(ctx, changed, requests)
}

// watch fills the listers and sends a word on changed whenever something that
// enforcement depends on has moved. The channel holds one word: a second
// change that comes before the first was handled is handled with it.
func (e *enforcer) watch(ctx context.Context, changed chan<- string) error {
	factory := informers.NewSharedInformerFactory(e.Client, 0)
	e.pods = factory.Core().V1().Pods().Lister()
	e.namespaces = factory.Core().V1().Namespaces().Lister()
	e.policies = factory.Networking().V1().NetworkPolicies().Lister()
	clusterwide := policyinformers.NewSharedInformerFactory(e.Policies, 0)
	e.clusterwide = clusterwide.Policy().V1alpha2().ClusterNetworkPolicies().Lister()
	handler := notifier(changed)
	for _, add := range []func() error{
		func() error { _, err := factory.Core().V1().Pods().Informer().AddEventHandler(handler); return err },
		func() error {
			_, err := factory.Core().V1().Namespaces().Informer().AddEventHandler(handler)
			return err
		},
		func() error {
			_, err := factory.Networking().V1().NetworkPolicies().Informer().AddEventHandler(handler)
			return err
		},
		func() error {
			_, err := clusterwide.Policy().V1alpha2().ClusterNetworkPolicies().Informer().AddEventHandler(handler)
			return err
		},
	} {
		if err := add(); err != nil {
			return fmt.Errorf("watching: %w", err)
		}
	}
	factory.Start(ctx.Done())
	clusterwide.Start(ctx.Done())
	all := factory.WaitForCacheSync(ctx.Done())
	maps.Copy(all, clusterwide.WaitForCacheSync(ctx.Done()))
	for kind, synced := range all {
		if !synced {
			return fmt.Errorf("listing %s: %w", kind, context.Cause(ctx))
		}
	}
	return nil
}

func (e *enforcer) loop(ctx context.Context, changed <-chan string, requests <-chan request) error {
	poll := time.NewTicker(modePoll)
	defer poll.Stop()
	for {
		timer := e.nextLate()
		var err error
		select {
		case <-ctx.Done():
			return nil
		case reason := <-changed:
			time.Sleep(coalesce)
			err = e.enforce(ctx, reason)
		case r := <-requests:
			e.waiting = append(e.waiting, r)
			err = e.enforce(ctx, "gate "+r.Namespace+"/"+r.Name)
		case <-timer:
			err = e.enforceLate(ctx)
		case <-poll.C:
			err = e.followOrder(ctx)
		}
		if err != nil {
			// A failed transaction leaves the old table in force. It is
			// retried with the next event; a test sees the log.
			e.Log.Error("enforcing", "error", err)
		}
	}
}

// enforce brings the node's table in line with what the watch shows.
func (e *enforcer) enforce(ctx context.Context, reason string) error {
	e.admit()
	now := rulingOf(e.snapshot(), e.order.Mode)
	if e.order.Mode.Name == ModeSlow {
		last := e.applied
		if n := len(e.late); n > 0 {
			last = e.late[n-1].text
		}
		if now.text != last {
			e.late = append(e.late, pending{due: time.Now().Add(e.order.Mode.Delay), ruling: now})
		}
		e.release()
		return nil
	}
	if err := e.apply(ctx, now, reason); err != nil {
		return err
	}
	e.release()
	return nil
}

func (e *enforcer) enforceLate(ctx context.Context) error {
	next := e.late[0]
	e.late = e.late[1:]
	return e.apply(ctx, next.ruling, "late")
}

func (e *enforcer) nextLate() <-chan time.Time {
	if len(e.late) == 0 {
		return nil
	}
	return time.After(time.Until(e.late[0].due))
}

// apply hands a text to nft, unless it is in force already. It logs which policies are
// new, changed or gone since the text before.
func (e *enforcer) apply(ctx context.Context, r ruling, reason string) error {
	changed := e.inForce.changed(r.policies)
	if r.text == e.applied {
		e.inForce = r.policies
		return nil
	}
	start := time.Now()
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(r.text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("applying with nft: %w: %s", err, strings.TrimSpace(string(out)))
	}
	e.applied, e.inForce = r.text, r.policies
	e.serial++
	e.Log.Info("applied", "generation", e.serial, "mode", e.order.Mode.String(), "cause", reason,
		"guards", max(0, strings.Count(r.text, "\tchain ")-2), "policies", strings.Join(changed, ","), "took", time.Since(start).Round(time.Microsecond))
	return nil
}

// followOrder changes the mode when the mode file does, and confirms once the
// kernel has what the new mode wants.
func (e *enforcer) followOrder(ctx context.Context) error {
	order, err := readOrder(e.Dir)
	if err != nil || order == e.order {
		return err
	}
	e.setOrder(order)
	// The change of mode itself takes effect at once, in slow mode too: it
	// delays the changes of the API that come after it.
	if err := e.apply(ctx, rulingOf(e.snapshot(), order.Mode), "mode"); err != nil {
		return err
	}
	return confirm(e.Dir, order)
}

func (e *enforcer) setOrder(order Order) {
	e.order = order
	e.late = nil
	e.pinned = nil
	if order.Mode.Name == ModeStale {
		e.pinned = map[types.UID]map[string]string{}
	}
}

// snapshot reads the listers.
func (e *enforcer) snapshot() Snapshot {
	s := Snapshot{Node: e.Node, Namespaces: map[string]map[string]string{}}
	// Listing from an informer's store cannot fail.
	namespaces, _ := e.namespaces.List(everything)
	for _, ns := range namespaces {
		s.Namespaces[ns.Name] = ns.Labels
	}
	s.Policies, _ = e.policies.List(everything)
	s.ClusterPolicies, _ = e.clusterwide.List(everything)
	pods, _ := e.pods.List(everything)
	for _, p := range pods {
		pod, ok := podOf(p, e.earlyAddrs(p))
		if !ok {
			continue
		}
		if e.pinned != nil {
			if _, seen := e.pinned[p.UID]; !seen {
				e.pinned[p.UID] = pod.Labels
			}
			pod.Labels = e.pinned[p.UID]
		}
		s.Pods = append(s.Pods, pod)
	}
	return s
}

// earlyAddrs returns the addresses that the gate announced for a pod, until the
// kubelet has reported all of them.
func (e *enforcer) earlyAddrs(p *corev1.Pod) []netip.Addr {
	announced := e.early[p.UID]
	reported := statusAddrs(p)
	for _, addr := range announced {
		if !slices.Contains(reported, addr) {
			return announced
		}
	}
	delete(e.early, p.UID)
	return nil
}
