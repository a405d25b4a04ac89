package matrix

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
)

// Wanted is a port that every target is asked about: a number, or a name, which
// means what the target declares under it.
type Wanted struct {
	Protocol flow.Protocol
	Port     intstr.IntOrString
}

// String renders TCP/80 or TCP/http.
func (w Wanted) String() string { return string(w.Protocol) + "/" + w.Port.String() }

// DefaultPort is asked of targets that declare no port.
var DefaultPort = flow.Port{Protocol: flow.TCP, Number: 80}

// words lists what is wanted.
func words(wanted []Wanted) string {
	out := make([]string, len(wanted))
	for i, w := range wanted {
		out[i] = w.String()
	}
	return strings.Join(out, ", ")
}

// choosePorts returns all ports that are asked about, and for each pod the
// positions of those that it is asked about. Both are sorted.
func choosePorts(pods []Pod, wanted []Wanted) (all []flow.Port, asked [][]int, err error) {
	lists := make([][]flow.Port, len(pods))
	found := make([]bool, len(wanted))
	for i := range pods {
		lists[i] = portsOf(pods[i].Pod, wanted, found)
		all = append(all, lists[i]...)
	}
	for i, w := range wanted {
		if !found[i] {
			return nil, nil, fmt.Errorf("none of the pods declares a %s port named %q", w.Protocol, w.Port.StrVal)
		}
	}
	all = sortPorts(all)
	asked = make([][]int, len(pods))
	for i, list := range lists {
		for _, p := range sortPorts(list) {
			n, _ := slices.BinarySearchFunc(all, p, comparePorts)
			asked[i] = append(asked[i], n)
		}
	}
	return all, asked, nil
}

// portsOf returns the ports that a pod is asked about, and notes which of the
// wanted ones it has.
func portsOf(pod *corev1.Pod, wanted []Wanted, found []bool) []flow.Port {
	declared := declaredPorts(&pod.Spec)
	var out []flow.Port
	if len(wanted) == 0 {
		for _, d := range declared {
			out = append(out, d.Port)
		}
		if len(out) == 0 {
			out = append(out, DefaultPort)
		}
		return out
	}
	for i, w := range wanted {
		if w.Port.Type == intstr.Int {
			out, found[i] = append(out, flow.Port{Protocol: w.Protocol, Number: uint16(w.Port.IntVal)}), true
			continue
		}
		for _, d := range declared {
			if d.name == w.Port.StrVal && d.Protocol == w.Protocol {
				out, found[i] = append(out, d.Port), true
			}
		}
	}
	return out
}

// declared is a port of a container.
type declared struct {
	flow.Port
	name string
}

// declaredPorts lists the ports of the containers that run as long as the pod does:
// sidecars are among them (rule S8).
func declaredPorts(spec *corev1.PodSpec) []declared {
	var out []declared
	for _, c := range evaluator.ServingContainers(spec) {
		for _, p := range c.Ports {
			protocol := cmp.Or(flow.Protocol(p.Protocol), flow.TCP)
			if p.ContainerPort >= 1 && p.ContainerPort <= 65535 {
				out = append(out, declared{flow.Port{Protocol: protocol, Number: uint16(p.ContainerPort)}, p.Name})
			}
		}
	}
	return out
}

// sortPorts sorts a list by protocol and number, without doubles.
func sortPorts(list []flow.Port) []flow.Port {
	slices.SortFunc(list, comparePorts)
	return slices.Compact(list)
}

func comparePorts(a, b flow.Port) int {
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Number, b.Number))
}
