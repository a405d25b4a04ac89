package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// RequestedAtAnnotation asks for a run now: the operator starts one whenever the
// annotation's value differs from status.lastHandledRequest. Any value will do; a
// timestamp is customary.
const RequestedAtAnnotation = "pathproof.dev/requested-at"

// ExpectationAnnotation names on a probe pod the expectation that it was made for.
const ExpectationAnnotation = "pathproof.dev/expectation"

// ConnectivityExpectation declares which network paths of a namespace must be
// open and which must be closed. The operator predicts each path from the
// NetworkPolicies in the cluster, probes it from pods that carry the workload's
// labels, and reports where intent, policies and network disagree.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=cxp,categories=pathproof
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Met",type=integer,JSONPath=`.status.summary.met`
// +kubebuilder:printcolumn:name="Violated",type=integer,JSONPath=`.status.summary.violated`
// +kubebuilder:printcolumn:name="Unknown",type=integer,JSONPath=`.status.summary.unknown`
// +kubebuilder:printcolumn:name="Last-Probe",type=date,JSONPath=`.status.lastRun.finishedAt`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ConnectivityExpectation struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec declares the paths.
	// +required
	Spec ConnectivityExpectationSpec `json:"spec"`
	// status reports what was predicted and observed.
	// +optional
	Status ConnectivityExpectationStatus `json:"status,omitempty"`
}

// ConnectivityExpectationList is a list of ConnectivityExpectations.
//
// +kubebuilder:object:root=true
type ConnectivityExpectationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	// items are the expectations.
	Items []ConnectivityExpectation `json:"items"`
}

// ConnectivityExpectationSpec declares paths and how to prove them.
type ConnectivityExpectationSpec struct {
	// paths are the network paths that must be open or closed, by name.
	// Bounds: 1 to 64.
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Paths []Path `json:"paths"`

	// probe sets when and how paths are probed. Unset means all its defaults.
	// +optional
	// +kubebuilder:default={}
	Probe ProbeSettings `json:"probe,omitempty"`

	// coverage bounds how many of the matching pods are probed. Unset means all
	// its defaults.
	// +optional
	// +kubebuilder:default={}
	Coverage Coverage `json:"coverage,omitempty"`

	// suspend stops runs while it is true. A run that is under way is ended and
	// its pods are deleted; the conditions become Unknown. Unset means false.
	// +optional
	Suspend bool `json:"suspend,omitempty"`
}

// Expect says what is declared about a path.
//
// +kubebuilder:validation:Enum=Allow;Deny
type Expect string

// What can be declared about a path.
const (
	// ExpectAllow declares that the path must be open.
	ExpectAllow Expect = "Allow"
	// ExpectDeny declares that the path must be closed.
	ExpectDeny Expect = "Deny"
)

// Path is one network path, or a family of paths when its selectors match
// several pods.
//
// +kubebuilder:validation:XValidation:rule="has(self.to) != has(self.dns)",message="write either to (with ports) or dns, not both and not neither"
// +kubebuilder:validation:XValidation:rule="has(self.to) == has(self.ports)",message="ports belong to a path with to: list at least one port there, and none on a path with dns"
// +kubebuilder:validation:XValidation:rule="!has(self.dns) || !has(self.dns.answer) || self.expect == 'Allow'",message="dns.answer says what a resolver must answer, and belongs to expect: Allow. expect: Deny means that no answer can be had; for a name that must not exist, write expect: Allow and answer: {notFound: true}"
// +kubebuilder:validation:XValidation:rule="!has(self.to) || !has(self.ports) || !(has(self.to.identity) || has(self.to.address) || has(self.to.host)) || self.ports.all(p, type(p.port) == int)",message="a port name is looked up in the target pod or Service: write the number for an identity, address or host"
// +kubebuilder:validation:XValidation:rule="!has(self.to) || !has(self.to.service) || !has(self.ports) || self.ports.all(p, !has(p.endPort))",message="a Service has single ports: list them one by one instead of endPort"
type Path struct {
	// name identifies the path within the expectation. Format: RFC 1123 label.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="name must be lower-case letters, digits and '-', and start and end with a letter or digit"
	Name string `json:"name"`

	// expect declares whether the path must be open (Allow) or closed (Deny).
	// +required
	Expect Expect `json:"expect"`

	// from selects the source of the path.
	// +required
	From Source `json:"from"`

	// to selects the target of the path. Required unless dns is set.
	// +optional
	To *Target `json:"to,omitempty"`

	// ports are the ports of the target. Required with to. Bounds: 1 to 16.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Ports []Port `json:"ports,omitempty"`

	// dns declares that the source can (or cannot) resolve names with its resolvers. It
	// takes the place of to and ports.
	// +optional
	DNS *DNS `json:"dns,omitempty"`
}

