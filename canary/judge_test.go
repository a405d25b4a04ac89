package canary

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/probe/wire"
)

func three(o wire.Outcome) wire.Outcomes { return wire.Outcomes{o, o, o} }

// measured is a pair on which the network does what it should, but for what change says.
func measured(rows []Row, change func(p Probe, allowed bool) wire.Outcome) Pair {
	o := Pair{From: "a", To: "b", Outcomes: map[Probe]wire.Outcomes{}, Unable: map[Probe]string{}, Listening: true, Awake: true}
	for _, role := range Roles() {
		for _, p := range Probes(rows, role) {
			allowed := Goal(rows, p) == wire.GoalOpen
			outcome := map[bool]wire.Outcome{true: wire.Replied, false: wire.TimedOut}[allowed]
			if change != nil {
				if c := change(p, allowed); c != 0 {
					outcome = c
				}
			}
			o.Outcomes[p] = three(outcome)
		}
	}
	return o
}

// verdicts are those of all rows that are not Enforced.
func verdicts(o Pair, rows []Row) map[Name]Verdict {
	out := map[Name]Verdict{}
	for _, r := range rows {
		if v := Judge(r, o).Verdict; v != Enforced {
			out[r.Name()] = v
		}
	}
	return out
}

func all(v Verdict, d v1alpha1.CanaryDirection, but ...v1alpha1.CanaryFeature) map[Name]Verdict {
	out := map[Name]Verdict{}
	for _, f := range everything() {
		if !slices.Contains(but, f) {
			out[Name{f, d}] = v
		}
	}
	return out
}

func both(v Verdict, features ...v1alpha1.CanaryFeature) map[Name]Verdict {
	out := map[Name]Verdict{}
	for _, f := range features {
		out[Name{f, v1alpha1.DirectionIngress}], out[Name{f, v1alpha1.DirectionEgress}] = v, v
	}
	return out
}

func union(a, b map[Name]Verdict) map[Name]Verdict { maps.Copy(a, b); return a }

