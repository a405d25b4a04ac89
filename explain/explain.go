// Package explain says why policies allow or deny a flow: for each direction which
// policies select the pod, which rule allows the flow, or why none of them does,
// and what would have to change.
//
// It does not know how rules match. It asks the evaluator again, about policies of
// one rule without its ports or with only one of its peers, and so cannot disagree
// with it.
package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
)

// Answer explains one flow.
type Answer struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Port    string `json:"port"`
	Verdict string `json:"verdict"`
	// Rule and Reason say why the verdict is Undefined.
	Rule   string `json:"rule,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Assumed are the assumptions about the network implementation that the answer
	// rests on.
	Assumed []string  `json:"assumed,omitempty"`
	Egress  Direction `json:"egress"`
	Ingress Direction `json:"ingress"`
	// Change says what would have to change for the opposite verdict.
	Change []string `json:"change,omitempty"`
}

// Direction explains one direction of a flow.
type Direction struct {
	// Subject is the end whose policies decide, with its labels.
	Subject string `json:"subject"`
	Verdict string `json:"verdict"`
	Rule    string `json:"rule,omitempty"`
	Reason  string `json:"reason,omitempty"`
	// ClusterWide says what cluster-wide policies do about the flow.
	ClusterWide []string `json:"clusterWide,omitempty"`
	// Decided is set when a cluster-wide policy of the Admin tier has decided, so that
	// no NetworkPolicy was asked, or one of the Baseline tier.
	Decided bool `json:"decidedClusterWide,omitempty"`
	// Admin and Baseline are the cluster-wide policies of these tiers that select the
	// subject, in the order in which they are asked.
	Admin    []*ClusterPolicy `json:"admin,omitempty"`
	Baseline []*ClusterPolicy `json:"baseline,omitempty"`
	// Policies are the NetworkPolicies that select the subject for this direction.
	Policies []Policy `json:"policies,omitempty"`
	// IsPod is set when policies could select the subject.
	IsPod bool `json:"isPod"`
}

// Policy explains what one policy that selects the subject does.
type Policy struct {
	Name     string `json:"name"`
	Selector string `json:"selector"`
	Rules    []Rule `json:"rules,omitempty"`
}

// Rule explains one rule.
type Rule struct {
	Index int `json:"index"`
	// Text is the rule in words.
	Text string `json:"text"`
	// Answer is Allows, MayAllow or DoesNotAllow.
	Answer string `json:"answer"`
	// Why says what does not match, or is not settled.
	Why []string `json:"why,omitempty"`
}

// What a rule does about a flow.
const (
	Allows       = "Allows"
	MayAllow     = "MayAllow"
	DoesNotAllow = "DoesNotAllow"
)

// explainer holds what the steps of Explain share.
type explainer struct {
	snapshot evaluator.Snapshot
	f        flow.Flow
	// few is the part of the snapshot that an answer about one rule depends on.
	few evaluator.Snapshot
	// from and to are nil for addresses and identities.
	from, to *corev1.Pod
}

// Explain explains a flow between ends of the snapshot that the engine was compiled
// from.
func Explain(s evaluator.Snapshot, engine *evaluator.Engine, f flow.Flow) Answer {
	x := &explainer{snapshot: s, f: f}
	x.from, x.to = x.pod(f.From), x.pod(f.To)
	x.few.Namespaces, x.few.Profile = s.Namespaces, s.Profile
	for _, p := range s.Pods {
		// Host-network pods decide what the addresses of nodes stand for.
		if p == x.from || p == x.to || p.Spec.HostNetwork {
			x.few.Pods = append(x.few.Pods, p)
		}
	}
	d := engine.Decide(f)
	a := Answer{
		From: f.From.String(), To: f.To.String(), Port: fmt.Sprintf("%s/%d", f.Protocol, f.Port),
		Verdict: d.Verdict.String(), Rule: d.Rule, Reason: d.Reason,
		Egress:  x.direction(networkingv1.PolicyTypeEgress, d.Egress),
		Ingress: x.direction(networkingv1.PolicyTypeIngress, d.Ingress),
	}
	a.Change = x.change(d)
	a.Assumed = x.assumed(d)
	return a
}

// Unknown is the answer for a target of which nothing is known, for a reason.
func Unknown(from flow.Endpoint, to string, protocol flow.Protocol, port, why string) Answer {
	undefined := evaluator.Undefined.String()
	return Answer{
		From: from.String(), To: to, Port: string(protocol) + "/" + port, Verdict: undefined, Rule: evaluator.RuleIncomplete, Reason: why,
		Egress: Direction{Verdict: undefined}, Ingress: Direction{Verdict: undefined},
	}
}

// pod finds the pod of an end, by name or by address.
func (x *explainer) pod(e flow.Endpoint) *corev1.Pod {
	for _, p := range x.snapshot.Pods {
		if e.IsPod() && p.Namespace == e.Namespace && p.Name == e.Pod {
			return p
		}
		if e.Pod == "" && e.Namespace == "" && has(p, e.Addr) {
			return p
		}
	}
	return nil
}

// has tells whether an address is that of a pod, and of nothing else.
func has(p *corev1.Pod, a netip.Addr) bool {
	if p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return false // it is the node's, or by now that of another pod
	}
	is := func(text string) bool {
		addr, err := netip.ParseAddr(text)
		return err == nil && addr.Unmap() == a.Unmap()
	}
	return is(p.Status.PodIP) || slices.ContainsFunc(p.Status.PodIPs, func(ip corev1.PodIP) bool { return is(ip.IP) })
}

// direction explains one direction.
func (x *explainer) direction(t networkingv1.PolicyType, d evaluator.DirectionDecision) Direction {
	subject, end := x.to, x.f.To
	if t == networkingv1.PolicyTypeEgress {
		subject, end = x.from, x.f.From
	}
	out := Direction{Subject: named(end, subject), Verdict: d.Verdict.String(), Rule: d.Rule, Reason: d.Reason, IsPod: subject != nil}
	out.ClusterWide, out.Decided = clusterWide(d)
	out.Admin, out.Baseline = x.clusterPolicies(t == networkingv1.PolicyTypeEgress, d)
	for _, ref := range d.Isolating {
		policy := x.policy(ref)
		if policy == nil {
			continue
		}
		p := Policy{Name: ref.String(), Selector: selectorText(&policy.Spec.PodSelector)}
		for i := range rulesOf(policy, t) {
			p.Rules = append(p.Rules, x.rule(policy, t, i))
		}
		out.Policies = append(out.Policies, p)
	}
	return out
}

func (x *explainer) policy(ref evaluator.PolicyRef) *networkingv1.NetworkPolicy {
	i := slices.IndexFunc(x.snapshot.NetworkPolicies, func(p *networkingv1.NetworkPolicy) bool {
		return p.Namespace == ref.Namespace && p.Name == ref.Name
	})
	if i < 0 {
		return nil
	}
	return x.snapshot.NetworkPolicies[i]
}

// parts are the peers and ports of a rule of either direction.
type parts struct {
	peers []networkingv1.NetworkPolicyPeer
	ports []networkingv1.NetworkPolicyPort
}

// rulesOf returns the rules of one direction.
func rulesOf(p *networkingv1.NetworkPolicy, t networkingv1.PolicyType) []parts {
	var out []parts
	if t == networkingv1.PolicyTypeIngress {
		for _, r := range p.Spec.Ingress {
			out = append(out, parts{r.From, r.Ports})
		}
		return out
	}
	for _, r := range p.Spec.Egress {
		out = append(out, parts{r.To, r.Ports})
	}
	return out
}

// rule explains one rule of a policy.
func (x *explainer) rule(p *networkingv1.NetworkPolicy, t networkingv1.PolicyType, index int) Rule {
	r := rulesOf(p, t)[index]
	out := Rule{Index: index, Text: r.text(t, p.Namespace)}
	whole := x.ask(p, t, r)
	switch whole.Verdict {
	case evaluator.Allowed:
		out.Answer = Allows
		return out
	case evaluator.Undefined:
		// The rule is the only one of the policy that was asked, and so its first.
		why := strings.Replace(whole.Reason, fmt.Sprintf("rule 0 of NetworkPolicy %s/%s ", p.Namespace, p.Name), "it ", 1)
		out.Answer, out.Why = MayAllow, []string{cmp.Or(why, "this is not settled")}
		return out
	case evaluator.Denied:
		out.Answer = DoesNotAllow
	}
	if x.ask(p, t, parts{peers: r.peers}).Verdict == evaluator.Denied {
		other, end := x.from, x.f.From
		if t == networkingv1.PolicyTypeEgress {
			other, end = x.to, x.f.To
		}
		why := fmt.Sprintf("it is about %s, which %s is not", peersText(r.peers, p.Namespace), named(end, other))
		if x.withoutAssumptions().ask(p, t, parts{peers: r.peers}).Verdict != evaluator.Denied {
			why += ", as is assumed of the network implementation"
		}
		out.Why = append(out.Why, why)
	}
	if x.ask(p, t, parts{ports: r.ports}).Verdict == evaluator.Denied {
		why := fmt.Sprintf("it is about %s, not about %s/%d", portsText(r.ports), x.f.Protocol, x.f.Port)
		if names := namesOf(r.ports); names != "" {
			why += fmt.Sprintf(" (%s is looked up among the ports of %s)", names, x.f.To)
		}
		out.Why = append(out.Why, why)
	}
	return out
}

// ask has the evaluator decide as if the policy had nothing but this rule, and no
// other policy existed.
func (x *explainer) ask(p *networkingv1.NetworkPolicy, t networkingv1.PolicyType, r parts) evaluator.DirectionDecision {
	only := &networkingv1.NetworkPolicy{ObjectMeta: p.ObjectMeta}
	only.Spec.PodSelector = p.Spec.PodSelector
	only.Spec.PolicyTypes = []networkingv1.PolicyType{t}
	if t == networkingv1.PolicyTypeIngress {
		only.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: r.peers, Ports: r.ports}}
	} else {
		only.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: r.peers, Ports: r.ports}}
	}
	s := x.few
	s.NetworkPolicies = []*networkingv1.NetworkPolicy{only}
	engine, _ := evaluator.Compile(s)
	d := engine.Decide(x.f)
	if t == networkingv1.PolicyTypeIngress {
		return d.Ingress
	}
	return d.Egress
}
