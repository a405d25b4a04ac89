package evaluator

import "slices"

// PolicyKind is a kind, other than NetworkPolicy, whose objects allow or deny
// traffic.
type PolicyKind struct {
	Group, Kind string
	// Resource is the plural name in the API.
	Resource string
	// Root is a namespace whose objects apply everywhere; empty if there is none.
	Root string
	// Modelled is set for kinds that this package evaluates.
	Modelled bool
}

// String is the name for people, as in CiliumNetworkPolicy.cilium.io.
func (k PolicyKind) String() string { return k.Kind + "." + k.Group }

// Clouds returns the Unmodelled that an object of the kind is. An object without a
// namespace applies everywhere.
func (k PolicyKind) Clouds(namespace, name string) Unmodelled {
	if namespace == k.Root {
		namespace = ""
	}
	return Unmodelled{Kind: k.String(), Namespace: namespace, Name: name}
}

// policyKinds are all kinds that are looked for (S30).
var policyKinds = []PolicyKind{
	{Group: "policy.networking.k8s.io", Kind: "ClusterNetworkPolicy", Resource: "clusternetworkpolicies", Modelled: true},
	{Group: "policy.networking.k8s.io", Kind: "AdminNetworkPolicy", Resource: "adminnetworkpolicies", Modelled: true},
	{Group: "policy.networking.k8s.io", Kind: "BaselineAdminNetworkPolicy", Resource: "baselineadminnetworkpolicies", Modelled: true},
	{Group: "cilium.io", Kind: "CiliumNetworkPolicy", Resource: "ciliumnetworkpolicies"},
	{Group: "cilium.io", Kind: "CiliumClusterwideNetworkPolicy", Resource: "ciliumclusterwidenetworkpolicies"},
	{Group: "crd.projectcalico.org", Kind: "NetworkPolicy", Resource: "networkpolicies"},
	{Group: "crd.projectcalico.org", Kind: "GlobalNetworkPolicy", Resource: "globalnetworkpolicies"},
	{Group: "projectcalico.org", Kind: "NetworkPolicy", Resource: "networkpolicies"},
	{Group: "projectcalico.org", Kind: "GlobalNetworkPolicy", Resource: "globalnetworkpolicies"},
	{Group: "crd.antrea.io", Kind: "NetworkPolicy", Resource: "networkpolicies"},
	{Group: "crd.antrea.io", Kind: "ClusterNetworkPolicy", Resource: "clusternetworkpolicies"},
	{Group: "k8s.ovn.org", Kind: "EgressFirewall", Resource: "egressfirewalls"},
	{Group: "network.openshift.io", Kind: "EgressNetworkPolicy", Resource: "egressnetworkpolicies"},
	{Group: "networking.k8s.aws", Kind: "ApplicationNetworkPolicy", Resource: "applicationnetworkpolicies"},
	{Group: "networking.k8s.aws", Kind: "ClusterNetworkPolicy", Resource: "clusternetworkpolicies"},
	{Group: "vpcresources.k8s.aws", Kind: "SecurityGroupPolicy", Resource: "securitygrouppolicies"},
	{Group: "k8s.cni.cncf.io", Kind: "MultiNetworkPolicy", Resource: "multi-networkpolicies"},
	{Group: "security.istio.io", Kind: "AuthorizationPolicy", Resource: "authorizationpolicies", Root: "istio-system"},
	{Group: "security.istio.io", Kind: "PeerAuthentication", Resource: "peerauthentications", Root: "istio-system"},
	{Group: "policy.linkerd.io", Kind: "Server", Resource: "servers"},
	{Group: "policy.linkerd.io", Kind: "ServerAuthorization", Resource: "serverauthorizations"},
	{Group: "policy.linkerd.io", Kind: "AuthorizationPolicy", Resource: "authorizationpolicies"},
	{Group: "consul.hashicorp.com", Kind: "ServiceIntentions", Resource: "serviceintentions"},
	{Group: "kuma.io", Kind: "MeshTrafficPermission", Resource: "meshtrafficpermissions", Root: "kuma-system"},
	{Group: "kuma.io", Kind: "TrafficPermission", Resource: "trafficpermissions"},
}

// PolicyKinds returns all kinds of policy that are known besides NetworkPolicy, be
// they evaluated or not.
func PolicyKinds() []PolicyKind { return slices.Clone(policyKinds) }
