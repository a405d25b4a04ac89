package diff

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"pgregory.net/rapid"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
)

// drawPods draws pods of few workloads, whose names are the same on both sides.
func drawPods(t *rapid.T, side string) []*corev1.Pod {
	var out []*corev1.Pod
	for _, w := range []string{"a", "b", "c"} {
		for i := range map[string]int{"a": 1, "b": 2, "c": 3}[w] {
			name := fmt.Sprintf("%s-%d", w, i)
			port := corev1.ContainerPort{Name: "http", ContainerPort: rapid.Int32Range(1, 4).Draw(t, side+name+" port")}
			out = append(out, pod(w, name, app(rapid.SampledFrom([]string{"x", "y"}).Draw(t, side+name+" label")), port))
		}
	}
	return out
}

func drawPolicies(t *rapid.T, side string) []*networkingv1.NetworkPolicy {
	selector := rapid.SampledFrom([]string{`{}`, `{matchLabels: {app: x}}`, `{matchLabels: {app: y}}`})
	peer := rapid.SampledFrom([]string{
		`podSelector: {}`, `podSelector: {matchLabels: {app: x}}`, `podSelector: {matchLabels: {app: y}}`,
		`ipBlock: {cidr: 0.0.0.0/0}`, `ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}`, `ipBlock: {cidr: 10.1.0.0/16}`,
	})
	ports := rapid.SampledFrom([]string{`[]`, `[{port: 2}]`, `[{port: 2, endPort: 3}]`, `[{port: http}]`, `[{protocol: UDP}]`, `[{port: 65535}, {port: 4}]`})
	var out []*networkingv1.NetworkPolicy
	for i := range rapid.IntRange(0, 3).Draw(t, side+"policies") {
		name := fmt.Sprintf("%s%d", side, i)
		rule := fmt.Sprintf("ports: %s", ports.Draw(t, name+" ports"))
		direction, peers := "ingress", "from"
		if rapid.Bool().Draw(t, name+" egress") {
			direction, peers = "egress", "to"
		}
		rule = fmt.Sprintf("{%s: [{%s}], %s}", peers, peer.Draw(t, name+" peer"), rule)
		types := map[string]string{"ingress": "Ingress", "egress": "Egress"}[direction]
		p := policy(t, fmt.Sprintf("{podSelector: %s, policyTypes: [%s], %s: [%s]}", selector.Draw(t, name+" pods"), types, direction, rule))
		p.Name = name
		out = append(out, p)
	}
	return out
}

func drawState(t *rapid.T, side string) state {
	s := state{pods: drawPods(t, side), policies: drawPolicies(t, side)}
	if rapid.IntRange(0, 9).Draw(t, side+"clouded") == 0 {
		s.clouded = []evaluator.Unmodelled{{Kind: "X.y", Namespace: "ns", Name: "x"}}
	}
	return s
}

// The rows say of every port of every pair of pods, and of pods and addresses, what
// the evaluator says of it on both sides, and nothing else.
func TestRowsAgreeWithTheEvaluator(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, o := drawState(t, "before"), drawState(t, "after")
		before, after := s.side(t), o.side(t)
		r := Compare(before, after, workload)
		want := map[path]map[Change]int{}
		note := func(from, to string, ends flow.Flow) {
			for _, p := range askedPorts() {
				ends.Protocol, ends.Port = p.Protocol, p.Number
				if change := changeOf(before.Engine.Decide(ends).Verdict, after.Engine.Decide(ends).Verdict); change != "" {
					k := path{from, to, p}
					if want[k] == nil {
						want[k] = map[Change]int{}
					}
					want[k][change]++
				}
			}
		}
		for _, from := range s.pods {
			end, name := flow.Endpoint{Namespace: "ns", Pod: from.Name}, "ns/"+workload(from).Name
			for _, to := range s.pods {
				if from.Name != to.Name {
					note(name, "ns/"+workload(to).Name, flow.Flow{From: end, To: flow.Endpoint{Namespace: "ns", Pod: to.Name}})
				}
			}
			for region, address := range outsiders(&before.Snapshot, &after.Snapshot) {
				note(name, region, flow.Flow{From: end, To: address})
				note(region, name, flow.Flow{From: address, To: end})
			}
		}
		got := map[path]map[Change]int{}
		for _, row := range r.Rows {
			if within := row.From == row.To; within && row.To == "ns/a" {
				continue // one pod, of which others are assumed
			}
			for _, p := range askedPorts() {
				for _, in := range row.ranges {
					if in.Contains(p.Protocol, p.Number) {
						k := path{row.From, row.To, p}
						if got[k] == nil {
							got[k] = map[Change]int{}
						}
						got[k][row.Change] += row.Pairs
					}
				}
			}
		}
		if fmt.Sprint(want) != fmt.Sprint(got) {
			t.Fatalf("want %v\ngot  %v", want, got)
		}
	})
}

// path is a port from one workload or region to another.
type path struct {
	from, to string
	port     flow.Port
}

// outsiders are addresses, one for each region, which are not those that Compare asks.
func outsiders(sides ...*evaluator.Snapshot) map[string]flow.Endpoint {
	out := map[string]flow.Endpoint{}
	for _, r := range regions(sides...) {
		for _, text := range []string{"203.0.113.9", "10.0.7.7", "10.1.7.7"} {
			a := netip.MustParseAddr(text)
			if r.prefix.Contains(a) && !slices.ContainsFunc(r.inside, func(p netip.Prefix) bool { return p.Contains(a) }) {
				out[r.String()] = flow.Endpoint{Addr: a}
				break
			}
		}
	}
	return out
}

// askedPorts are all that policies of the test speak of, their neighbours and some
// that none speaks of.
func askedPorts() []flow.Port {
	var out []flow.Port
	for _, protocol := range protocols {
		for _, n := range []uint16{1, 2, 3, 4, 5, 1000, 65534, 65535} {
			out = append(out, flow.Port{Protocol: protocol, Number: n})
		}
	}
	return out
}

// A state differs in nothing from itself, and what one direction opens the other one
// closes.
func TestDiffIsSymmetric(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, after := drawState(t, "before").side(t), drawState(t, "after").side(t)
		if r := Compare(before, before, workload); len(r.Rows) > 0 || r.ExitCode() != 0 {
			t.Fatalf("a state differs from itself: %+v", r.Rows)
		}
		there, back := Compare(before, after, workload), Compare(after, before, workload)
		for change, opposite := range map[Change]Change{Opened: Closed, Closed: Opened, Clouded: Settled, Settled: Clouded} {
			if there.Count(change) != back.Count(opposite) {
				t.Fatalf("%d %s there, %d %s back", there.Count(change), change, back.Count(opposite), opposite)
			}
		}
	})
}