// What a network does wrong shows in the rows that it should, and in no other.
func TestJudge(t *testing.T) {
	rows := Rows(everything())
	in, out := v1alpha1.DirectionIngress, v1alpha1.DirectionEgress
	guarded := func(p Probe) bool { return p.From == Guarded || p.To == Guarded }
	cases := map[string]struct {
		change func(p Probe, allowed bool) wire.Outcome
		want   map[Name]Verdict
	}{
		"all is well":      {nil, map[Name]Verdict{}},
		"denials are RSTs": {func(_ Probe, allowed bool) wire.Outcome { return map[bool]wire.Outcome{false: wire.Refused}[allowed] }, map[Name]Verdict{}},
		"denials are ICMP": {func(_ Probe, allowed bool) wire.Outcome { return map[bool]wire.Outcome{false: wire.Rejected}[allowed] }, map[Name]Verdict{}},
		"nothing enforces": {func(Probe, bool) wire.Outcome { return wire.Replied }, union(all(NotEnforced, in), all(NotEnforced, out))},
		"ingress is ignored": {func(p Probe, _ bool) wire.Outcome {
			return map[bool]wire.Outcome{true: wire.Replied}[p.To == Guarded]
		}, all(NotEnforced, in)},
		"egress is ignored": {func(p Probe, _ bool) wire.Outcome {
			return map[bool]wire.Outcome{true: wire.Replied}[p.From == Guarded]
		}, all(NotEnforced, out)},
		"UDP is ignored": {func(p Probe, _ bool) wire.Outcome {
			return map[bool]wire.Outcome{true: wire.Replied}[p.Transport == wire.UDP]
		}, both(NotEnforced, v1alpha1.FeatureUDP)},
		"SCTP is ignored": {func(p Probe, _ bool) wire.Outcome {
			return map[bool]wire.Outcome{true: wire.Replied}[p.Transport == wire.SCTP]
		}, both(NotEnforced, v1alpha1.FeatureSCTP)},
		"no SCTP": {func(p Probe, _ bool) wire.Outcome {
			return map[bool]wire.Outcome{true: wire.Unsupported}[p.Transport == wire.SCTP]
		}, both(Unsupported, v1alpha1.FeatureSCTP)},
		"IPv6 is ignored": {func(p Probe, _ bool) wire.Outcome {
			return map[bool]wire.Outcome{true: wire.Replied}[p.IPv6]
		}, both(NotEnforced, v1alpha1.FeatureIPv6)},
		"endPort is all above": {func(p Probe, _ bool) wire.Outcome {
			return map[bool]wire.Outcome{true: wire.Replied}[p.Port >= rangeFirst]
		}, both(NotEnforced, v1alpha1.FeatureEndPort)},
		"endPort is not known": {func(p Probe, _ bool) wire.Outcome {
			return map[bool]wire.Outcome{true: wire.TimedOut}[guarded(p) && p.Port == rangeLast]
		}, both(Unsupported, v1alpha1.FeatureEndPort)},
		"except is ignored": {func(p Probe, _ bool) wire.Outcome {
			return map[bool]wire.Outcome{true: wire.Replied}[p.Port == portBlock]
		}, both(NotEnforced, v1alpha1.FeatureIPBlock)},
		"ipBlock is not for pods": {func(p Probe, _ bool) wire.Outcome {
			return map[bool]wire.Outcome{true: wire.TimedOut}[guarded(p) && p.Port == portBlock]
		}, both(Unsupported, v1alpha1.FeatureIPBlock)},
		"what is allowed is blocked": {func(p Probe, _ bool) wire.Outcome {
			return map[bool]wire.Outcome{true: wire.TimedOut}[guarded(p)]
		}, union(all(NotEnforced, in, v1alpha1.FeatureDefaultDeny), all(NotEnforced, out, v1alpha1.FeatureDefaultDeny))},
		"somebody else answers": {func(_ Probe, allowed bool) wire.Outcome { return map[bool]wire.Outcome{false: wire.Connected}[allowed] }, union(all(Unknown, in), all(Unknown, out))},
		"nothing gets through":  {func(Probe, bool) wire.Outcome { return wire.TimedOut }, union(all(Unknown, in), all(Unknown, out))},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := verdicts(measured(rows, tc.change), rows); !maps.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// What the probe failed to do says nothing: two answers are enough beside it, and silence
// is not, nor are answers beside silence.
func TestAttemptsThatThePodFailedToMake(t *testing.T) {
	p := Probe{From: Plain, To: Guarded, Transport: wire.TCP, Port: portUnnamed}
	for letters, want := range map[string]reading{
		"RRR": answered, "RER": answered, "REE": unclear, "EEE": unclear, "RTR": unclear, "RRC": unclear,
		"TTT": silent, "TJF": silent, "TET": unclear, "": unclear,
	} {
		var outcomes wire.Outcomes
		if err := outcomes.UnmarshalText([]byte(letters)); err != nil {
			t.Fatal(err)
		}
		if got := (Pair{Outcomes: map[Probe]wire.Outcomes{p: outcomes}}).read(p); got != want {
			t.Errorf("%q is read as %d, want %d", letters, got, want)
		}
	}
}

// Without a listener that is known to be alive, a port that nobody may reach proves
// nothing; one that somebody reached does.
func TestJudgeAsksForTheListenerAndTheSource(t *testing.T) {
	rows := Rows(everything())
	o := measured(rows, nil)
	o.Listening = false
	want := map[Name]Verdict{}
	for _, f := range []v1alpha1.CanaryFeature{v1alpha1.FeatureDefaultDeny, v1alpha1.FeaturePort, v1alpha1.FeatureEndPort, v1alpha1.FeatureNamedPort} {
		want[Name{f, v1alpha1.DirectionIngress}] = Unknown
	}
	if got := verdicts(o, rows); !maps.Equal(got, want) {
		t.Errorf("without a listener: got %v, want %v", got, want)
	}
	o = measured(rows, nil)
	o.Awake = false
	if got, want := verdicts(o, rows), all(Unknown, v1alpha1.DirectionEgress); !maps.Equal(got, want) {
		t.Errorf("without a source: got %v, want %v", got, want)
	}
}

// Whatever is measured, a row is Enforced only beside all of its positive controls, and
// what did not get through is held against the network only beside its own.
func TestNoConclusionWithoutItsControl(t *testing.T) {
	rows := Rows(everything())
	outcomes := []wire.Outcome{wire.Replied, wire.TimedOut, wire.Refused, wire.Rejected, wire.Connected, wire.Unsupported, wire.ProbeError, wire.NoRoute}
	r := rand.New(rand.NewPCG(1, 2))
	counts := map[Verdict]int{}
	for range 5_000 {
		faults := r.IntN(12)
		o := measured(rows, func(Probe, bool) wire.Outcome {
			if r.IntN(100) < faults {
				return outcomes[r.IntN(len(outcomes))]
			}
			return 0
		})
		for p := range o.Outcomes {
			if r.IntN(20) == 0 {
				o.Outcomes[p][r.IntN(3)] = outcomes[r.IntN(len(outcomes))]
			}
		}
		o.Listening, o.Awake = r.IntN(4) > 0, r.IntN(4) > 0
		for _, row := range rows {
			res := Judge(row, o)
			counts[res.Verdict]++
			if err := justified(row, o, res); err != nil {
				t.Fatalf("%s %s is %s (%s): %v\n%v", row.Feature, row.Direction, res.Verdict, res.Message, err, o.Outcomes)
			}
		}
	}
	for _, v := range []Verdict{Enforced, NotEnforced, Unsupported, Unknown} {
		if counts[v] < 100 {
			t.Errorf("%s came up %d times only: the test tests nothing", v, counts[v])
		}
	}
}

// justified says again, in other words than Judge, what each verdict rests on.
func justified(r Row, o Pair, res Result) error {
	is := func(p Probe, want ...wire.Outcome) bool {
		return o.Outcomes[p].All(func(got wire.Outcome) bool { return slices.Contains(want, got) })
	}
	open := func(p Probe) bool {
		replies := 0
		for _, got := range o.Outcomes[p] {
			if got == wire.Replied {
				replies++
			}
		}
		return is(p, wire.Replied, wire.ProbeError) && replies > 1
	}
	shut := func(p Probe) bool { return is(p, wire.TimedOut, wire.Refused, wire.Rejected) }
	through := slices.ContainsFunc(r.Closed, open)
	switch res.Verdict {
	case Enforced:
		for _, p := range r.Closed {
			if !shut(p) || !open(Control(p)) {
				return fmt.Errorf("%v is not shut beside an open control", p)
			}
			if p.From == Guarded && !o.Awake {
				return fmt.Errorf("the source of %v may be deaf", p)
			}
		}
		for _, p := range append([]Probe{r.Base}, r.Open...) {
			if p != (Probe{}) && !open(p) {
				return fmt.Errorf("%v is not open", p)
			}
		}
	case NotEnforced:
		if through {
			return nil
		}
		if !slices.ContainsFunc(r.allowed(), func(p Probe) bool { return shut(p) && open(Control(p)) }) {
			return fmt.Errorf("nothing got through, and nothing is blocked beside an open control")
		}
	case Unsupported, Unknown:
		if through {
			return fmt.Errorf("something got through that no rule allows")
		}
	}
	return nil
}

func TestCombine(t *testing.T) {
	of := func(vs ...Verdict) (out []Result) {
		for _, v := range vs {
			out = append(out, Result{Verdict: v})
		}
		return out
	}
	cases := map[string]struct {
		within, across []Result
		want           Verdict
	}{
		"one node":                            {of(Enforced), nil, Enforced},
		"nothing of either kind":              {nil, nil, Unknown},
		"one kind is missing":                 {nil, of(Enforced), Unknown},
		"one neighbour is enough":             {of(Enforced), of(Unknown, Enforced), Enforced},
		"no neighbour is not":                 {of(Enforced), of(Unknown, Unknown), Unknown},
		"the node itself is needed, too":      {of(Unknown), of(Enforced, Enforced), Unknown},
		"one way is enough to be an offender": {of(Unknown), of(Unknown, NotEnforced), NotEnforced},
		"and so is the node itself":           {of(NotEnforced), of(Enforced), NotEnforced},
		"unsupported across":                  {of(Enforced), of(Unsupported, Unsupported), Unsupported},
		"unsupported with one neighbour":      {of(Enforced), of(Unsupported, Enforced), Enforced},
		"unsupported beside unknown":          {of(Unsupported), of(Unknown), Unknown},
	}
	for name, tc := range cases {
		if got := Combine(tc.within, tc.across).Verdict; got != tc.want {
			t.Errorf("%s: got %s, want %s", name, got, tc.want)
		}
	}
}

func TestWorse(t *testing.T) {
	for _, tc := range []struct{ a, b, want Verdict }{
		{Enforced, Unsupported, Unsupported}, {Unknown, Unsupported, Unknown}, {Unknown, NotEnforced, NotEnforced}, {Enforced, Enforced, Enforced},
	} {
		if Worse(tc.a, tc.b) != tc.want || Worse(tc.b, tc.a) != tc.want {
			t.Errorf("%s and %s: got %s, want %s", tc.a, tc.b, Worse(tc.a, tc.b), tc.want)
		}
	}
}
