package canary

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/probepod"
)

// podsOf are the pods of nodes, each with an address of both families.
func podsOf(nodes ...string) Pods {
	out := Pods{}
	for i, node := range nodes {
		out[node] = map[Role]*corev1.Pod{}
		for j, role := range Roles() {
			pod := NewPod(PodSettings{Name: "c", Namespace: "c", Features: everything(), Image: probepod.Image{Name: "probe"}}, role, node)
			pod.UID, pod.Spec.NodeName = types.UID(node+"-"+string(role)), node
			n := string(rune('1' + 4*i + j))
			pod.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0." + n}, {IP: "fd00::" + n}}
			out[node][role] = pod
		}
	}
	return out
}

// Without an IPv6 address, or without SCTP in the kernel, what needs it is not checked,
// and the reason is kept.
func TestRoundLeavesOutWhatCannotBe(t *testing.T) {
	pods := podsOf("a", "b")
	for _, pod := range pods["b"] {
		pod.Status.PodIPs = pod.Status.PodIPs[:1]
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "sctp", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3}}}}
	}
	round := NewRound(Rows(everything()), pods, "a", []string{"a", "b"}, wire.Plan{Version: wire.Version, TimeoutMilliseconds: 1000, Attempts: Attempts})
	if len(round.Pods) != len(Roles()) {
		t.Errorf("%d pods have plans", len(round.Pods))
	}
	for role, p := range round.Pods {
		if err := p.Plan.Validate(); err != nil {
			t.Errorf("%s: %v", role, err)
		}
		for i, c := range p.checks {
			if c.to == "b" && (c.IPv6 || c.Transport == wire.SCTP) {
				t.Errorf("%s checks %+v", role, c)
			}
			if p.Plan.Checks[i].Addr.Is6() != c.IPv6 {
				t.Errorf("%s checks %+v at %s", role, c, p.Plan.Checks[i].Addr)
			}
		}
	}
	for p, why := range round.unable["b"] {
		if !strings.Contains(why, "node b") || (!p.IPv6 && p.Transport != wire.SCTP) {
			t.Errorf("%+v cannot be checked: %s", p, why)
		}
	}
	if len(round.unable["b"]) == 0 || len(round.unable["a"]) != 0 {
		t.Errorf("got %d and %d checks that cannot be made, want those to b", len(round.unable["a"]), len(round.unable["b"]))
	}
}
