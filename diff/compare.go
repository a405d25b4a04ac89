package diff

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/explain"
	"github.com/pathproof/pathproof/flow"
)

// side is one state, with its answers.
type side struct {
	pods   []*corev1.Pod
	ends   []flow.Endpoint
	table  *evaluator.Table
	engine *evaluator.Engine
	ports  []flow.Port
}

func newSide(s Side, classes []portClass) *side {
	out := &side{engine: s.Engine}
	for _, p := range s.Snapshot.Pods {
		// The address of a pod that has ended is another's by now.
		if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			out.pods = append(out.pods, p)
		}
	}
	slices.SortFunc(out.pods, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, p := range out.pods {
		out.ends = append(out.ends, flow.Endpoint{Namespace: p.Namespace, Pod: p.Name})
	}
	for i := range classes {
		out.ports = append(out.ports, classes[i].sample())
	}
	out.table = s.Engine.Table(out.ends, out.ports)
	return out
}

// verdict answers between two pods. Of one pod to itself, nothing is ever denied:
// what is meant is another pod just like it.
func (s *side) verdict(from, to, port int) evaluator.Verdict {
	if from == to {
		return s.decide(from, to, port).Verdict
	}
	return s.table.Verdict(from, to, port)
}

func (s *side) decide(from, to, port int) evaluator.Decision {
	source := s.ends[from]
	if from == to {
		p := s.pods[from]
		source = flow.Endpoint{Namespace: p.Namespace, Labels: p.Labels}
		if a, err := netip.ParseAddr(p.Status.PodIP); err == nil {
			source.Addr = a
		}
	}
	return s.engine.Decide(flow.Flow{From: source, To: s.ends[to], Protocol: s.ports[port].Protocol, Port: s.ports[port].Number})
}

// pair is a pod before the change and what it is after it.
type pair struct{ before, after int }

// member is a workload that both sides have.
type member struct {
	Workload
	pairs []pair
}

// class is a set of pods that no policy of either side tells apart.
type class struct {
	// of holds the pairs by workload.
	of map[int][]pair
	// workloads are the keys of it, in order.
	workloads []int
}

// comparison carries what the steps of Compare share.
type comparison struct {
	before, after *side
	ports         []portClass
	workloads     []member
	classes       []class
	undefined     pairSet
	rows          map[rowKey]*Row
	names         map[Workload]string
	report        *Report
}

// both are the pods of a workload on both sides.
type both struct{ before, after []int }

// rowKey tells rows apart.
type rowKey struct {
	from, to              string
	before, after         evaluator.Verdict
	sameBefore, sameAfter string
	ports                 string
}

// meet finds what the pods of one side are on the other one.
func (c *comparison) meet(workloadOf func(*corev1.Pod) Workload) {
	all := map[Workload]*both{}
	get := func(p *corev1.Pod) *both {
		w := workloadOf(p)
		if all[w] == nil {
			all[w] = &both{}
		}
		return all[w]
	}
	for i, p := range c.before.pods {
		b := get(p)
		b.before = append(b.before, i)
	}
	for i, p := range c.after.pods {
		b := get(p)
		b.after = append(b.after, i)
	}
	c.name(all)
	var known []Workload
	for w, b := range all {
		switch {
		case len(b.before) == 0:
			c.report.New = append(c.report.New, c.names[w])
		case len(b.after) == 0:
			c.report.Removed = append(c.report.Removed, c.names[w])
		default:
			known = append(known, w)
		}
	}
	slices.Sort(c.report.New)
	slices.Sort(c.report.Removed)
	slices.SortFunc(known, func(a, b Workload) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind))
	})
	index := map[[2]int]int{}
	for i, w := range known {
		m := member{Workload: w, pairs: c.pairs(all[w].before, all[w].after)}
		c.workloads = append(c.workloads, m)
		for _, p := range m.pairs {
			key := [2]int{c.before.table.Group(p.before), c.after.table.Group(p.after)}
			at, ok := index[key]
			if !ok {
				at = len(c.classes)
				index[key] = at
				c.classes = append(c.classes, class{of: map[int][]pair{}})
			}
			cl := &c.classes[at]
			if cl.of[i] == nil {
				cl.workloads = append(cl.workloads, i)
			}
			cl.of[i] = append(cl.of[i], p)
		}
	}
}

