package controllers

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/probe/wire"
)

// udpRow is the row that the rounds of these tests are about, as metrics name it.
const udpRow = `{direction="Egress",feature="UDP",node="node-1"}`

// expectViolation returns what checks whether the row is told of, and for how long.
func (f *fleet) expectViolation(t *testing.T) func(when string, seconds time.Duration, violated bool) {
	return func(when string, seconds time.Duration, violated bool) {
		t.Helper()
		series := gathered(t, f.r.metrics)
		age, ok := series["pathproof_enforcement_violation_seconds"+udpRow]
		if ok != violated || (series["pathproof_enforcement_violations"+udpRow] == 1) != violated {
			t.Fatalf("%s: the row is told of: %v, want %v", when, ok, violated)
		}
		if got := time.Duration(age * float64(time.Second)); violated && (got < seconds || got > seconds+10*time.Second) {
			t.Errorf("%s: it is told to be violated for %s, want %s", when, got, seconds)
		}
	}
}

// roundOfUDP returns what makes a round, in which the row is enforced or is not.
func (f *fleet) roundOfUDP(t *testing.T) func(wrong bool) {
	return func(wrong bool) {
		t.Helper()
		f.wrong = func(node string, c wire.Check) bool {
			return wrong && node == "node-1" && c.Transport == wire.UDP && f.fromGuarded(c)
		}
		f.clock.Step(time.Minute)
		f.report()
		f.settle()
	}
}

// A row that is not enforced in every other round is one violation, which gets older: an
// alert about two rounds has to see it.
func TestViolationsThatComeAndGoAreOne(t *testing.T) {
	f := newFleet(t, 3)
	f.settle()
	expect := f.expectViolation(t)
	round := f.roundOfUDP(t)
	round(false)
	round(true)
	expect("first seen", 0, true)
	round(false)
	expect("not there for a round", 0, false)
	round(true)
	expect("seen again", 2*time.Minute, true)
	round(false)
	round(false)
	expect("not there for two rounds", 0, false)
	round(true)
	expect("seen after two rounds", 5*time.Minute, true)
	if o := f.status().Offenders; len(o) == 0 || f.clock.Since(o[0].Since.Time).Round(time.Minute) != 5*time.Minute {
		t.Errorf("the status tells of %+v, want one of five minutes", o)
	}
	for range 3 {
		round(false)
	}
	round(true)
	expect("seen after a lull", 0, true)
}

// A row that is not enforced is told of until it is known to be, or its node has to enforce
// nothing any more; not merely until nothing is known.
func TestViolationsLastUntilTheyAreKnownToBeOver(t *testing.T) {
	f := newFleet(t, 3)
	f.settle()
	expect := f.expectViolation(t)
	round := f.roundOfUDP(t)
	round(false)
	expect("enforced", 0, false)
	round(true)
	expect("broken", 0, true)
	round(true)
	expect("still broken", time.Minute, true)

	f.clock.Step(4 * time.Minute)
	f.settle()
	if n := f.status().Nodes.Covered; n != 0 {
		t.Fatalf("%d nodes are covered by results of long ago", n)
	}
	expect("unknown", 5*time.Minute, true)
	f.restart()
	f.settle()
	round(false)
	expect("mended", 0, false)
	round(false)
	round(false)
	round(false)

	round(true)
	expect("broken again", 0, true)
	node := &corev1.Node{}
	if err := f.client.Get(t.Context(), client.ObjectKey{Name: "node-1"}, node); err != nil {
		t.Fatal(err)
	}
	node.Spec.Unschedulable = true
	if err := f.client.Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	f.settle()
	expect("cordoned", 0, false)
}
