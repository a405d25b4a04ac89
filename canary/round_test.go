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

// Rounds and reports are kept of thousands of pods: neither may keep more than it needs.
func TestWhatIsKeptIsSmall(t *testing.T) {
	pods := podsOf("a")
	round := NewRound(Rows(everything()), pods, "a", []string{"a"}, wire.Plan{Version: wire.Version, TimeoutMilliseconds: 1000, Attempts: Attempts})
	for role, p := range round.Pods {
		if p.Pod == pods["a"][role] || p.Pod.UID != pods["a"][role].UID {
			t.Errorf("%s: the round has the pod itself, want a copy: it keeps the list that the pod is in", role)
		}
	}
	results := []wire.Result{
		{Outcomes: wire.Outcomes{wire.Replied, wire.TimedOut}, Detail: "words"}, {Outcomes: wire.Outcomes{wire.Refused}}, {},
	}
	got := NewReport(&wire.Report{ID: "plan-1", KubeletProbes: 3, Results: results})
	if got.KubeletProbes != 3 || len(got.Outcomes) != len(results) {
		t.Fatalf("got %+v of %+v", got, results)
	}
	got.Outcomes[0] = append(got.Outcomes[0], wire.ProbeError) // is in the way of no other
	for i, want := range []string{"RTE", "F", ""} {
		if text, _ := got.Outcomes[i].MarshalText(); string(text) != want {
			t.Errorf("check %d: got %q, want %q", i, text, want)
		}
	}
	if got := NewReport(&wire.Report{Error: "no plan", Results: results}); got.Outcomes != nil {
		t.Errorf("got %+v of a plan that could not be run", got)
	}
}
