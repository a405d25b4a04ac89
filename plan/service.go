package plan

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
)

// ServiceBackends returns what a connection to a port of a Service may end at: its
// ready endpoints, with the port after translation (rule S9). The port is a number
// or a name of the Service's own. Of an alias of a name that is no Service's, the
// error is a HostError.
func (s Snapshot) ServiceBackends(key types.NamespacedName, protocol flow.Protocol, port intstr.IntOrString) ([]Backend, error) {
	r := &resolver{in: Input{Snapshot: s}}
	to, err := s.follow(key, protocol, port)
	switch {
	case err != nil:
		return nil, err
	case to.host != "":
		return nil, &HostError{Service: key, Host: to.host}
	}
	key, port = to.service, to.port
	svc := r.service(key)
	if svc == nil {
		return nil, fmt.Errorf("there is no Service %s", key)
	}
	sp := findServicePort(svc, protocol, port)
	if sp == nil {
		return nil, fmt.Errorf("the Service %s has no %s port %s", key, protocol, port.String())
	}
	endpoints := r.endpoints(svc, sp.Name, protocol)
	if len(endpoints) == 0 {
		return nil, fmt.Errorf("the Service %s has no ready endpoint for %s port %s", key, protocol, port.String())
	}
	backends := make([]Backend, 0, len(endpoints))
	for _, e := range endpoints {
		backends = append(backends, e.Backend)
	}
	return backends, nil
}

// NamedPort looks a port up in the containers of a pod, and in its sidecars: init
// containers that keep running (rules S7 and S8).
func NamedPort(pod *corev1.Pod, protocol flow.Protocol, name string) (uint16, bool) {
	return namedPort(pod, protocol, name)
}

// DecideBackends combines the decisions for all backends of a target, whose name is
// for people. "The result may be mixed" (rule S9): then it depends on which
// endpoint a connection is sent to.
func DecideBackends(engine *evaluator.Engine, from flow.Endpoint, backends []Backend, protocol flow.Protocol, name string) evaluator.Decision {
	var first evaluator.Decision
	for i, b := range backends {
		d := engine.Decide(flow.Flow{From: from, To: b.Endpoint, Protocol: protocol, Port: b.Port})
		if i == 0 {
			first = d
			continue
		}
		if d.Verdict != first.Verdict {
			return evaluator.Decision{
				Rule:   "S9",
				Reason: fmt.Sprintf("policies treat the endpoints of %s differently: %s is %s, %s is %s", name, backends[0].Endpoint, first.Verdict, b.Endpoint, d.Verdict),
			}
		}
	}
	return first
}
