package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/diagnosis"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probepod"
)

// state is what the steps of an examination share.
type state struct {
	rows []canary.Row
	// ring says which nodes each node probes, and sources which probe it.
	ring, sources map[string][]string
	// warmUp is the time between a pod's plan and its first attempt.
	warmUp time.Duration
	// pods are those of each node, and waiting says why a node cannot take part. Set by
	// createPods and awaitPods.
	pods    canary.Pods
	waiting map[string]string
	// policies are the specs of those that were created, by name. Set by createPolicies.
	policies map[string]*policyState
}

// survey finds out which nodes there are, and what the network is.
func (d *Doctor) survey(ctx context.Context, f *diagnosis.Findings) (*state, error) {
	list, err := d.Clients.Core.Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	chosen, leftOut, err := d.choose(list.Items)
	if err != nil {
		return nil, err
	}
	f.Chosen, f.LeftOut = len(chosen)+len(leftOut), leftOut
	if len(chosen) == 0 {
		return nil, nothingToTest(leftOut)
	}
	warmUp, err := d.recognise(ctx, f)
	if err != nil {
		return nil, err
	}
	ring := canary.Ring(chosen, neighbours)
	return &state{
		rows: canary.Rows(d.Features), ring: ring, sources: canary.Sources(ring), warmUp: warmUp,
		pods: canary.Pods{}, waiting: map[string]string{}, policies: map[string]*policyState{},
	}, nil
}

// choose returns the nodes to test, in order, and those of the choice that are not tested.
func (d *Doctor) choose(nodes []corev1.Node) (chosen []string, leftOut []diagnosis.LeftOut, err error) {
	if len(nodes) == 0 {
		return nil, nil, obstacle("the cluster has no nodes", "Add a node, and wait until kubectl get nodes shows it as Ready.")
	}
	selector, err := labels.Parse(d.Selector)
	if err != nil {
		return nil, nil, fmt.Errorf("parsing the selector: %w", err)
	}
	unknown := slices.Clone(d.Nodes)
	for i := range nodes {
		n := &nodes[i]
		unknown = slices.DeleteFunc(unknown, func(name string) bool { return name == n.Name })
		if (len(d.Nodes) > 0 && !slices.Contains(d.Nodes, n.Name)) || !selector.Matches(labels.Set(n.Labels)) {
			continue
		}
		if reason, message := canary.LeftOut(n, tolerations()); reason != "" {
			leftOut = append(leftOut, diagnosis.LeftOut{Node: n.Name, Reason: reason, Message: message})
			continue
		}
		chosen = append(chosen, n.Name)
	}
	switch {
	case len(unknown) > 0:
		return nil, nil, obstacle("there is no node "+strings.Join(unknown, ", "), "kubectl get nodes lists the nodes that there are.")
	case len(chosen)+len(leftOut) == 0:
		return nil, nil, obstacle(fmt.Sprintf("none of the %d nodes is chosen by --nodes and --selector", len(nodes)), "kubectl get nodes --show-labels lists them with their labels.")
	}
	// A hash of the names makes the same choice every time, and one that is not all of one
	// kind.
	slices.SortFunc(chosen, func(a, b string) int { return cmp.Compare(flow.ID("sample", a), flow.ID("sample", b)) })
	if len(chosen) > d.MaxNodes {
		for _, name := range chosen[d.MaxNodes:] {
			leftOut = append(leftOut, diagnosis.LeftOut{Node: name, Reason: diagnosis.LeftOutSampled, Message: fmt.Sprintf("it is not in the sample of %d nodes (--max-nodes)", d.MaxNodes)})
		}
		chosen = chosen[:d.MaxNodes]
	}
	slices.Sort(chosen)
	return chosen, leftOut, nil
}

func nothingToTest(leftOut []diagnosis.LeftOut) error {
	reasons := map[string]bool{}
	for _, l := range leftOut {
		reasons[l.Reason] = true
	}
	if len(reasons) == 1 && reasons[canary.LeftOutCordoned] {
		return obstacle("all nodes are cordoned", "Let pods run on a node: kubectl uncordon "+leftOut[0].Node)
	}
	return obstacle(fmt.Sprintf("no node can be tested, as of %s: %s", leftOut[0].Node, leftOut[0].Message), "kubectl get nodes shows their state.")
}

// recognise finds out what the network is, by the pods of its agents, and returns how long
// it needs for a new pod. A user who may not look at them is told so.
func (d *Doctor) recognise(ctx context.Context, f *diagnosis.Findings) (warmUp time.Duration, err error) {
	var agents []*corev1.Pod
	for _, selector := range evaluator.CNISelectors() {
		list, err := d.Clients.Core.Pods("").List(ctx, metav1.ListOptions{LabelSelector: selector})
		if apierrors.IsForbidden(err) {
			f.Notes = append(f.Notes, "The network could not be recognised: the user of the kubeconfig may not list pods in all namespaces.")
			return probepod.WarmUp, nil
		}
		if err != nil {
			return 0, fmt.Errorf("listing the agents of network implementations: %w", err)
		}
		for i := range list.Items {
			agents = append(agents, &list.Items[i])
		}
	}
	for _, pod := range agents {
		c := evaluator.CNIOf(pod)
		if c == nil {
			continue
		}
		i := slices.IndexFunc(f.Implementations, func(i diagnosis.Implementation) bool { return i.Name == c.Name && i.Namespace == pod.Namespace })
		if i < 0 {
			f.Implementations = append(f.Implementations, diagnosis.Implementation{
				Name: c.Name, RecognisedBy: c.RecognisedBy(), Namespace: pod.Namespace, EnforcesNothing: c.EnforcesNothing(),
			})
			i = len(f.Implementations) - 1
		}
		f.Implementations[i].Pods++
	}
	return max(probepod.WarmUp, evaluator.Implementation{}.Detect(agents).WarmUp), nil
}
