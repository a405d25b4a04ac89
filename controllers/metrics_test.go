package controllers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	testclock "k8s.io/utils/clock/testing"
)

// What alerts on old results fires, too, when nobody can tell how old one is.
func TestAgeOfAConclusiveRun(t *testing.T) {
	for now, want := range map[time.Duration]string{time.Minute: "60", 0: "0", -time.Second: "+Inf"} {
		m := NewMetrics(testclock.NewFakePassiveClock(epoch.Add(now)))
		m.Conclusive(types.NamespacedName{Namespace: "ns", Name: "x"}, &metav1.Time{Time: epoch})
		text := fmt.Sprintf(`# HELP pathproof_conclusive_run_age_seconds Time since the last run in which every check was observed as open or blocked; infinite if that is dated in the future.
# TYPE pathproof_conclusive_run_age_seconds gauge
pathproof_conclusive_run_age_seconds{expectation="x",namespace="ns"} %s
`, want)
		if err := testutil.CollectAndCompare(m, strings.NewReader(text), "pathproof_conclusive_run_age_seconds"); err != nil {
			t.Errorf("%s after the run: %v", now, err)
		}
	}
}
