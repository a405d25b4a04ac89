package evaluator

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/gaissmai/bart"
)

// vocabulary holds the values that selectors ask for, by the key of the label. A
// value that no selector asks for is as good as any other of these.
type vocabulary map[word]map[word]bool

// add adds what a selector asks for. A selector that cannot be read asks for nothing:
// it may select anything.
func (v vocabulary) add(s *selector) {
	if s == nil {
		return
	}
	for i := range s.requirements {
		r := &s.requirements[i]
		if v[r.key] == nil {
			v[r.key] = map[word]bool{}
		}
		for _, value := range r.values {
			v[r.key][value] = true
		}
	}
}

// distinctions are what policies can tell pods apart by.
type distinctions struct {
	// everywhere holds the words for pods of any namespace, local those that only the
	// policies of one namespace ask for.
	everywhere vocabulary
	local      map[string]vocabulary
	// blocks numbers all ranges of addresses. The longest that holds an address tells
	// which of the others do.
	blocks *bart.Table[int]
	// ports are the names of ports that rules speak of.
	ports map[word]bool
	// kept are the distinct labels of classes.
	kept map[*class]string
}

func (e *Engine) distinctions() *distinctions {
	d := &distinctions{
		everywhere: vocabulary{}, local: map[string]vocabulary{},
		blocks: new(bart.Table[int]), ports: map[word]bool{}, kept: map[*class]string{},
	}
	for name, s := range e.shards {
		d.local[name] = vocabulary{}
		d.addPolicies(s.policies, d.local[name])
	}
	d.addPolicies(e.unplaced, d.everywhere)
	for _, p := range e.clusterPolicies {
		d.everywhere.add(p.subject.pods)
		for _, rules := range p.rules {
			for i := range rules {
				d.addClusterRule(&rules[i])
			}
		}
	}
	return d
}

func (d *distinctions) addPolicies(list []*policy, local vocabulary) {
	for _, p := range list {
		local.add(p.selector)
		for _, rules := range p.rules {
			for i := range rules {
				d.addPorts(rules[i].ports)
				for j := range rules[i].peers {
					switch peer := &rules[i].peers[j]; {
					case peer.block != nil:
						d.addBlock(peer.block.cidr)
						for _, x := range peer.block.except {
							d.addBlock(x)
						}
					case peer.namespaces != nil:
						d.everywhere.add(peer.pods)
					default:
						local.add(peer.pods)
					}
				}
			}
		}
	}
}

func (d *distinctions) addClusterRule(r *clusterRule) {
	d.addPorts(r.ports)
	for i := range r.peers {
		if pods := r.peers[i].pods; pods != nil {
			d.everywhere.add(pods.pods)
		}
		for _, n := range r.peers[i].networks {
			d.addBlock(n)
		}
	}
}

func (d *distinctions) addPorts(ports []port) {
	for i := range ports {
		if ports[i].isNamed() {
			d.ports[ports[i].name] = true
		}
	}
}

func (d *distinctions) addBlock(p netip.Prefix) {
	d.blocks.Modify(p, func(known int, ok bool) (int, bool) {
		if !ok {
			known = d.blocks.Size() + 1
		}
		return known, false
	})
}

// of returns a text that is the same for pods that no policy can tell apart.
func (d *distinctions) of(n *end) string {
	b := []byte(d.labelsOf(n.class))
	for _, a := range n.candidates() {
		block, _ := d.blocks.Lookup(a)
		family := 6
		if a.Is4() {
			family = 4
		}
		b = strconv.AppendInt(append(b, '/'), int64(family), 10)
		b = strconv.AppendInt(append(b, '.'), int64(block), 10)
	}
	var ports []string
	for _, p := range n.pod.ports {
		if d.ports[p.name] {
			ports = append(ports, p.name.Value()+"="+strconv.Itoa(int(p.protocol))+":"+strconv.Itoa(int(p.number)))
		}
	}
	slices.Sort(ports)
	return string(append(append(b, '/'), strings.Join(ports, ",")...))
}

// labelsOf returns a text that is the same for classes that no policy can tell apart.
func (d *distinctions) labelsOf(c *class) string {
	if text, ok := d.kept[c]; ok {
		return text
	}
	labels := slices.Clone(c.labels)
	slices.SortFunc(labels, func(a, b label) int { return strings.Compare(a.key.Value(), b.key.Value()) })
	b := appendPart(nil, c.namespace.name)
	for _, l := range labels {
		here, there := d.everywhere[l.key], d.local[c.namespace.name][l.key]
		switch {
		case here[l.value] || there[l.value]:
			b = appendPart(append(appendPart(b, l.key.Value()), '='), l.value.Value())
		case here != nil || there != nil:
			b = append(appendPart(b, l.key.Value()), '*')
		}
	}
	d.kept[c] = string(b)
	return d.kept[c]
}