// Source is where a path begins.
//
// +kubebuilder:validation:XValidation:rule="has(self.podSelector) != has(self.identity)",message="from takes exactly one of podSelector (existing pods) and identity (labels of a pod that need not exist)"
type Source struct {
	// namespace of the source. Unset means the namespace of the expectation, and
	// no other one is probed from: a probe pod carries a workload's identity, and
	// only the owner of a namespace may hand that out.
	// +optional
	Namespace NamespaceName `json:"namespace,omitempty"`

	// podSelector selects existing pods. Probes run from pods of their own that
	// carry the labels of the selected ones.
	// +optional
	PodSelector *LabelSelector `json:"podSelector,omitempty"`

	// identity describes a pod that need not exist, to prove a policy before the
	// workload is rolled out, or a stranger that must not get in.
	// +optional
	Identity *Identity `json:"identity,omitempty"`
}

// Via says what a probe connects to in the name of a pod.
//
// +kubebuilder:validation:Enum=Auto;Endpoint;StandIn
type Via string

// What a probe can connect to.
const (
	// ViaAuto chooses for each port.
	ViaAuto Via = "Auto"
	// ViaEndpoint is the pod itself.
	ViaEndpoint Via = "Endpoint"
	// ViaStandIn is a responder with the pod's identity.
	ViaStandIn Via = "StandIn"
)

// Target is where a path ends.
//
// +kubebuilder:validation:XValidation:rule="(has(self.podSelector) ? 1 : 0) + (has(self.identity) ? 1 : 0) + (has(self.service) ? 1 : 0) + (has(self.address) ? 1 : 0) + (has(self.host) ? 1 : 0) == 1",message="to takes exactly one of podSelector, identity, service, address and host"
// +kubebuilder:validation:XValidation:rule="!(has(self.__namespace__) && has(self.namespaceSelector))",message="write either namespace or namespaceSelector, not both"
// +kubebuilder:validation:XValidation:rule="!(has(self.__namespace__) || has(self.namespaceSelector)) || has(self.podSelector)",message="namespace and namespaceSelector belong to a podSelector: for a Service write service.namespace, and an identity is always in the namespace of the expectation"
// +kubebuilder:validation:XValidation:rule="!has(self.via) || self.via == 'Auto' || has(self.podSelector) || has(self.service)",message="via chooses between existing pods and a stand-in for them: leave it out beside an identity, which is a stand-in anyway, and beside an address or host, which has none"
type Target struct {
	// podSelector selects existing pods. They are probed at their own addresses.
	// +optional
	PodSelector *LabelSelector `json:"podSelector,omitempty"`

	// namespace of the pods. Unset, with namespaceSelector unset too, means the
	// namespace of the expectation.
	// +optional
	Namespace NamespaceName `json:"namespace,omitempty"`

	// namespaceSelector selects the namespaces of the pods by label.
	// +optional
	NamespaceSelector *LabelSelector `json:"namespaceSelector,omitempty"`

	// identity describes a pod that need not exist. A responder with these labels
	// is started for the time of a run; it listens on the ports of the path.
	// +optional
	Identity *Identity `json:"identity,omitempty"`

	// service names a Service. It is probed at its cluster address; policies apply
	// to the pods and ports behind it. One of type ExternalName is an alias: of the
	// Service whose name in the domain cluster.local it holds, or of a host, which
	// is probed like one.
	// +optional
	Service *ServiceReference `json:"service,omitempty"`

	// address is a range outside the cluster, by addresses that stand for it.
	// +optional
	Address *Address `json:"address,omitempty"`

	// host is a DNS name that the probe resolves from inside its pod. It is taken
	// as fully qualified. Format: RFC 1123 subdomain; a trailing dot is allowed.
	// +optional
	Host DNSName `json:"host,omitempty"`

	// via says what is probed of the pods that podSelector selects. Endpoint is the pods
	// themselves. StandIn is a responder for each node and identity of theirs: it carries
	// their labels, names of ports and service account, listens in their stead, and proves
	// what arrives. Auto takes a stand-in for UDP, for SCTP with probe.sctp Raw, and for
	// ports at which a run has found nothing listening, from the next one on until the pod
	// is replaced or the spec changes; and the pods for everything else, and where no
	// stand-in can be had. A stand-in that was asked for and cannot be had, as for pods of
	// the host network, those of other namespaces and Services, ends as StandInRefused.
	// Unset means Auto.
	// +optional
	// +kubebuilder:default=Auto
	Via Via `json:"via,omitempty"`
}

