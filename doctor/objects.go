package doctor

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/probepod"
)

// patience is how long pods that are refused are tried again: a new namespace takes a
// moment until pods can be created in it.
const patience = 10 * time.Second

// policyState is a policy that was created.
type policyState struct {
	spec networkingv1.NetworkPolicySpec
}

// createPolicies creates policies in the first namespace.
func (d *Doctor) createPolicies(ctx context.Context, s *state, policies []*networkingv1.NetworkPolicy) error {
	for _, p := range policies {
		p.Labels[canary.Label] = d.namespace()
		if _, err := d.Clients.Networking.NetworkPolicies(p.Namespace).Create(ctx, p, metav1.CreateOptions{}); err != nil {
			if refused(err) {
				return obstacle(fmt.Sprintf("the cluster refuses the NetworkPolicy %s: %v", p.Name, err), "Leave the feature out with --features, or let admission accept it.")
			}
			return fmt.Errorf("creating policy %s: %w", p.Name, err)
		}
		s.policies[p.Name] = &policyState{p.Spec}
	}
	return nil
}

// createBlockPolicies creates the policies of ipBlock, which need the addresses of pods.
func (d *Doctor) createBlockPolicies(ctx context.Context, s *state) error {
	if !slices.Contains(d.Features, v1alpha1.FeatureIPBlock) {
		return nil
	}
	addrs := func(nodes []string) (out []netip.Addr) {
		for _, n := range nodes {
			if s.waiting[n] == "" {
				out = append(out, probepod.Addrs(s.pods[n][canary.Plain])[0])
			}
		}
		return out
	}
	var policies []*networkingv1.NetworkPolicy
	for _, node := range slices.Sorted(maps.Keys(s.ring)) {
		if s.waiting[node] == "" {
			policies = append(policies, canary.BlockPolicy(d.namespace(), node, addrs(s.sources[node]), addrs(s.ring[node])))
		}
	}
	return d.createPolicies(ctx, s, policies)
}

// checkPolicies tells whether the policies in the namespaces are those that were created,
// and no others: what is measured under others proves nothing.
func (d *Doctor) checkPolicies(ctx context.Context, s *state) error {
	seen := 0
	for _, ns := range d.namespaces() {
		list, err := d.Clients.Networking.NetworkPolicies(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("listing policies: %w", err)
		}
		for i := range list.Items {
			have := &list.Items[i]
			want := s.policies[have.Name]
			advice := "Exempt namespaces with the label " + Label + " from whatever writes policies here."
			switch {
			case want == nil || ns != d.namespace():
				return obstacle(fmt.Sprintf("something in the cluster has put a NetworkPolicy of its own, %s, into namespace %s, so that the results would not be those of the test's policies", have.Name, ns), advice)
			case !equality.Semantic.DeepEqual(have.Spec, want.spec):
				return obstacle(fmt.Sprintf("something in the cluster has changed the NetworkPolicy %s of the test", have.Name), advice)
			}
			seen++
		}
	}
	if seen != len(s.policies) {
		return obstacle("something in the cluster has deleted NetworkPolicies of the test")
	}
	return nil
}

// createPods creates the pods of all nodes. A node whose pod is refused does not take part.
func (d *Doctor) createPods(ctx context.Context, s *state) error {
	var mu sync.Mutex // guards s.waiting
	until := d.Clock.Now().Add(patience)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, node := range slices.Sorted(maps.Keys(s.ring)) {
		for _, role := range canary.Roles() {
			group.Go(func() error {
				err := d.createPod(ctx, role, node, until)
				if !refused(err) {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				s.waiting[node] = fmt.Sprintf("its pods are refused: %v", err)
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if len(s.waiting) == len(s.ring) {
		_, why := first(s.waiting)
		return obstacle("the cluster refuses the pods ("+why+")", "Let quota and admission accept the pods in namespaces with the label "+Label+": they meet the restricted Pod Security Standard, and request 10m CPU and 16 MiB for each container.")
	}
	return nil
}

func (d *Doctor) createPod(ctx context.Context, role canary.Role, node string, until time.Time) error {
	pod := canary.NewPod(d.settings(), role, node)
	pod.Name = podName(role, node)
	for {
		_, err := d.Clients.Core.Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
		switch {
		case err == nil, apierrors.IsAlreadyExists(err): // by a request whose answer was lost
			return nil
		case !d.Clock.Now().Before(until):
			return fmt.Errorf("creating pod %s: %w", pod.Name, err)
		}
		if end := d.sleep(ctx, poll); end != nil {
			return fmt.Errorf("creating pod %s: %w", pod.Name, err)
		}
	}
}

func podName(role canary.Role, node string) string {
	return string(role) + "-" + canary.NodeID(node)
}

// first returns the entry with the smallest key.
func first(m map[string]string) (key, value string) {
	key = slices.Min(slices.Collect(maps.Keys(m)))
	return key, m[key]
}

// listPods reads the pods of the nodes. One that is missing is nil.
func (d *Doctor) listPods(ctx context.Context, s *state) (canary.Pods, error) {
	there := map[string]*corev1.Pod{}
	for _, ns := range d.namespaces() {
		list, err := d.Clients.Core.Pods(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("listing pods: %w", err)
		}
		for i := range list.Items {
			there[list.Items[i].Name] = &list.Items[i]
		}
	}
	out := canary.Pods{}
	for node := range s.ring {
		out[node] = map[canary.Role]*corev1.Pod{}
		for _, role := range canary.Roles() {
			out[node][role] = there[podName(role, node)]
		}
	}
	return out, nil
}
