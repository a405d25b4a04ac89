package alerts

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// every is the time between two scrapes, and between two evaluations.
const every = 15 * time.Second

// windows are the times in which an alert fires, as in 1m15s-4m. One that fires to the end
// has none.
type windows map[string]string

// watch returns when which alerts fire, until the end.
func watch(t *testing.T, load string, step, end time.Duration) windows {
	t.Helper()
	out, firing := windows{}, map[string]bool{}
	replay(t, load, step, end, func(at time.Duration, now []alert) {
		seen := map[string]bool{}
		for _, a := range now {
			seen[a.id()] = true
			if !firing[a.id()] {
				firing[a.id()] = true
				out[a.id()] = strings.TrimSpace(out[a.id()] + " " + at.String() + "-")
			}
		}
		for id := range firing {
			if !seen[id] {
				delete(firing, id)
				out[id] += at.String()
			}
		}
	})
	return out
}

// canaryOf are the series of a canary at an interval of 60 seconds. Nodes, and what is known
// of two features of them, are as in the notation of Prometheus.
func canaryOf(covered, unknown, roundAge string, notEnforced map[string]string, enforced string) [][2]string {
	out := [][2]string{
		{`pathproof_canary_interval_seconds`, "60x100"},
		{`pathproof_canary_nodes{state="Covered"}`, covered}, {`pathproof_canary_nodes{state="Unknown"}`, unknown}, {`pathproof_canary_nodes{state="Cordoned"}`, "50x100"},
		{`pathproof_canary_complete_round_age_seconds`, roundAge},
	}
	for _, f := range []string{"UDP", "Port"} {
		bad, ok := notEnforced[f]
		if !ok {
			bad = "0x100"
		}
		out = append(out, [2]string{fmt.Sprintf(`pathproof_canary_feature_nodes{feature=%q,verdict="NotEnforced"}`, f), bad},
			[2]string{fmt.Sprintf(`pathproof_canary_feature_nodes{feature=%q,verdict="Enforced"}`, f), enforced})
	}
	return out
}

// violation is a row of a node that is not enforced from a time on, for some scrapes.
func violation(node, feature string, from time.Duration, scrapes int) [][2]string {
	labels := fmt.Sprintf(`{node=%q,feature=%q,direction="Ingress"}`, node, feature)
	missing := ""
	if n := int(from / every); n > 0 {
		missing = fmt.Sprintf("_x%d ", n)
	}
	return [][2]string{
		{"pathproof_enforcement_violations" + labels, fmt.Sprintf("%s1x%d stale", missing, scrapes-1)},
		{"pathproof_enforcement_violation_seconds" + labels, fmt.Sprintf("%s0+15x%d stale", missing, scrapes-1)},
	}
}

// expectation are the series of one at an interval of 100 seconds.
func expectation(runAge, conclusiveAge string, ready ...[2]string) [][2]string {
	const labels = `namespace="shop",expectation="db"`
	out := [][2]string{
		{"pathproof_expectation_interval_seconds{" + labels + "}", "100x200"},
		{"pathproof_run_age_seconds{" + labels + "}", runAge}, {"pathproof_conclusive_run_age_seconds{" + labels + "}", conclusiveAge},
	}
	for _, r := range ready {
		status, reason, _ := strings.Cut(r[0], " ")
		out = append(out, [2]string{fmt.Sprintf("pathproof_expectation_ready{%s,status=%q,reason=%q}", labels, status, reason), r[1]})
	}
	return out
}

var active = [2]string{"pathproof_operator_active", "1x200"}