// Identity is what policies see of a pod: its labels, in the namespace of the
// expectation.
type Identity struct {
	// labels of the pod, exactly. Bounds: 1 to 32.
	// +required
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(k) <= 317 && !format.qualifiedName().validate(k).hasValue())",message="a label key is an optional DNS prefix and '/', then at most 63 letters, digits, '-', '_' and '.', as in app.kubernetes.io/name"
	Labels map[string]LabelValue `json:"labels"`
}

// ServiceReference names a Service.
type ServiceReference struct {
	// name of the Service. Format: RFC 1035 label.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="a Service name is lower-case letters, digits and '-'"
	Name string `json:"name"`

	// namespace of the Service. Unset means the namespace of the expectation.
	// +optional
	Namespace NamespaceName `json:"namespace,omitempty"`
}

// Address is a range outside the cluster and the addresses that stand for it.
//
// +kubebuilder:validation:XValidation:rule="!has(self.cidr) || !isCIDR(self.cidr) || self.ips.all(i, !isIP(i) || cidr(self.cidr).containsIP(i))",message="every one of ips must lie in cidr"
type Address struct {
	// cidr is the range that the addresses stand for. When policies treat parts of
	// it differently, the prediction is Undefined instead of true for some of it.
	// Unset means that the addresses stand for themselves.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="isCIDR(self)",message="write a range such as 203.0.113.0/24 or 2001:db8::/32"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self) == cidr(self).masked()",message="the range has bits set behind its prefix length: write its first address, as in 203.0.113.0/24"
	CIDR string `json:"cidr,omitempty"`

	// ips are the addresses to probe. Bounds: 1 to 8.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=2
	// +kubebuilder:validation:items:MaxLength=39
	// +kubebuilder:validation:items:XValidation:rule="isIP(self)",message="write an address such as 203.0.113.10 or 2001:db8::10"
	IPs []string `json:"ips"`
}

// Protocol is a transport protocol.
//
// +kubebuilder:validation:Enum=TCP;UDP;SCTP
type Protocol string

