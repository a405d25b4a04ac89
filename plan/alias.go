package plan

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pathproof/pathproof/flow"
)

const (
	// maxAliases bounds aliases of aliases. Resolvers give up on fewer.
	maxAliases = 8
	// clusterSuffix ends the names of Services in nearly every cluster. A Service whose
	// name ends otherwise is resolved by the probe, as any other name is.
	clusterSuffix = ".svc.cluster.local"
)

// destination is what a Service stands for: itself, or what it is an alias of.
type destination struct {
	// service is empty if the alias leads out of what the snapshot knows, to host,
	// which ends in a dot.
	service types.NamespacedName
	host    string
	port    intstr.IntOrString
}

// aliasError says why a Service leads nowhere.
type aliasError struct{ reason, message string }

// Error returns the message.
func (e *aliasError) Error() string { return e.message }

// follow follows a Service of type ExternalName, which is an alias in DNS and
// nothing else: "maps the service to the contents of the externalName field (e.g.
// foo.bar.example.com), by returning a CNAME record with its value. No proxying of
// any kind is set up." A port name is looked up in the alias first.
func (s Snapshot) follow(key types.NamespacedName, protocol flow.Protocol, port intstr.IntOrString) (destination, error) {
	first, r := key, &resolver{in: Input{Snapshot: s}}
	for range maxAliases {
		svc := r.service(key)
		if svc == nil || svc.Spec.Type != corev1.ServiceTypeExternalName {
			if svc == nil && key != first {
				return destination{}, &aliasError{NoTargetMatched, fmt.Sprintf("Service %s is an alias of Service %s, which does not exist", first, key)}
			}
			return destination{service: key, port: port}, nil
		}
		if port.Type == intstr.String {
			if sp := findServicePort(svc, protocol, port); sp != nil {
				port = intstr.FromInt32(sp.Port)
			}
		}
		host := strings.ToLower(strings.TrimSuffix(svc.Spec.ExternalName, "."))
		if next, ok := clusterService(host); ok {
			key = next
			continue
		}
		_, err := netip.ParseAddr(host)
		switch {
		case host == "" || err == nil:
			return destination{}, &aliasError{NoTargetMatched, fmt.Sprintf("Service %s is an alias of %q, which is no DNS name", key, svc.Spec.ExternalName)}
		case port.Type == intstr.String:
			return destination{}, &aliasError{PortNotFound, fmt.Sprintf("Service %s is an alias of %s, and has no %s port %s: write the number", key, host, protocol, port.StrVal)}
		}
		return destination{host: host + ".", port: port}, nil
	}
	return destination{}, &aliasError{NoTargetMatched, fmt.Sprintf("Service %s is an alias of an alias, and of more than %d", first, maxAliases)}
}

// clusterService returns the Service that has a name in the cluster's own domain.
func clusterService(host string) (types.NamespacedName, bool) {
	name, ok := strings.CutSuffix(host, clusterSuffix)
	if !ok {
		return types.NamespacedName{}, false
	}
	service, namespace, ok := strings.Cut(name, ".")
	if !ok || service == "" || namespace == "" || strings.Contains(namespace, ".") {
		return types.NamespacedName{}, false
	}
	return types.NamespacedName{Namespace: namespace, Name: service}, true
}

// HostError says that a Service is an alias of a name, whose addresses are known to
// nobody but who resolves it.
type HostError struct {
	Service types.NamespacedName
	Host    string
}

// Error says what is not known.
func (e *HostError) Error() string {
	return fmt.Sprintf("Service %s is an alias of %s, whose addresses are known to nobody but a resolver", e.Service, e.Host)
}
