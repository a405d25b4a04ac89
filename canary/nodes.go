package canary

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/pathproof/pathproof/flow"
)

// The reasons for which a node gets no pods, in the spelling of the API.
const (
	LeftOutCordoned = "Cordoned"
	LeftOutLeaving  = "Leaving"
	LeftOutNotReady = "NotReady"
	LeftOutTainted  = "Tainted"
	LeftOutVirtual  = "Virtual"
	LeftOutWindows  = "Windows"
)

// LeftOut returns the reason for which a node gets no pods of the canary, with what there
// is to say of it; an empty one if it gets some.
func LeftOut(n *corev1.Node, tolerations []corev1.Toleration) (reason, message string) {
	switch {
	case n.DeletionTimestamp != nil:
		return LeftOutLeaving, "the node is being deleted"
	case isVirtual(n):
		return LeftOutVirtual, "no network of the node's own lies behind its pods"
	case n.Labels[corev1.LabelOSStable] == "windows" || n.Status.NodeInfo.OperatingSystem == "windows":
		return LeftOutWindows, "there is no probe for Windows"
	case !isReady(n) || taintedNotReady(n):
		return LeftOutNotReady, "the node is not Ready"
	case n.Spec.Unschedulable:
		return LeftOutCordoned, "the node is cordoned"
	}
	for i := range n.Spec.Taints {
		taint := &n.Spec.Taints[i]
		if taint.Effect != corev1.TaintEffectPreferNoSchedule && !tolerated(taint, tolerations) {
			return LeftOutTainted, "spec.tolerations do not tolerate the taint " + taint.ToString()
		}
	}
	return "", ""
}

func tolerated(taint *corev1.Taint, tolerations []corev1.Toleration) bool {
	return slices.ContainsFunc(tolerations, func(t corev1.Toleration) bool { return t.ToleratesTaint(klog.Background(), taint, false) })
}

// isVirtual recognises nodes that stand for a service that runs pods elsewhere: those of
// Virtual Kubelet, by its label and its taint, and those of AWS Fargate.
func isVirtual(n *corev1.Node) bool {
	return n.Labels["type"] == "virtual-kubelet" || n.Labels["eks.amazonaws.com/compute-type"] == "fargate" ||
		slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == "virtual-kubelet.io/provider" })
}

func isReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// taintedNotReady recognises a node of which the node controller has not noticed yet that it
// is Ready again.
func taintedNotReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable
	})
}

// Ring returns the nodes that each node probes: itself, and the k that follow it in a
// ring of all. Their names alone decide the order, by a hash, so that a node that comes or
// goes changes what k others do, and neighbours are seldom of one kind. Of few nodes, each
// probes all.
func Ring(nodes []string, k int) map[string][]string {
	order := slices.Clone(nodes)
	place := make(map[string]string, len(nodes))
	for _, n := range nodes {
		place[n] = flow.ID("ring", n)
	}
	slices.SortFunc(order, func(a, b string) int { return strings.Compare(place[a]+a, place[b]+b) })
	out := make(map[string][]string, len(order))
	for i, n := range order {
		for d := range min(k+1, len(order)) {
			out[n] = append(out[n], order[(i+d)%len(order)])
		}
	}
	return out
}

// Sources returns, for each node of a ring, the nodes that probe it.
func Sources(ring map[string][]string) map[string][]string {
	out := make(map[string][]string, len(ring))
	for from, targets := range ring {
		for _, to := range targets {
			out[to] = append(out[to], from)
		}
	}
	for _, sources := range out {
		slices.Sort(sources)
	}
	return out
}

// NodeID names a node in labels and in names, which are shorter than names of nodes can
// be.
func NodeID(node string) string { return flow.ID("node", node) }
