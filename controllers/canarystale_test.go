package controllers

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
)

// An operator that begins anew goes on with what its predecessor has written, as long as
// that would still count. Nothing green outlives the time in which nobody looked.
func TestWhatAPredecessorKnewGrowsOld(t *testing.T) {
	f := newFleet(t, 3)
	f.settle()
	f.report()
	f.settle()
	expect := func(when string, enforced, complete metav1.ConditionStatus) {
		t.Helper()
		st := f.status()
		for name, want := range map[string]metav1.ConditionStatus{v1alpha1.ConditionEnforced: enforced, v1alpha1.ConditionComplete: complete} {
			if c := meta.FindStatusCondition(st.Conditions, name); c == nil || c.Status != want {
				t.Errorf("%s: %s is %+v, want %s", when, name, c, want)
			}
		}
	}
	expect("measured", metav1.ConditionTrue, metav1.ConditionTrue)
	f.clock.Step(2 * time.Minute)
	f.restart()
	f.reconcile()
	expect("an operator that begins anew", metav1.ConditionTrue, metav1.ConditionTrue)
	f.clock.Step(30 * time.Second) // 2.5 intervals in all
	f.restart()
	f.reconcile()
	expect("one that begins anew too late", metav1.ConditionUnknown, metav1.ConditionFalse)
	f.report()
	f.settle()
	expect("its first round", metav1.ConditionTrue, metav1.ConditionTrue)
}
