package evaluator

import (
	"fmt"
	"net/netip"
	"regexp"
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/pathproof/pathproof/flow"
)

// version is the version of the API that a cluster-wide policy belongs to.
type version uint8

const (
	v1alpha1 version = iota
	v1alpha2
	versions // the number of versions
)

// action is what a rule does with the traffic that it matches.
type action uint8

const (
	accept action = iota
	deny
	pass
	actions // the number of actions
)

// clusterPolicy is a compiled ClusterNetworkPolicy, AdminNetworkPolicy or
// BaselineAdminNetworkPolicy.
type clusterPolicy struct {
	ref      PolicyRef
	version  version
	tier     Tier
	priority int32
	subject  podSet
	// rules are in order. A broken policy has as many as the object, but they are not
	// consulted.
	rules [directions][]clusterRule
	// broken policies have a Problem (X1): nobody can say what they do.
	broken bool
	// accepts and denies stand for what a broken policy may do.
	accepts, denies clusterRule
	// about is the reference for questions that come up before the rules.
	about    RuleRef
	problems []Problem
}

// clusterRule is one entry of spec.ingress or spec.egress.
type clusterRule struct {
	ref    RuleRef
	action action
	peers  []clusterPeer
	// No ports means every port.
	ports []port
	// unknown is set if a peer has no field that is known (S35).
	unknown bool
	// broken is set if the rule stands for what a broken policy may do.
	broken *clusterPolicy
}

// podSet is a set of pods by the labels of their namespaces and by their own.
type podSet struct {
	// namespaces is nil if it cannot be read; the set could then hold any pod.
	namespaces *selector
	// pods is nil when every pod of the namespaces is in the set.
	pods *selector
}

// clusterPeer is one entry of from or to. Exactly one field is set.
type clusterPeer struct {
	pods     *podSet
	networks []netip.Prefix
	nodes    *selector
	domains  []string
}

// kind is what the compilation has to know of a kind of policy.
type kind struct {
	name    string
	version version
	actions map[string]action
	// spelled lists the actions for a message.
	spelled string
}

var clusterKinds = map[string]kind{
	KindClusterNetworkPolicy: {
		KindClusterNetworkPolicy, v1alpha2, map[string]action{"Accept": accept, "Deny": deny, "Pass": pass}, "Accept, Deny or Pass",
	},
	KindAdminNetworkPolicy: {
		KindAdminNetworkPolicy, v1alpha1, map[string]action{"Allow": accept, "Deny": deny, "Pass": pass}, "Allow, Deny or Pass",
	},
	KindBaselineAdminNetworkPolicy: {
		KindBaselineAdminNetworkPolicy, v1alpha1, map[string]action{"Allow": accept, "Deny": deny}, "Allow or Deny",
	},
}

// spoil marks a policy that nobody can say anything about.
func (p *clusterPolicy) spoil() {
	p.broken = true
	p.accepts = clusterRule{ref: p.about, action: accept, broken: p}
	p.denies = clusterRule{ref: p.about, action: deny, broken: p}
}

// clusterCompiler compiles one policy.
type clusterCompiler struct {
	kind   kind
	report reporter
	policy *clusterPolicy
}

// newClusterCompiler starts with the name and the subject.
func newClusterCompiler(kindName string, meta *metav1.ObjectMeta, subject *policyv1alpha2.ClusterNetworkPolicySubject) *clusterCompiler {
	ref := PolicyRef{Kind: kindName, Name: meta.Name}
	p := &clusterPolicy{ref: ref, version: clusterKinds[kindName].version, about: RuleRef{PolicyRef: ref, Index: wholePolicy}}
	c := &clusterCompiler{
		kind:   clusterKinds[kindName],
		report: reporter{kind: kindName, name: meta.Name, problems: &p.problems},
		policy: p,
	}
	if meta.Name == "" {
		c.report.report("metadata.name", "is missing: write a name")
	}
	c.policy.subject = compileSubject(subject, c.report)
	return c
}

