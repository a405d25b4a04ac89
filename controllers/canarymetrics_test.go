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

// expectUDP checks whether the row is told of, and for how long.
func (f *fleet) expectUDP(when string, seconds time.Duration, violated bool) {
	f.t.Helper()
	series := gathered(f.t, f.r.metrics)
	age, ok := series["pathproof_enforcement_violation_seconds"+udpRow]
	if ok != violated || (series["pathproof_enforcement_violations"+udpRow] == 1) != violated {
		f.t.Fatalf("%s: the row is told of: %v, want %v", when, ok, violated)
	}
	if got := time.Duration(age * float64(time.Second)); violated && (got < seconds || got > seconds+10*time.Second) {
		f.t.Errorf("%s: it is told to be violated for %s, want %s", when, got, seconds)
	}
}

// roundOfUDP makes a round, in which the row is enforced or is not.
func (f *fleet) roundOfUDP(wrong bool) {
	f.t.Helper()
	f.wrong = func(node string, c wire.Check) bool {
		return wrong && node == "node-1" && c.Transport == wire.UDP && f.fromGuarded(c)
	}
	f.clock.Step(time.Minute)
	f.report()
	f.settle()
}

// A row that is not enforced in every other round is one violation, which gets older: an
// alert about two rounds has to see it.
func TestViolationsThatComeAndGoAreOne(t *testing.T) {
	f := newFleet(t, 3)
	f.settle()
	f.roundOfUDP(false)
	f.roundOfUDP(true)
	f.expectUDP("first seen", 0, true)
	f.roundOfUDP(false)
	f.expectUDP("not there for a round", 0, false)
	f.roundOfUDP(true)
	f.expectUDP("seen again", 2*time.Minute, true)
	f.roundOfUDP(false)
	f.roundOfUDP(false)
	f.expectUDP("not there for two rounds", 0, false)
	f.roundOfUDP(true)
	f.expectUDP("seen after two rounds", 5*time.Minute, true)
	if o := f.status().Offenders; len(o) == 0 || f.clock.Since(o[0].Since.Time).Round(time.Minute) != 5*time.Minute {
		t.Errorf("the status tells of %+v, want one of five minutes", o)
	}
	for range 3 {
		f.roundOfUDP(false)
	}
	f.roundOfUDP(true)
	f.expectUDP("seen after a lull", 0, true)
}

// A row that is not enforced is told of until it is known to be, or its node has to enforce
// nothing any more; not merely until nothing is known.
func TestViolationsLastUntilTheyAreKnownToBeOver(t *testing.T) {
	f := newFleet(t, 3)
	f.settle()
	f.roundOfUDP(false)
	f.expectUDP("enforced", 0, false)
	f.roundOfUDP(true)
	f.expectUDP("broken", 0, true)
	f.roundOfUDP(true)
	f.expectUDP("still broken", time.Minute, true)

	f.clock.Step(4 * time.Minute)
	f.settle()
	if n := f.status().Nodes.Covered; n != 0 {
		t.Fatalf("%d nodes are covered by results of long ago", n)
	}
	f.expectUDP("unknown", 5*time.Minute, true)
	f.restart()
	f.settle()
	f.roundOfUDP(false)
	f.expectUDP("mended", 0, false)
	f.roundOfUDP(false)
	f.roundOfUDP(false)
	f.roundOfUDP(false)

	f.roundOfUDP(true)
	f.expectUDP("broken again", 0, true)
	node := &corev1.Node{}
	if err := f.client.Get(t.Context(), client.ObjectKey{Name: "node-1"}, node); err != nil {
		t.Fatal(err)
	}
	node.Spec.Unschedulable = true
	if err := f.client.Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	f.settle()
	f.expectUDP("cordoned", 0, false)
}
