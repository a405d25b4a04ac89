package explain

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
)

// An address is that of a pod by any of its addresses, while it runs.
func TestPodOfAnAddress(t *testing.T) {
	pod := func(name string, phase corev1.PodPhase, hostNetwork bool, ips ...string) *corev1.Pod {
		p := &corev1.Pod{}
		p.Name, p.Spec.HostNetwork, p.Status.Phase, p.Status.PodIP = name, hostNetwork, phase, ips[0]
		for _, ip := range ips {
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
		}
		return p
	}
	x := &explainer{snapshot: evaluator.Snapshot{Pods: []*corev1.Pod{
		pod("ended", corev1.PodSucceeded, false, "10.0.0.1"),
		pod("dual", corev1.PodRunning, false, "10.0.0.1", "fd00::1"),
		pod("agent", corev1.PodRunning, true, "10.9.0.1", "fd09::1"),
	}}}
	for addr, want := range map[string]string{"10.0.0.1": "dual", "fd00::1": "dual", "FD00:0::1": "dual", "10.9.0.1": "", "10.0.0.2": ""} {
		got := ""
		if p := x.pod(flow.Endpoint{Addr: netip.MustParseAddr(addr)}); p != nil {
			got = p.Name
		}
		if got != want {
			t.Errorf("%s is that of %q, want %q", addr, got, want)
		}
	}
}