// finish returns the policy.
func (c *clusterCompiler) finish() *clusterPolicy {
	if len(c.policy.problems) > 0 {
		c.policy.spoil()
	}
	return c.policy
}

// place sets the tier and the priority.
func (c *clusterCompiler) place(tier Tier, priority int32) {
	c.policy.tier, c.policy.priority = tier, priority
	// "Priority is a value from 0 to 1000"
	if priority < 0 || priority > 1000 {
		c.report.report("spec.priority", fmt.Sprintf("%d is out of bounds: write a number from 0 to 1000", priority))
		c.placeAnywhere()
	}
}

// placeAnywhere is for a policy whose place is not known. The first place is where
// it could decide the most.
func (c *clusterCompiler) placeAnywhere() {
	c.policy.tier, c.policy.priority = TierAdmin, -1
}

// rawRule is a rule of any version, with its ports compiled.
type rawRule struct {
	title, action string
	peers         []policyv1alpha2.ClusterNetworkPolicyEgressPeer
	ports         []port
	// portsField is the name of the field that holds the ports.
	portsField string
}

// addRule compiles a rule and appends it.
func (c *clusterCompiler) addRule(d direction, raw rawRule) {
	path, list := "spec.ingress", "from"
	if d == egress {
		path, list = "spec.egress", "to"
	}
	rules := &c.policy.rules[d]
	path = fmt.Sprintf("%s[%d]", path, len(*rules))
	r := clusterRule{
		ref:   RuleRef{PolicyRef: c.policy.ref, Index: len(*rules), Title: raw.title},
		ports: raw.ports,
	}
	var known bool
	if r.action, known = c.kind.actions[raw.action]; !known {
		c.report.report(path+".action", fmt.Sprintf("%q is unknown: write %s", raw.action, c.kind.spelled))
	}
	// "This field must be defined and contain at least one item."
	if len(raw.peers) == 0 {
		c.report.report(path+"."+list, "is empty: write at least one peer, namespaces: {} is every pod")
	}
	byAddress := false
	for i := range raw.peers {
		o, field := &raw.peers[i], fmt.Sprintf("%s.%s[%d]", path, list, i)
		byAddress = byAddress || o.Nodes != nil || o.Networks != nil || o.DomainNames != nil
		r.unknown = c.addPeer(&r, o, field) || r.unknown
	}
	for _, p := range raw.ports {
		if byAddress && p.isNamed() {
			// "networks/nodes/domainNames peer cannot be set with namedPorts since there are
			// no namedPorts for networks/nodes/domainNames"
			c.report.report(path+"."+raw.portsField, fmt.Sprintf("has the named port %q beside a peer that is no pod: write the number, or two rules", p.name.Value()))
			break
		}
	}
	if r.unknown && r.action != accept {
		r.action = deny
	}
	*rules = append(*rules, r)
}

// addPeer compiles a peer, and tells whether it has no field that is known.
func (c *clusterCompiler) addPeer(r *clusterRule, o *policyv1alpha2.ClusterNetworkPolicyEgressPeer, field string) (unknown bool) {
	set := 0
	for _, isSet := range []bool{o.Namespaces != nil, o.Pods != nil, o.Nodes != nil, o.Networks != nil, o.DomainNames != nil} {
		if isSet {
			set++
		}
	}
	var p clusterPeer
	switch {
	case set == 0:
		// S35: "If an implementation sees no fields are set then it can infer that the
		// deployed CRD is of an incompatible version with an unknown field. In that case it
		// should fail closed."
		return true
	case set > 1:
		// "Exactly one of the fields must be set for a given peer"
		c.report.report(field, "has more than one field: write them as items of their own")
	case o.Namespaces != nil:
		p.pods = &podSet{namespaces: compileSelector(o.Namespaces, field+".namespaces", c.report)}
	case o.Pods != nil:
		p.pods = compileNamespacedPod(o.Pods, field+".pods", c.report)
	case o.Nodes != nil:
		p.nodes = compileSelector(o.Nodes, field+".nodes", c.report)
	case o.Networks != nil:
		p.networks = compileNetworks(o.Networks, field+".networks", c.report)
	default:
		p.domains = compileDomains(o.DomainNames, r.action, field+".domainNames", c.report)
	}
	r.peers = append(r.peers, p)
	return false
}