// pairs finds the counterparts of the pods of one workload: those of the same name, and the others in
// turn, so that each has a counterpart however many replicas there are.
func (c *comparison) pairs(before, after []int) []pair {
	byName := map[string]int{}
	for _, a := range after {
		byName[c.after.pods[a].Name] = a
	}
	var out []pair
	paired := map[int]bool{}
	var left []int
	for _, b := range before {
		if a, ok := byName[c.before.pods[b].Name]; ok {
			out = append(out, pair{b, a})
			paired[a] = true
		} else {
			left = append(left, b)
		}
	}
	n := 0
	for _, a := range after {
		if paired[a] {
			continue
		}
		if len(left) > 0 {
			out = append(out, pair{left[n%len(left)], a})
		} else {
			out = append(out, pair{before[n%len(before)], a})
		}
		n++
	}
	for i := n; i < len(left); i++ {
		out = append(out, pair{left[i], after[i%len(after)]})
	}
	return out
}

// name gives workloads the names that the commands know them by, which say the kind
// only if they have to.
func (c *comparison) name(all map[Workload]*both) {
	same := map[string]int{}
	for w := range all {
		same[w.Namespace+"/"+w.Name]++
	}
	c.names = map[Workload]string{}
	for w := range all {
		c.names[w] = w.Namespace + "/" + w.Name
		if same[c.names[w]] > 1 && w.Kind != "Pod" {
			c.names[w] = w.Namespace + "/" + strings.ToLower(w.Kind) + "/" + w.Name
		}
	}
}

// between compares the paths between different workloads, class by class.
func (c *comparison) between() {
	for i := range c.classes {
		for j := range c.classes {
			from, to := &c.classes[i], &c.classes[j]
			f, t, ok := apart(from, to)
			if !ok {
				continue
			}
			ports, undefined := c.changed(f, t)
			if len(ports) == 0 && !undefined {
				continue
			}
			for _, w := range from.workloads {
				for _, x := range to.workloads {
					if w != x {
						// The reasons are the workloads' own: other policies may say the same.
						f, t := from.of[w], to.of[x]
						c.add(w, x, c.changes(f[0], t[0], ports), undefined, len(f)*len(t))
					}
				}
			}
		}
	}
}

// apart returns a pair of each class, of different workloads.
func apart(from, to *class) (f, t pair, ok bool) {
	for _, w := range from.workloads[:min(2, len(from.workloads))] {
		for _, x := range to.workloads[:min(2, len(to.workloads))] {
			if w != x {
				return from.of[w][0], to.of[x][0], true
			}
		}
	}
	return f, t, false
}

// within compares the paths between the pods of one workload.
func (c *comparison) within() {
	for w := range c.workloads {
		m := &c.workloads[w]
		// The pods of a node's network speak with its address, each on its own node.
		if !replicated(m.Kind) || c.before.pods[m.pairs[0].before].Spec.HostNetwork || c.after.pods[m.pairs[0].after].Spec.HostNetwork {
			continue
		}
		parts := map[[2]int][]pair{}
		var keys [][2]int
		for _, p := range m.pairs {
			key := [2]int{c.before.table.Group(p.before), c.after.table.Group(p.after)}
			if parts[key] == nil {
				keys = append(keys, key)
			}
			parts[key] = append(parts[key], p)
		}
		for _, i := range keys {
			for _, j := range keys {
				f, t := parts[i][0], parts[j][len(parts[j])-1]
				n := len(parts[i]) * len(parts[j])
				if i == j && len(m.pairs) > 1 {
					// One pod does not meet itself.
					n -= len(parts[i])
				}
				if n > 0 {
					ports, undefined := c.changed(f, t)
					c.add(w, w, c.changes(f, t, ports), undefined, n)
				}
			}
		}
	}
}

// replicated tells whether a workload may have several pods, however many there
// are now.
func replicated(kind string) bool {
	switch kind {
	case "Pod", "Job", "CronJob":
		return false
	}
	return true
}

// change is what happened at some ports, for one reason.
type change struct {
	before, after       evaluator.Verdict
	whyBefore, whyAfter string
	// sameBefore and sameAfter tell reasons apart.
	sameBefore, sameAfter string
	ports                 []int
}

