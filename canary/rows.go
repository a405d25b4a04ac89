// Package canary says what the enforcement canary tests and how it is judged. It is
// pure: the pods, the reports and the time come from package controllers.
//
// Each node has four pods, one of each Role. The guarded one is isolated in both
// directions by policies of the canary's own, one for each feature; the others are
// selected by no policy. From each node, to itself and to its neighbours in a ring, the
// pods make checks: some must get through, because a rule allows them, and some must not.
// What must not get through counts only beside a positive control, which takes the same
// way to the same port without a policy that denies it.
package canary

import (
	"slices"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/probe/wire"
)

// Role is what a pod of the canary is to its policies.
type Role string

// The roles.
const (
	// Plain is a stranger to the guarded pods: no rule names it.
	Plain Role = "plain"
	// Friend is the pod that rules with a podSelector name.
	Friend Role = "friend"
	// Abroad is in the second namespace, which rules with a namespaceSelector name.
	Abroad Role = "abroad"
	// Guarded is the only one that policies select.
	Guarded Role = "guarded"
)

// Roles returns all roles.
func Roles() []Role { return []Role{Plain, Friend, Abroad, Guarded} }

// The ports. Every pod listens on all of them, so that only the policies differ. The
// range of endPort is above all others: where endPort is read as everything above, that
// shows in the row of endPort alone.
const (
	portCluster  = 9000 // allowed by a NetworkPolicy, and denied to strangers by a ClusterNetworkPolicy
	portUnnamed  = 9001 // no rule names it
	portAllowed  = 9002
	portByPod    = 9003
	portByNS     = 9004
	portOther    = 9005 // no rule names it
	portNamed    = 9006
	portNotNamed = 9007 // no rule names it
	portBlock    = 9008
	portBlockToo = 9009 // allowed by podSelector beside the ipBlock
	rangeFirst   = 9010
	rangeLast    = 9019
	rangeBeyond  = 9020
)

// NamedPort is the name that the pods give to one of their TCP ports.
const NamedPort = "canary"

// Listeners returns the ports that every pod listens on, and the one that has the name
// NamedPort.
func Listeners() (tcp, udp []uint16, named uint16) {
	return []uint16{
		portCluster, portUnnamed, portAllowed, portByPod, portByNS, portOther, portNamed, portNotNamed, portBlock, portBlockToo, rangeFirst, rangeLast, rangeBeyond,
	}, []uint16{portAllowed}, portNamed
}

// SCTPPort is the port of all roles but Abroad for SCTP.
const SCTPPort = portAllowed

// Probe is one check: from the pod of a role on one node to that on another.
type Probe struct {
	From, To  Role
	Transport wire.Transport
	Port      uint16
	// IPv6 asks for the IPv6 addresses of both pods. Otherwise it is their first ones.
	IPv6 bool
}

// Row is what is tested of a feature in one direction.
type Row struct {
	Feature   v1alpha1.CanaryFeature
	Direction v1alpha1.CanaryDirection
	// Base is allowed without the feature: if it is open and Open is not, the network
	// does without the feature rather than block at random. It is the zero Probe if there
	// is none.
	Base Probe
	// Open must get through because of the feature.
	Open []Probe
	// Closed must not get through.
	Closed []Probe
	// Untestable says why the feature is Unsupported on all nodes alike: then nothing is
	// probed. It is empty otherwise.
	Untestable string
}

// Name identifies a row.
type Name struct {
	Feature   v1alpha1.CanaryFeature
	Direction v1alpha1.CanaryDirection
}

// Name returns the row's name.
func (r Row) Name() Name { return Name{r.Feature, r.Direction} }

// Features returns all features of NetworkPolicies, in the order of the API. What is left
// is that of ClusterNetworkPolicies, which takes another kind of policy.
func Features() []v1alpha1.CanaryFeature {
	return []v1alpha1.CanaryFeature{
		v1alpha1.FeatureDefaultDeny, v1alpha1.FeaturePort, v1alpha1.FeatureEndPort, v1alpha1.FeaturePodSelector,
		v1alpha1.FeatureNamespaceSelector, v1alpha1.FeatureIPBlock, v1alpha1.FeatureNamedPort, v1alpha1.FeatureUDP,
		v1alpha1.FeatureSCTP, v1alpha1.FeatureIPv6,
	}
}

// Tested returns the features that a spec asks for: all there are if it lists none.
func Tested(spec v1alpha1.EnforcementCanarySpec) []v1alpha1.CanaryFeature {
	return slices.DeleteFunc(append(Features(), v1alpha1.FeatureClusterNetworkPolicy), func(f v1alpha1.CanaryFeature) bool {
		return len(spec.Features) > 0 && !slices.Contains(spec.Features, f)
	})
}