// compileSubject compiles the set of pods that a policy is for.
func compileSubject(o *policyv1alpha2.ClusterNetworkPolicySubject, r reporter) podSet {
	switch {
	// "Exactly one field must be set."
	case (o.Namespaces == nil) == (o.Pods == nil):
		r.report("spec.subject", "must have exactly one field: write namespaces or pods, namespaces: {} is every pod")
		return podSet{}
	case o.Namespaces != nil:
		return podSet{namespaces: compileSelector(o.Namespaces, "spec.subject.namespaces", r)}
	default:
		set := compileNamespacedPod(o.Pods, "spec.subject.pods", r)
		if set.namespaces == nil || set.pods == nil {
			return podSet{}
		}
		return *set
	}
}

// compileNamespacedPod compiles the selectors, of which one is nil if it cannot be
// read.
func compileNamespacedPod(o *policyv1alpha2.NamespacedPod, field string, r reporter) *podSet {
	return &podSet{
		namespaces: compileSelector(&o.NamespaceSelector, field+".namespaceSelector", r),
		pods:       compileSelector(&o.PodSelector, field+".podSelector", r),
	}
}

// compileNetworks compiles a list of CIDRs.
func compileNetworks(list []policyv1alpha2.CIDR, field string, r reporter) []netip.Prefix {
	if len(list) == 0 {
		r.report(field, "is empty: write at least one CIDR")
	}
	networks := make([]netip.Prefix, 0, len(list))
	for i, text := range list {
		if p, ok := compileCIDR(string(text), fmt.Sprintf("%s[%d]", field, i), r); ok {
			networks = append(networks, p)
		}
	}
	return networks
}

// domainPattern is that of the API, for "one or more domain names to be used as a
// peer".
var domainPattern = regexp.MustCompile(`^(\*\.)?([a-zA-z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$`)

// compileDomains checks a list of domain names.
func compileDomains(list []policyv1alpha2.DomainName, a action, field string, r reporter) []string {
	if len(list) == 0 {
		r.report(field, "is empty: write at least one domain name")
	}
	// "DomainNames is only supported for Accept rules."
	if a != accept {
		r.report(field, "is for rules that accept only: write networks instead, or accept the names and deny the rest by a rule below")
	}
	domains := make([]string, 0, len(list))
	for i, name := range list {
		if !domainPattern.MatchString(string(name)) {
			r.report(fmt.Sprintf("%s[%d]", field, i), fmt.Sprintf("%q is not a domain name: write one such as example.org, or *.example.org for all names below it", name))
			continue
		}
		domains = append(domains, string(name))
	}
	return domains
}

// compileRange compiles the range of ports from first to last.
func compileRange(protocol flow.Protocol, first, last int32, path string, r reporter) (port, bool) {
	if first < 1 || first > maxPort {
		r.report(path+".start", fmt.Sprintf("%d is not a port: write a number from 1 to %d", first, maxPort))
		return port{}, false
	}
	// "the Start value must be less than End" (S36)
	if last <= first || last > maxPort {
		r.report(path+".end", fmt.Sprintf("%d does not end a range that starts at %d: write a higher number, up to %d, or a single port", last, first, maxPort))
		return port{}, false
	}
	return newPort(protocol, first, last), true
}

// compileSingle compiles a port number.
func compileSingle(protocol flow.Protocol, number int32, field string, r reporter) (port, bool) {
	if number < 1 || number > maxPort {
		r.report(field, fmt.Sprintf("%d is not a port: write a number from 1 to %d", number, maxPort))
		return port{}, false
	}
	return newPort(protocol, number, number), true
}

// compileAnyName compiles a named port of any protocol.
func compileAnyName(name, field string, r reporter) (port, bool) {
	if !isPortName(name) {
		r.report(field, fmt.Sprintf("%q is not the name of a port: %s", name, portNameHint(name)))
		return port{}, false
	}
	return port{name: unique.Make(name)}, true
}
