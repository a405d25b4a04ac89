package evaluator

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/pathproof/pathproof/flow"
)

var tablePorts = []flow.Port{{Protocol: flow.TCP, Number: 80}, {Protocol: flow.UDP, Number: 81}, {Protocol: flow.TCP, Number: 82}}

// checkTable compares a table with single decisions.
func checkTable(t *rapid.T, s Snapshot, e *Engine, pods []flow.Endpoint, seen map[Verdict]int) {
	table := e.Table(pods, tablePorts)
	for from := range pods {
		for to := range pods {
			for port, p := range tablePorts {
				f := flow.Flow{From: pods[from], To: pods[to], Protocol: p.Protocol, Port: p.Number}
				want, got := e.Decide(f).Verdict, table.Verdict(from, to, port)
				if want != got {
					describe(t, s)
					t.Fatalf("%s: Decide says %s, the table %s", f, want, got)
				}
				seen[got]++
			}
		}
	}
	checkGroups(t, e, table, pods)
}

// checkGroups tests that pods of a group have the same verdicts.
func checkGroups(t *rapid.T, e *Engine, table *Table, pods []flow.Endpoint) {
	// An address can be that of a pod in the list, too.
	same := func(a, b int) bool {
		d := e.Decide(flow.Flow{From: pods[a], To: pods[b], Protocol: flow.TCP, Port: 80})
		return a == b || d.Ingress.Rule == ruleLoopback
	}
	first := map[int]int{}
	for i := range pods {
		group := table.Group(i)
		if group < 0 || group >= table.Groups() {
			t.Fatalf("pod %d is in group %d of %d", i, group, table.Groups())
		}
		twin, ok := first[group]
		if !ok {
			first[group] = i
			continue
		}
		for other := range pods {
			for port := range tablePorts {
				if same(other, i) || same(other, twin) {
					continue
				}
				if table.Verdict(i, other, port) != table.Verdict(twin, other, port) || table.Verdict(other, i, port) != table.Verdict(other, twin, port) {
					t.Fatalf("pods %d and %d are in group %d, but differ about pod %d", i, twin, group, other)
				}
			}
		}
	}
	if len(first) != table.Groups() {
		t.Fatalf("got %d groups, want %d", table.Groups(), len(first))
	}
}

func TestTableEqualsSingleDecisions(t *testing.T) {
	seen := map[Verdict]int{}
	rapid.Check(t, func(t *rapid.T) {
		s := drawCluster(t)
		if rapid.Bool().Draw(t, "onlyNetworkPolicies") {
			s.ClusterNetworkPolicies, s.AdminNetworkPolicies, s.BaselineAdminNetworkPolicies = nil, nil, nil
		}
		// Twins, pods with two addresses, pods without any, and a namespace that is
		// being deleted.
		for i := range rapid.IntRange(0, 3).Draw(t, "twins") {
			p := drawPod(t, 10+i)
			switch rapid.IntRange(0, 4).Draw(t, "addresses") {
			case 0:
				p.Status.PodIP, p.Status.PodIPs = "", nil
			case 1:
				p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: fmt.Sprintf("2001:db8::%d", i)})
			case 2:
				p.Status.PodIP, p.Status.PodIPs = fmt.Sprintf("2001:db8::%d", i), nil
			}
			s.Pods = append(s.Pods, p)
		}
		_, changed, deleted := drawChange(t, s, 0)
		e, _ := Compile(s)
		if rapid.IntRange(0, 3).Draw(t, "changed") == 0 {
			e, _ = e.With(changed, deleted)
		}
		var pods []flow.Endpoint
		for _, p := range s.Pods {
			pods = append(pods, flow.Endpoint{Namespace: p.Namespace, Pod: p.Name})
		}
		// An address, an identity and a pod that is named twice are no pods of their own.
		pods = append(pods, drawFlow(t, s).From)
		checkTable(t, s, e, pods, seen)
	})
	t.Logf("compared %v", seen)
	for _, v := range []Verdict{Allowed, Denied, Undefined} {
		if seen[v] == 0 {
			t.Errorf("the random clusters never led to %s", v)
		}
	}
}
