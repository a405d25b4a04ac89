package diff

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/pathproof/pathproof/flow"
)

// outside compares the paths from and to addresses outside of the cluster.
func (c *comparison) outside(all []region) {
	for w := range c.workloads {
		m := &c.workloads[w]
		for _, same := range c.alike(m) {
			p := same[0]
			for i := range all {
				address := flow.Endpoint{Addr: all[i].sample}
				out := c.flows(func(s *side, pod int) (from, to flow.Endpoint) { return s.ends[pod], address }, p)
				for j := range out {
					row := c.row(c.names[m.Workload], all[i].String(), &out[j])
					row.Pairs, row.Of = row.Pairs+len(same), len(m.pairs)
				}
				in := c.flows(func(s *side, pod int) (from, to flow.Endpoint) { return address, s.ends[pod] }, p)
				for j := range in {
					row := c.row(all[i].String(), c.names[m.Workload], &in[j])
					row.Pairs, row.Of = row.Pairs+len(same), len(m.pairs)
					row.Declared = c.declared(m, row.ranges)
				}
			}
		}
	}
}

// flows compares the paths between a pod and an address at all ports.
func (c *comparison) flows(ends func(s *side, pod int) (from, to flow.Endpoint), p pair) []change {
	var out []change
	for i, port := range c.before.ports {
		from, to := ends(c.before, p.before)
		before := c.before.engine.Decide(flow.Flow{From: from, To: to, Protocol: port.Protocol, Port: port.Number})
		from, to = ends(c.after, p.after)
		after := c.after.engine.Decide(flow.Flow{From: from, To: to, Protocol: port.Protocol, Port: port.Number})
		if before.Verdict != after.Verdict {
			out = withChange(out, i, before, after)
		}
	}
	return out
}

// alike groups the pods of a workload that mean the same to policies about
// addresses. The groups of the tables are about pods, and pods that are treated
// alike by pods may be treated differently by addresses.
func (c *comparison) alike(m *member) [][]pair {
	index := map[string]int{}
	var out [][]pair
	for _, p := range m.pairs {
		key := identityOf(c.before.pods[p.before]) + " " + identityOf(c.after.pods[p.after])
		at, ok := index[key]
		if !ok {
			at = len(out)
			index[key] = at
			out = append(out, nil)
		}
		out[at] = append(out[at], p)
	}
	return out
}

// identityOf holds what policies know of a pod, but for its address and its node.
func identityOf(p *corev1.Pod) string {
	var b strings.Builder
	b.WriteString(flow.FormatLabels(p.Labels))
	for _, port := range containerPorts(p) {
		fmt.Fprintf(&b, ";%s/%s/%d", port.Name, port.Protocol, port.ContainerPort)
	}
	if p.Spec.HostNetwork {
		// Its address is that of its node.
		b.WriteString(";" + p.Spec.NodeName + p.Status.HostIP)
	}
	return b.String()
}
