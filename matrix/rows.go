package matrix

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
)

// group makes the rows: pods of one workload that are asked about the same ports,
// and that no verdict tells apart.
func (m *Matrix) group(pods []Pod, ports []flow.Port, asked [][]int, own bool) {
	first := 0 // row of the workload
	for i, p := range pods {
		if i > 0 && !sameWorkload(&p, &pods[i-1]) {
			first = len(m.Rows)
		}
		at := slices.IndexFunc(m.Rows[first:], func(r Row) bool {
			return slices.Equal(r.asked, asked[i]) && m.alike(r.members[0], i, asked)
		})
		if at >= 0 {
			r := &m.Rows[first+at]
			r.Pods, r.members = append(r.Pods, p.Name), append(r.members, i)
			continue
		}
		r := Row{Namespace: p.Namespace, Kind: p.Kind, Workload: p.Workload, Pods: []string{p.Name}, address: p.Status.PodIP, members: []int{i}, asked: asked[i]}
		for _, n := range asked[i] {
			r.Ports = append(r.Ports, ports[n])
		}
		r.Assumed = own && len(declaredPorts(&p.Spec)) == 0
		m.Rows = append(m.Rows, r)
	}
	for i := range m.Rows {
		r := &m.Rows[i]
		if p := pods[r.members[0]]; !m.split(i) && len(r.members) == 1 && p.Kind != KindPod && !p.Spec.HostNetwork {
			m.addTwin(r, p.Labels)
		}
	}
	nameRows(m.Rows)
}

func sameWorkload(a, b *Pod) bool {
	return a.Namespace == b.Namespace && a.Kind == b.Kind && a.Workload == b.Workload
}

// alike tells whether no verdict tells two pods apart that are asked about the same
// ports. The verdicts of each to itself do not count. Being alike is transitive, so
// that one pod speaks for its row.
func (m *Matrix) alike(a, b int, asked [][]int) bool {
	if m.table.Group(a) == m.table.Group(b) {
		return true
	}
	t := m.table
	for _, p := range asked[a] {
		if t.Verdict(a, b, p) != t.Verdict(b, a, p) {
			return false
		}
	}
	for x := range m.ends {
		if x == a || x == b {
			continue
		}
		for _, p := range asked[x] {
			if t.Verdict(a, x, p) != t.Verdict(b, x, p) {
				return false
			}
		}
		for _, p := range asked[a] {
			if t.Verdict(x, a, p) != t.Verdict(x, b, p) {
				return false
			}
		}
	}
	return true
}

// split tells whether the workload of a row has other rows.
func (m *Matrix) split(i int) bool {
	same := func(k int) bool {
		return k >= 0 && k < len(m.Rows) && m.Rows[k].Namespace == m.Rows[i].Namespace &&
			m.Rows[k].Kind == m.Rows[i].Kind && m.Rows[k].Workload == m.Rows[i].Workload
	}
	return same(i-1) || same(i+1)
}

// addTwin gives the only pod of a workload the second one that the workload may
// have: an identity with the same labels, at the same address since no other is
// known. (Processes on the host network have no identity of their own.)
func (m *Matrix) addTwin(r *Row, labels map[string]string) {
	r.twin = &flow.Endpoint{Namespace: r.Namespace, Labels: nextLabels(labels)}
	if a, err := netip.ParseAddr(r.address); err == nil {
		r.twin.Addr = a
	}
	to := m.ends[r.members[0]]
	r.own = make([]evaluator.Verdict, len(r.Ports))
	for i, port := range r.Ports {
		r.own[i] = m.engine.Decide(flow.Flow{From: *r.twin, To: to, Protocol: port.Protocol, Port: port.Number}).Verdict
	}
}

// nextLabels are the labels of the pod that follows: in a StatefulSet they number
// the pods.
func nextLabels(labels map[string]string) map[string]string {
	index, err := strconv.Atoi(labels[appsv1.PodIndexLabel])
	name, numbered := strings.CutSuffix(labels[appsv1.StatefulSetPodNameLabel], "-"+labels[appsv1.PodIndexLabel])
	if err != nil || !numbered {
		return labels
	}
	next := maps.Clone(labels)
	next[appsv1.PodIndexLabel] = strconv.Itoa(index + 1)
	next[appsv1.StatefulSetPodNameLabel] = name + "-" + next[appsv1.PodIndexLabel]
	return next
}

// nameRows gives each row a name that no other row of its namespace has: that of
// its workload, with the kind where two kinds share it, and with pods where they
// are told apart.
func nameRows(rows []Row) {
	type key struct{ namespace, name string }
	count := func(name func(*Row) string) map[key]int {
		n := map[key]int{}
		for i := range rows {
			n[key{rows[i].Namespace, name(&rows[i])}]++
		}
		return n
	}
	kinds := map[key]map[string]bool{}
	for _, r := range rows {
		k := key{r.Namespace, r.Workload}
		if kinds[k] == nil {
			kinds[k] = map[string]bool{}
		}
		kinds[k][r.Kind] = true
	}
	for i := range rows {
		r := &rows[i]
		r.Name = r.Workload
		if len(kinds[key{r.Namespace, r.Workload}]) > 1 {
			r.Name = strings.ToLower(r.Kind) + "/" + r.Workload
		}
	}
	names := count(func(r *Row) string { return r.Name })
	for i := range rows {
		r := &rows[i]
		if names[key{r.Namespace, r.Name}] == 1 {
			continue
		}
		r.Name += ": " + r.Pods[0]
		if more := len(r.Pods) - 1; more > 0 {
			r.Name += fmt.Sprintf(" and %d more", more)
		}
	}
}

// label is the name of a row with the number of its pods, if there are several.
func (r *Row) label() string {
	if len(r.Pods) == 1 || strings.Contains(r.Name, ": ") {
		return r.Name
	}
	return fmt.Sprintf("%s (%d pods)", r.Name, len(r.Pods))
}

// span is a run of rows of one namespace.
type span struct {
	namespace   string
	first, last int
}

// namespaces returns the runs of rows.
func (m *Matrix) namespaces() []span {
	var out []span
	for i := range m.Rows {
		if i == 0 || m.Rows[i].Namespace != m.Rows[i-1].Namespace {
			out = append(out, span{namespace: m.Rows[i].Namespace, first: i})
		}
		out[len(out)-1].last = i
	}
	return out
}