// changed returns the ports at which the paths from one pod to another changed, and
// whether there are some at which they are Undefined on both sides.
func (c *comparison) changed(from, to pair) (ports []int, undefined bool) {
	for i := range c.ports {
		before, after := c.before.verdict(from.before, to.before, i), c.after.verdict(from.after, to.after, i)
		if before != after {
			ports = append(ports, i)
		} else if before == evaluator.Undefined {
			undefined = true
		}
	}
	return ports, undefined
}

// changes gives the reasons for what changed at the ports. Ports that changed for
// the same ones belong together.
func (c *comparison) changes(from, to pair, ports []int) []change {
	var out []change
	for _, i := range ports {
		out = withChange(out, i, c.before.decide(from.before, to.before, i), c.after.decide(from.after, to.after, i))
	}
	return out
}

// withChange adds what happened at a port.
func withChange(list []change, port int, before, after evaluator.Decision) []change {
	next := change{before: before.Verdict, after: after.Verdict, whyBefore: explain.Short(before), whyAfter: explain.Short(after), ports: []int{port}}
	next.sameBefore, next.sameAfter = sameReason(before, next.whyBefore), sameReason(after, next.whyAfter)
	for i := range list {
		o := &list[i]
		if o.before == next.before && o.after == next.after && o.sameBefore == next.sameBefore && o.sameAfter == next.sameAfter {
			o.ports = append(o.ports, port)
			return list
		}
	}
	return append(list, next)
}

// sameReason returns what is the same for all pods of a workload: why something is
// Undefined may name the pod.
func sameReason(d evaluator.Decision, why string) string {
	if d.Verdict == evaluator.Undefined {
		return d.Rule
	}
	return why
}

// add notes what happened between some pods of two workloads.
func (c *comparison) add(from, to int, all []change, undefined bool, pairs int) {
	if undefined {
		c.undefined.add(from, to)
	}
	f, t := &c.workloads[from], &c.workloads[to]
	of := len(f.pairs) * len(t.pairs)
	if from == to && len(f.pairs) > 1 {
		of -= len(f.pairs)
	}
	for i := range all {
		row := c.row(c.names[f.Workload], c.names[t.Workload], &all[i])
		row.Pairs, row.Of = row.Pairs+pairs, of
		row.Declared = c.declared(t, row.ranges)
	}
}

// row returns the row of a change, which may be there already, of other pods.
func (c *comparison) row(from, to string, o *change) *Row {
	key := rowKey{from, to, o.before, o.after, o.sameBefore, o.sameAfter, fmt.Sprint(o.ports)}
	row := c.rows[key]
	if row == nil {
		row = &Row{
			Change: changeOf(o.before, o.after), From: from, To: to,
			Before: o.before.String(), WhyBefore: o.whyBefore, After: o.after.String(), WhyAfter: o.whyAfter,
			ranges: joined(c.ports, o.ports),
		}
		for _, r := range row.ranges {
			row.Ports = append(row.Ports, r.String())
		}
		c.rows[key] = row
	}
	return row
}

// declared returns the ports in the ranges that containers of a workload declare,
// on either side.
func (c *comparison) declared(m *member, ranges []flow.PortRange) []string {
	var found []flow.PortRange
	note := func(p *corev1.Pod) {
		for _, port := range containerPorts(p) {
			protocol := flow.Protocol(cmp.Or(port.Protocol, corev1.ProtocolTCP))
			number := uint16(port.ContainerPort)
			single := flow.PortRange{Protocol: protocol, First: number, Last: number}
			if !slices.Contains(found, single) && slices.ContainsFunc(ranges, func(r flow.PortRange) bool { return r.Contains(protocol, number) }) {
				found = append(found, single)
			}
		}
	}
	for _, p := range m.pairs {
		note(c.before.pods[p.before])
		note(c.after.pods[p.after])
	}
	slices.SortFunc(found, comparePorts)
	var out []string
	for _, p := range found {
		out = append(out, p.String())
	}
	return out
}

// finish puts the rows in order.
func (c *comparison) finish() *Report {
	for _, row := range c.rows {
		c.report.Rows = append(c.report.Rows, *row)
	}
	slices.SortFunc(c.report.Rows, compareRows)
	c.report.Undefined = c.undefined.len()
	return c.report
}
