package canary

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

func TestWays(t *testing.T) {
	tcp, udp, sctp, tcp6 := Way{Protocol: flow.TCP}, Way{Protocol: flow.UDP}, Way{Protocol: flow.SCTP}, Way{IPv6: true, Protocol: flow.TCP}
	carried := map[Way]Carriage{tcp: Carried, udp: Carried, sctp: Carried, tcp6: Carried}
	but := func(changed map[Way]Carriage) map[Way]Carriage {
		out := maps.Clone(carried)
		maps.Copy(out, changed)
		return out
	}
	free := func(p Probe) bool { return p.From != Guarded && p.To != Guarded }
	for name, tc := range map[string]struct {
		change func(p Probe, allowed bool) wire.Outcome
		want   map[Way]Carriage
	}{
		"all is well": {nil, carried},
		"the guarded pods reach nothing, and nothing reaches them": {
			func(p Probe, _ bool) wire.Outcome { return map[bool]wire.Outcome{false: wire.TimedOut}[free(p)] }, carried,
		},
		"only what a policy selects gets through": {
			func(p Probe, _ bool) wire.Outcome {
				return map[bool]wire.Outcome{true: wire.TimedOut, false: wire.Replied}[free(p)]
			},
			map[Way]Carriage{tcp: Broken, udp: Broken, sctp: Broken, tcp6: Broken},
		},
		"IPv6 is cut": {
			func(p Probe, _ bool) wire.Outcome { return map[bool]wire.Outcome{true: wire.TimedOut}[p.IPv6] }, but(map[Way]Carriage{tcp6: Broken}),
		},
		"UDP is rejected on the way": {
			func(p Probe, _ bool) wire.Outcome {
				return map[bool]wire.Outcome{true: wire.Rejected}[p.Transport == wire.UDP]
			}, but(map[Way]Carriage{udp: Broken}),
		},
		"one pod of the three is silent": {
			func(p Probe, _ bool) wire.Outcome {
				return map[bool]wire.Outcome{true: wire.TimedOut}[p.To == Abroad]
			}, but(map[Way]Carriage{tcp: CarriageUnclear}),
		},
		"nothing listens": {
			func(Probe, bool) wire.Outcome { return wire.Refused },
			map[Way]Carriage{tcp: CarriageUnclear, udp: CarriageUnclear, sctp: CarriageUnclear, tcp6: CarriageUnclear},
		},
		"somebody else answers": {
			func(p Probe, _ bool) wire.Outcome {
				return map[bool]wire.Outcome{true: wire.Connected}[p.Transport == wire.SCTP]
			}, but(map[Way]Carriage{sctp: CarriageUnclear}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, measured(Rows(Features()), tc.change).Ways()); diff != "" {
				t.Errorf("ways (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("one attempt of a probe that is silent", func(t *testing.T) {
		o := measured(Rows(Features()), nil)
		for p := range o.Outcomes {
			if free(p) && p.Transport == wire.UDP {
				o.Outcomes[p] = wire.Outcomes{wire.Replied, wire.TimedOut, wire.Replied}
			}
		}
		if got := o.Ways()[udp]; got != CarriageUnclear {
			t.Errorf("got %v", got)
		}
	})
	t.Run("the first address is an IPv6 one", func(t *testing.T) {
		o := measured(Rows([]v1alpha1.CanaryFeature{v1alpha1.FeatureUDP}), nil)
		o.FirstIPv6 = true
		if diff := cmp.Diff(map[Way]Carriage{{IPv6: true, Protocol: flow.UDP}: Carried}, o.Ways()); diff != "" {
			t.Errorf("ways (-want +got):\n%s", diff)
		}
	})
	t.Run("every feature has a way", func(t *testing.T) {
		for _, f := range Features() {
			if got := measured(Rows([]v1alpha1.CanaryFeature{f}), nil).Ways(); len(got) == 0 {
				t.Errorf("%s alone: no way is known", f)
			}
		}
	})
	if got := (Pair{}).Ways(); len(got) != 0 {
		t.Errorf("got %v of a pair about which nothing is known", got)
	}
}