// Port is a port of the target, or a range of ports.
//
// +kubebuilder:validation:XValidation:rule="type(self.port) == int ? (self.port >= 1 && self.port <= 65535) : (size(self.port) >= 1 && size(self.port) <= 15 && self.port.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && self.port.matches('[a-z]'))",message="port must be a number from 1 to 65535, or the name of a port such as http (at most 15 lower-case letters, digits and '-')"
// +kubebuilder:validation:XValidation:rule="!has(self.endPort) || type(self.port) == int",message="endPort needs a port number: a named port is a single port"
// +kubebuilder:validation:XValidation:rule="!has(self.endPort) || type(self.port) != int || self.endPort >= self.port",message="endPort must not be below port"
type Port struct {
	// protocol of the port. Unset means TCP.
	// +optional
	// +kubebuilder:default=TCP
	Protocol Protocol `json:"protocol,omitempty"`

	// port is a number, or the name of a port of the target pod or Service.
	// Bounds: 1 to 65535, or 1 to 15 characters.
	// +required
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:MaxLength=15
	Port intstr.IntOrString `json:"port"`

	// endPort makes a range of port and all ports up to endPort. The first and the
	// last port of the range are probed. Bounds: port to 65535. Unset means port
	// alone.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	EndPort int32 `json:"endPort,omitempty"`
}

// DNSTransport is a transport protocol of DNS.
//
// +kubebuilder:validation:Enum=UDP;TCP
type DNSTransport string

// DNSType is a type of DNS record.
//
// +kubebuilder:validation:Enum=A;AAAA;SRV;TXT;CNAME;PTR
type DNSType string

// DNS declares name resolution with the resolvers of the source: the nameservers in
// its pods' resolver configuration and, behind the cluster DNS, each of its endpoints.
// Allow means that each resolves the names over each transport. Deny means that none
// can be reached.
//
// +kubebuilder:validation:XValidation:rule="!has(self.answer) || !has(self.answer.addresses) || ((!has(self.type) || self.type in ['A', 'AAAA']) && self.answer.addresses.all(a, !isIP(a) || ip(a).family() == (has(self.type) && self.type == 'AAAA' ? 6 : 4)))",message="answer.addresses are those of the records asked for: IPv4 addresses with type A, IPv6 addresses with type AAAA"
// +kubebuilder:validation:XValidation:rule="!has(self.answer) || !has(self.answer.cname) || !has(self.type) || self.type in ['A', 'AAAA', 'CNAME']",message="answer.cname belongs to type A, AAAA or CNAME"
type DNS struct {
	// names to resolve. They are taken as fully qualified, unless search is true.
	// Bounds: 1 to 8.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Names []DNSName `json:"names"`

	// type of the records. Unset means A.
	// +optional
	// +kubebuilder:default=A
	Type DNSType `json:"type,omitempty"`

	// transports to ask over. Unset means UDP and TCP: resolvers fall back to TCP
	// for answers that do not fit a datagram.
	// +optional
	// +listType=set
	// +kubebuilder:default={UDP,TCP}
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	Transports []DNSTransport `json:"transports,omitempty"`

	// search completes the names as a resolver library does: with the search list and
	// ndots of the resolver configuration of the source's pods. A name that ends in a
	// dot is fully qualified. Unset means false: the search list plays no part.
	// +optional
	Search bool `json:"search,omitempty"`

	// answer is what each of the names must resolve to. Unset means any records of the
	// type.
	// +optional
	Answer *DNSAnswer `json:"answer,omitempty"`
}

// DNSAnswer is what a name must resolve to.
//
// +kubebuilder:validation:XValidation:rule="(has(self.addresses) ? 1 : 0) + (has(self.cname) ? 1 : 0) + (has(self.notFound) && self.notFound ? 1 : 0) == 1",message="answer takes exactly one of addresses, cname and notFound: true"
type DNSAnswer struct {
	// addresses are all addresses that the name must have, in any order. One more or
	// one less is another answer. Bounds: 1 to 16.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=2
	// +kubebuilder:validation:items:MaxLength=39
	// +kubebuilder:validation:items:XValidation:rule="isIP(self)",message="write an address such as 203.0.113.10 or 2001:db8::10"
	Addresses []string `json:"addresses,omitempty"`

	// cname is the name that the name must be an alias of, by a CNAME record of its
	// own. It is fully qualified.
	// +optional
	CNAME DNSName `json:"cname,omitempty"`

	// notFound is true if there must be no record of the type, whether the name does
	// not exist (NXDOMAIN) or has none (NODATA). Unset means false.
	// +optional
	NotFound bool `json:"notFound,omitempty"`
}