// Rows returns the rows of the features, in both directions.
func Rows(features []v1alpha1.CanaryFeature) []Row {
	var out []Row
	for _, f := range features {
		for _, d := range []v1alpha1.CanaryDirection{v1alpha1.DirectionIngress, v1alpha1.DirectionEgress} {
			out = append(out, row(f, d))
		}
	}
	return out
}

// row makes the row of a feature. Each row has peers and ports of its own, so that a
// feature that is not enforced shows in its own row and in no other.
func row(f v1alpha1.CanaryFeature, d v1alpha1.CanaryDirection) Row {
	over := func(peer Role, t wire.Transport, port uint16) Probe {
		if d == v1alpha1.DirectionIngress {
			return Probe{From: peer, To: Guarded, Transport: t, Port: port}
		}
		return Probe{From: Guarded, To: peer, Transport: t, Port: port}
	}
	tcp := func(peer Role, port uint16) Probe { return over(peer, wire.TCP, port) }
	r := Row{Feature: f, Direction: d}
	switch f {
	case v1alpha1.FeatureDefaultDeny:
		r.Closed = []Probe{tcp(Plain, portUnnamed)}
	case v1alpha1.FeaturePort:
		r.Open, r.Closed = []Probe{tcp(Friend, portAllowed)}, []Probe{tcp(Friend, portOther)}
	case v1alpha1.FeatureEndPort:
		r.Base, r.Open, r.Closed = tcp(Friend, rangeFirst), []Probe{tcp(Friend, rangeLast)}, []Probe{tcp(Friend, rangeBeyond)}
	case v1alpha1.FeaturePodSelector:
		r.Open, r.Closed = []Probe{tcp(Friend, portByPod)}, []Probe{tcp(Plain, portByPod)}
	case v1alpha1.FeatureNamespaceSelector:
		r.Open, r.Closed = []Probe{tcp(Abroad, portByNS)}, []Probe{tcp(Plain, portByNS)}
	case v1alpha1.FeatureIPBlock:
		r.Base, r.Open, r.Closed = tcp(Friend, portBlockToo), []Probe{tcp(Friend, portBlock)}, []Probe{tcp(Plain, portBlock)}
	case v1alpha1.FeatureNamedPort:
		r.Open, r.Closed = []Probe{tcp(Abroad, portNamed)}, []Probe{tcp(Abroad, portNotNamed)}
	case v1alpha1.FeatureUDP:
		r.Open, r.Closed = []Probe{over(Friend, wire.UDP, portAllowed)}, []Probe{over(Plain, wire.UDP, portAllowed)}
	case v1alpha1.FeatureSCTP:
		r.Open, r.Closed = []Probe{over(Friend, wire.SCTP, SCTPPort)}, []Probe{over(Plain, wire.SCTP, SCTPPort)}
	case v1alpha1.FeatureIPv6:
		r.Open, r.Closed = []Probe{tcp(Friend, portAllowed)}, []Probe{tcp(Plain, portAllowed)}
		r.Open[0].IPv6, r.Closed[0].IPv6 = true, true
	case v1alpha1.FeatureClusterNetworkPolicy:
		r.Open, r.Closed = []Probe{tcp(Friend, portCluster)}, []Probe{tcp(Plain, portCluster)}
	}
	return r
}

// allowed returns the probes that must get through.
func (r Row) allowed() []Probe {
	if r.Base == (Probe{}) {
		return r.Open
	}
	return append([]Probe{r.Base}, r.Open...)
}

// Control returns the positive control of a probe: it takes the same way to the same
// port, and no policy selects either of its ends. It keeps the end that is not guarded,
// and goes to, or comes from, another pod of the same node as the guarded one.
func Control(p Probe) Probe {
	stand := func(other Role) Role {
		// Never a pod to itself, which no network would see.
		if other == Plain {
			return Friend
		}
		return Plain
	}
	if p.To == Guarded {
		p.To = stand(p.From)
	} else {
		p.From = stand(p.To)
	}
	return p
}

// Probes returns what the pod of a role has to check to each target for the rows, each
// once.
func Probes(rows []Row, from Role) []Probe {
	var out []Probe
	add := func(p Probe) {
		if p.From == from && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	for _, r := range rows {
		if r.Untestable != "" {
			continue
		}
		for _, p := range slices.Concat(r.allowed(), r.Closed) {
			add(p)
			add(Control(p))
		}
	}
	return out
}

// Goal is what the rounds of a probe wait for while the network settles.
func Goal(rows []Row, p Probe) wire.Goal {
	for _, r := range rows {
		if slices.Contains(r.Closed, p) {
			return wire.GoalClosed
		}
	}
	return wire.GoalOpen
}

// NamespaceOf returns the namespace of the pods of a role.
func NamespaceOf(namespace string, r Role) string {
	if r == Abroad {
		return namespace + AbroadSuffix
	}
	return namespace
}
