package verdict

import (
	"strings"
	"testing"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/probe/wire"
)

// What looks the same from the denied source is told apart by what the controls met.
func TestSilenceIsToldApartByItsControls(t *testing.T) {
	silentControl := func(changes ...func(*Check)) Check {
		return with(with(control(), ended(wire.TimedOut, wire.TimedOut)), changes...)
	}
	deaf := func(c *Check) { c.SourceProbed = false }
	// alive is another check of the control's pod, which was answered.
	alive := with(control(), func(c *Check) { c.ID = "alive" }, toAddr(neighbour), toPort(80))
	for name, tc := range map[string]struct {
		checks []Check
		want   Cause
		words  string
	}{
		"no control": {
			[]Check{silentDeny()}, NoPositiveControl, "no other check of this run reached this address and port",
		},
		"the control's pod was answered elsewhere": {
			[]Check{silentDeny(), silentControl(), alive}, TargetSilent,
			"ns/{app=control} on node node-a got answers elsewhere and none here, although policies let it through: the target answers nobody, or nothing gets there (from node node-a to node node-b)",
		},
		"the same on one node": {
			[]Check{silentDeny(), silentControl(fromNode("node-b")), alive}, TargetSilent, "or nothing gets there",
		},
		"the control's pod was answered nowhere, but the kubelet reached it": {
			[]Check{silentDeny(), silentControl()}, NoPositiveControl, "the positive control, ns/{app=control} on node node-a, got no answer to any of its checks",
		},
		"the control's pod is deaf": {
			[]Check{silentDeny(), silentControl(deaf)}, NoPositiveControl, "heard nothing, not even the kubelet",
		},
		"the control was not made": {
			[]Check{silentDeny(), with(control(), hindered(ProbeRefused))}, NoPositiveControl, "ns/{app=control} on node node-a, could not be made: in words",
		},
		"the control was refused": {
			[]Check{silentDeny(), with(control(), ended(wire.TimedOut, wire.Refused)), alive}, TargetNotListening, "was refused at this port, although policies let it through",
		},
		"the control's datagram was rejected": {
			[]Check{with(silentDeny(), over(wire.UDP)), silentControl(over(wire.UDP), ended(wire.Rejected, wire.Rejected))}, TargetNotListening, "was refused at this port",
		},
		"the control was rejected by a filter": {
			[]Check{silentDeny(), silentControl(ended(wire.Rejected, wire.Rejected))}, NoPositiveControl, "got no answer to any of its checks",
		},
		"one of two controls is alive": {
			[]Check{silentDeny(), silentControl(named("a"), deaf), silentControl(), alive}, TargetSilent, "ns/{app=control}",
		},
		"an allowed path that stands alone": {
			[]Check{check("x", Allow, evaluator.Allowed, wire.TimedOut)}, NoPositiveControl, "no other check of this run reached",
		},
		"an allowed path whose pod was answered elsewhere": {
			[]Check{check("control", Allow, evaluator.Allowed, wire.TimedOut), alive}, TargetSilent, "ns/{app=control}",
		},
		"what policies deny is no control": {
			[]Check{silentDeny(), with(silentDeny(), named("y")), with(alive, func(c *Check) { c.Pod = "pod-y" })}, NoPositiveControl, "no other check of this run reached",
		},
		"the source is deaf, whatever the control met": {
			[]Check{with(silentDeny(), deaf), silentControl(), alive}, SourceCutOff, "its interface is up, but neither the kubelet",
		},
		"the source's interface is down": {
			[]Check{with(silentDeny(), func(c *Check) { c.SourceTrouble = "eth0 is down" }), control()}, SourceNetworkDown, "the probe could neither send nor hear: eth0 is down",
		},
		"the source's interface is down, and no packet was sent": {
			[]Check{with(silentDeny(), ended(wire.NoRoute, wire.NoRoute), func(c *Check) { c.SourceTrouble = "eth0 is down" }), control()}, SourceNetworkDown, "eth0 is down",
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := verdictOf(t, tc.checks...)
			if v.Observed != Inconclusive || v.Cause != tc.want || !strings.Contains(v.Evidence, tc.words) {
				t.Errorf("got %v %s: %s\nwant Inconclusive %s: %s", v.Observed, v.Cause, v.Evidence, tc.want, tc.words)
			}
			if msg := Message(v); !strings.Contains(msg, v.Evidence) {
				t.Errorf("the message %q lacks the evidence", msg)
			}
		})
	}
}