func all(lists ...[][2]string) [][2]string {
	out := [][2]string{active}
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// Everything that fires is listed, with when it does: what is not listed must not.
func TestRules(t *testing.T) {
	const node, wide = "PathproofNodeNotEnforcing node=node-1", "PathproofNotEnforcing"
	const coverage, incomplete = "PathproofCanaryCoverageLow", "PathproofCanaryIncomplete"
	const violated = "PathproofExpectationViolated expectation=db namespace=shop"
	const stale = "PathproofExpectationStale expectation=db namespace=shop"
	const inconclusive = "PathproofExpectationInconclusive expectation=db namespace=shop"
	const absent = "PathproofOperatorAbsent"
	future := "5x3 " + strings.Repeat("+Inf ", 20) + "5x80"
	// Of a broken expectation, by whatever it is broken.
	met, broken, unknown := "True AllPathsMet", "False EnforcementMissing", "Unknown NoPositiveControl"
	for name, tc := range map[string]struct {
		series [][2]string
		want   windows
	}{
		"all is well":                   {series: all(canaryOf("20x100", "0x100", "10x100", nil, "20x100"), expectation("50x100", "50x100", [2]string{met, "1x100"}))},
		"no canary, and no expectation": {series: all()},

		// The interval is 60 seconds, and 15 more: the row is 75 seconds old at 2m15s, and more at
		// 2m30s. It is mended at 5m.
		"one row of one node": {
			series: all(canaryOf("20x100", "0x100", "10x100", nil, "20x100"), violation("node-1", "UDP", time.Minute, 16)),
			want:   windows{node: "2m30s-7m0s"},
		},
		"a node for one round": {
			series: all(canaryOf("20x100", "0x100", "10x100", nil, "20x100"), violation("node-1", "UDP", time.Minute, 6)),
		},
		// Seen at 1m, 3m and 5m for a minute each: with the second time it is two minutes old. It
		// is seen for the last time at 5m45s.
		"a node in every other round": {
			series: all(canaryOf("20x100", "0x100", "10x100", nil, "20x100"), [][2]string{
				{`pathproof_enforcement_violation_seconds{node="node-1",feature="UDP",direction="Ingress"}`, "_x4 0+15x3 stale _x3 120+15x3 stale _x3 240+15x3 stale"},
			}),
			want: windows{node: "3m0s-8m0s"},
		},
		"two rows of a node make one alert": {
			series: all(canaryOf("20x100", "0x100", "10x100", nil, "20x100"), violation("node-1", "UDP", time.Minute, 16), violation("node-1", "Port", 0, 20)),
			want:   windows{node: "1m30s-7m0s"},
		},
		"a node of a thousand": {
			series: all(canaryOf("1000x100", "0x100", "10x100", map[string]string{"UDP": "1x100"}, "999x100"), violation("node-1", "UDP", time.Minute, 16)),
			want:   windows{node: "2m30s-7m0s"},
		},
		"the only node": {
			series: all(canaryOf("1x100", "0x100", "10x100", map[string]string{"UDP": "1x100"}, "0x100"), violation("node-1", "UDP", time.Minute, 16)),
			want:   windows{node: "2m30s-7m0s"},
		},
		"a tenth of the nodes are single nodes": {
			series: all(canaryOf("20x100", "0x100", "10x100", map[string]string{"UDP": "2x100"}, "18x100"), violation("node-1", "UDP", time.Minute, 16), violation("node-2", "UDP", time.Minute, 16)),
			want:   windows{node: "2m30s-7m0s", "PathproofNodeNotEnforcing node=node-2": "2m30s-7m0s"},
		},
		"more than a tenth are the cluster": {
			series: all(canaryOf("20x100", "0x100", "10x100", map[string]string{"UDP": "3x100"}, "17x100"), violation("node-1", "UDP", time.Minute, 16)),
			want:   windows{wide: "2m30s-7m0s"},
		},
		"the cluster for one round": {
			series: all(canaryOf("20x100", "0x100", "10x100", map[string]string{"UDP": "0x3 20x5 0x100", "Port": "0x3 20x5 0x100"}, "0x100"),
				violation("node-1", "UDP", time.Minute, 6), violation("node-1", "Port", time.Minute, 6)),
		},
		"all nodes, and every feature, make one alert": {
			series: all(canaryOf("1000x100", "0x100", "10x100", map[string]string{"UDP": "1000x100", "Port": "1000x100"}, "0x100"),
				violation("node-1", "UDP", 0, 20), violation("node-1", "Port", 0, 20), violation("node-2", "UDP", 0, 20)),
			want: windows{wide: "1m30s-7m0s"},
		},
		"what fails on a node alone is told beside what fails everywhere": {
			series: all(canaryOf("20x100", "0x100", "10x100", map[string]string{"UDP": "20x100", "Port": "1x100"}, "0x100"),
				violation("node-1", "UDP", 0, 20), violation("node-2", "UDP", 0, 20), violation("node-1", "Port", 0, 20)),
			want: windows{wide: "1m30s-7m0s", node: "1m30s-7m0s"},
		},
		"nodes are mended one after the other": {
			series: all(canaryOf("20x100", "0x100", "10x100", map[string]string{"UDP": "20x10 1x5 0x100"}, "0x100"),
				violation("node-1", "UDP", 0, 16), violation("node-2", "UDP", 0, 11)),
			want: windows{wide: "1m30s-4m45s"},
		},
		"one of all nodes stays broken": {
			series: all(canaryOf("20x100", "0x100", "10x100", map[string]string{"UDP": "20x10 1x100"}, "0x100"),
				violation("node-1", "UDP", 0, 24), violation("node-2", "UDP", 0, 11)),
			want: windows{wide: "1m30s-4m45s", node: "4m30s-8m0s"},
		},
		"a restart of the operator does not end the alert of a node": {
			series: [][2]string{
				{"pathproof_operator_active", "1x9 stale _x2 1x100"},
				{"pathproof_canary_interval_seconds", "60x9 stale _x2 60x100"},
				{`pathproof_enforcement_violation_seconds{node="node-1",feature="UDP",direction="Egress"}`, "0+15x9 stale _x2 195+15x10 stale"},
			},
			want: windows{node: "1m30s-8m0s"},
		},
		"two replicas, of which one stands by, and then the other": {
			series: [][2]string{
				{`pathproof_operator_active{pod="a"}`, "1x9 0x100"}, {`pathproof_operator_active{pod="b"}`, "0x9 1x100"},
				{`pathproof_canary_interval_seconds{pod="a"}`, "60x10"}, {`pathproof_canary_interval_seconds{pod="b"}`, "_x9 60x100"},
				{`pathproof_enforcement_violation_seconds{pod="a",node="node-1",feature="UDP",direction="Egress"}`, "0+15x10 stale"},
				{`pathproof_enforcement_violation_seconds{pod="b",node="node-1",feature="UDP",direction="Egress"}`, "_x9 135+15x10 stale"},
			},
			want: windows{node: "1m30s-7m0s"},
		},

		"19 of 20 nodes are known": {series: all(canaryOf("19x100", "1x100", "10x100", nil, "19x100"))},
		"18 of 19 nodes are known": {
			series: all(canaryOf("19x3 18x20 19x100", "0x3 1x20 0x100", "10x100", nil, "19x100")),
			want:   windows{coverage: "4m0s-6m15s"},
		},
		"a new node is not known for a while": {series: all(canaryOf("18x100", "0x3 1x11 0x100", "10x100", nil, "18x100"))},
		"no node is known": {
			series: all(canaryOf("0x100", "20x100", "10x100", nil, "0x100")),
			want:   windows{coverage: "3m0s-"},
		},
		"nothing is to be covered": {series: all(canaryOf("0x100", "0x100", "10x100", nil, "0x100"))},

		// 3 intervals are 180 seconds, exceeded at 195 seconds; 2 minutes later it fires.
		"no complete round": {
			series: all(canaryOf("100x100", "1x100", "0+15x40 5x60", nil, "100x100")),
			want:   windows{incomplete: "5m15s-10m15s"},
		},
		"a complete round in the last moment": {series: all(canaryOf("100x100", "1x100", "0+15x20 5x80", nil, "100x100"))},
		"a complete round after 3 intervals":  {series: all(canaryOf("100x100", "1x100", "180x100", nil, "100x100"))},

		"an expectation is violated": {
			series: all(expectation("50x100", "50x100", [2]string{met, "1x3 stale _x19 1x80"}, [2]string{broken, "_x4 1x19 stale"})),
			want:   windows{violated: "3m0s-7m45s"},
		},
		"an expectation is violated for less than a minute": {
			series: all(expectation("50x100", "50x100", [2]string{met, "1x3 stale _x3 1x80"}, [2]string{broken, "_x4 1x3 stale"})),
		},
		"a scrape fails now and then": {
			series: all(expectation("50x100", "50x100", [2]string{broken, "1x2 stale 1x2 stale 1x2 stale 1x2 stale 1x80"})),
			want:   windows{violated: "2m0s-"},
		},
		"it is violated for one reason, and then for another": {
			series: all(expectation("50x100", "50x100", [2]string{broken, "1x9 stale"}, [2]string{"False PolicyDrift", "_x10 1x9 stale"}, [2]string{met, "_x20 1x80"})),
			want:   windows{violated: "2m0s-6m45s"},
		},
		"a run that a change started is under way": {
			series: all(expectation("50x100", "50x100", [2]string{broken, "1x9 stale _x1 1x9 stale"}, [2]string{"Unknown Pending", "_x10 1 stale"}, [2]string{met, "_x22 1x80"})),
			want:   windows{violated: "2m0s-7m15s"},
		},

		// 3 intervals are 300 seconds, exceeded at 315 seconds; a minute later it fires.
		"an expectation is not probed": {
			series: all(expectation("0+15x30 5x70", "0+15x30 5x70", [2]string{met, "1x100"})),
			want:   windows{stale: "6m15s-7m45s"},
		},
		"an expectation was not probed for 3 intervals": {series: all(expectation("0+15x20 5x80", "5x100", [2]string{met, "1x100"}))},
		"its result is dated in the future": {
			series: all(expectation(future, future, [2]string{"Unknown Stale", "1x100"})),
			want:   windows{stale: "2m0s-6m0s"},
		},
		"a suspended one": {series: all(expectation("5x3 stale", "5x3 stale", [2]string{"Unknown Suspended", "1x100"}))},

		// 10 intervals are 1000 seconds, exceeded at 1005 seconds; a minute later it fires.
		"nothing is concluded": {
			series: all(expectation("5x200", "0+15x80 5x100", [2]string{unknown, "1x80 stale"}, [2]string{met, "_x81 1x100"})),
			want:   windows{inconclusive: "17m45s-20m15s"},
		},
		"nothing was concluded for 10 intervals": {series: all(expectation("5x200", "0+15x66 5x100", [2]string{unknown, "1x200"}))},
		"nothing is concluded of some paths, and others are violated": {
			series: all(expectation("5x200", "0+15x200", [2]string{broken, "1x200"})),
			want:   windows{violated: "2m0s-"},
		},
		"what is not probed is not told of twice": {
			series: all(expectation("0+15x200", "0+15x200", [2]string{"Unknown Stale", "1x200"})),
			want:   windows{stale: "6m15s-"},
		},

		"the operator is away": {
			series: [][2]string{{"pathproof_operator_active", "1x3 stale _x15 1x100"}},
			want:   windows{absent: "3m0s-5m0s"},
		},
		"the operator is restarted": {series: [][2]string{{"pathproof_operator_active", "1x3 stale _x6 1x100"}}},
		"all replicas stand by": {
			series: [][2]string{{`pathproof_operator_active{pod="a"}`, "1x3 0x96"}, {`pathproof_operator_active{pod="b"}`, "0x100"}},
			want:   windows{absent: "3m0s-"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			end := 12 * time.Minute
			if strings.Contains(name, "conclu") {
				end = 24 * time.Minute
			}
			got := watch(t, loading(every, tc.series), every, end)
			if tc.want == nil {
				tc.want = windows{}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("alerts that fire (-want +got):\n%s", diff)
			}
		})
	}
}

// Who is paged reads which node, which features, and which expectation.
func TestAlertsSayWhatIsWrong(t *testing.T) {
	series := all(canaryOf("20x100", "2x100", "0+15x100", map[string]string{"UDP": "20x100", "Port": "1x100"}, "0x100"),
		violation("node-1", "UDP", 0, 100), violation("node-2", "UDP", 0, 100), violation("node-1", "Port", 0, 100),
		expectation("0+15x100", "0+15x100", [2]string{"False PolicyDrift", "1x100"}))
	want := map[string]string{
		"PathproofNotEnforcing":                                      "1 features of NetworkPolicy are not enforced on many nodes, for two rounds of the canary: UDP on 100% of the nodes;  connections that policies deny get through there.",
		"PathproofNodeNotEnforcing node=node-1":                      "On node node-1, 1 rows of the canary are not enforced, for two rounds: Port Ingress; UDP Ingress;  most other nodes enforce them.",
		"PathproofCanaryCoverageLow":                                 "Of 2 nodes it is not known whether they enforce NetworkPolicies.",
		"PathproofCanaryIncomplete":                                  "For more than 3 intervals, there was no moment at which it was known of every node whether it enforces NetworkPolicies. Of 2 nodes it is not known now.",
		"PathproofExpectationViolated expectation=db namespace=shop": "A path that is declared is not as declared: PolicyDrift.",
		"PathproofExpectationStale expectation=db namespace=shop":    "Its last run ended 10m 0s ago, which is more than 3 intervals. Whatever its status says is old.",
	}
	got := map[string]string{}
	replay(t, loading(every, series), every, 10*time.Minute, func(at time.Duration, firing []alert) {
		if at != 10*time.Minute {
			return
		}
		for _, a := range firing {
			// The rows that a query finds are in no order.
			rows := strings.SplitAfter(a.annotations["description"], ": ")
			last := strings.Split(rows[len(rows)-1], "; ")
			slices.Sort(last[:len(last)-1])
			rows[len(rows)-1] = strings.Join(last, "; ")
			got[a.id()] = strings.Join(rows, "")
			for k, v := range a.annotations {
				if v == "" || strings.Contains(v, "<error") || strings.Contains(v, "no value") {
					t.Errorf("%s: %s is %q", a.id(), k, v)
				}
			}
		}
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("descriptions (-want +got):\n%s", diff)
	}
}
