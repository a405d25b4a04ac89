package explain

import (
	"fmt"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/pathproof/pathproof/evaluator"
)

// ClusterPolicy explains what a cluster-wide policy does about one direction.
type ClusterPolicy struct {
	Name string `json:"name"`
	// Priority is empty for a kind that has none.
	Priority *int32 `json:"priority,omitempty"`
	// NotReached says why the policy is not asked; empty if it is.
	NotReached string `json:"notReached,omitempty"`
	// Rules are in the order in which they are asked.
	Rules []ClusterRule `json:"rules,omitempty"`
	// Note says what else there is to know, such as a policy that disagrees.
	Note string `json:"note,omitempty"`
}

// ClusterRule explains one rule of a cluster-wide policy.
type ClusterRule struct {
	Index int    `json:"index"`
	Title string `json:"title,omitempty"`
	// Text is the rule in words, and begins with its action.
	Text string `json:"text"`
	// Answer is Matches, MayMatch, DoesNotMatch or NotReached.
	Answer string `json:"answer"`
	// Why says what does not match, what is not settled, or what a match leads to.
	Why []string `json:"why,omitempty"`
}

// What a rule of a cluster-wide policy does about a flow.
const (
	Matches      = "Matches"
	MayMatch     = "MayMatch"
	DoesNotMatch = "DoesNotMatch"
	NotReached   = "NotReached"
)

// Actions of rules, as they are meant and not as they are written.
const (
	accepts = "accepts"
	denies  = "denies"
	passes  = "passes"
)

// line is one of the orders in which policies are asked: each version of the API has
// its own in each tier (rule S31).
type line struct {
	tier   evaluator.Tier
	legacy bool
}

// stop is where a line ends: at the first priority at which a policy matches for
// certain. The action is empty if a rule before the one that does may match.
type stop struct {
	policy   *widePolicy
	action   string
	explains *ClusterPolicy
}

// walk goes through the cluster-wide policies of one direction, in the order in which
// they are asked.
type walk struct {
	*explainer
	egress   bool
	decision evaluator.DirectionDecision
	stops    map[line]*stop
}

// clusterPolicies explains the policies of both tiers.
func (x *explainer) clusterPolicies(egress bool, d evaluator.DirectionDecision) (admin, baseline []*ClusterPolicy) {
	w := walk{explainer: x, egress: egress, decision: d, stops: map[line]*stop{}}
	for _, ref := range d.Selecting {
		p := x.wide(ref, egress)
		if p == nil {
			continue
		}
		out := w.policy(p)
		if p.tier == evaluator.TierBaseline {
			baseline = append(baseline, out)
		} else {
			admin = append(admin, out)
		}
	}
	for _, tier := range []evaluator.Tier{evaluator.TierAdmin, evaluator.TierBaseline} {
		a, b := w.stops[line{tier, true}], w.stops[line{tier, false}]
		if a != nil && b != nil && a.action != b.action && a.action != "" && b.action != "" {
			b.explains.Note = fmt.Sprintf("%s %s it: nothing says which of the two kinds comes first (rule S31)", a.policy.ref, a.action)
		}
	}
	return admin, baseline
}

// policy explains one policy.
func (w *walk) policy(p *widePolicy) *ClusterPolicy {
	out := &ClusterPolicy{Name: p.ref.String()}
	if p.ref.Kind != "BaselineAdminNetworkPolicy" {
		out.Priority = &p.priority
	}
	if out.NotReached = w.notReached(p); out.NotReached != "" {
		return out
	}
	if w.invalid(p) {
		out.Note = "it is not valid, so what it allows and denies is not known (rule X1)"
		return out
	}
	var matched string
	open := false
	for i := range p.rules {
		r := ClusterRule{Index: i, Title: p.rules[i].title, Text: p.rules[i].text(w.egress)}
		if matched != "" {
			r.Answer = NotReached
			out.Rules = append(out.Rules, r)
			continue
		}
		var action string
		r.Answer, r.Why, action = w.rule(p, i)
		if r.Answer == Matches {
			matched = action
			if open {
				r.Why = append(r.Why, "a rule before it may match and decide otherwise")
			}
		}
		open = open || r.Answer == MayMatch
		out.Rules = append(out.Rules, r)
	}
	if matched != "" {
		if open {
			matched = ""
		}
		w.stopAt(p, matched, out)
	}
	return out
}

// stopAt notes that a policy matches, and whether another one of the same priority
// does something else.
func (w *walk) stopAt(p *widePolicy, action string, out *ClusterPolicy) {
	key := line{p.tier, p.legacy}
	first := w.stops[key]
	switch {
	case first == nil:
		w.stops[key] = &stop{policy: p, action: action, explains: out}
	case first.action != action && first.action != "" && action != "":
		out.Note = fmt.Sprintf("%s has the same priority and %s it: either of the two may be applied (rule S29)", first.policy.ref, first.action)
	}
}

// notReached says why a policy is not asked; empty if it is, or may be.
func (w *walk) notReached(p *widePolicy) string {
	if p.tier == evaluator.TierBaseline {
		switch {
		case w.adminDecides():
			return "the Admin tier has decided"
		case w.isolates():
			return "a NetworkPolicy isolates the pod, and what the NetworkPolicies say is final"
		}
	}
	if s := w.stops[line{p.tier, p.legacy}]; s != nil && s.policy.priority < p.priority {
		return s.policy.ref.String() + " matches first"
	}
	return ""
}

// adminDecides tells whether the Admin tier has accepted or denied for certain.
func (w *walk) adminDecides() bool {
	d := &w.decision
	return d.Tier == evaluator.TierAdmin && (d.DeniedBy != nil || (d.AllowedBy != nil && d.AllowedBy.IsClusterWide()))
}

// isolates tells whether a NetworkPolicy isolates the subject for certain: one that
// is invalid may not be in force.
func (w *walk) isolates() bool {
	for _, ref := range w.decision.Isolating {
		if p := w.explainer.policy(ref); p != nil {
			if _, problems := evaluator.Compile(evaluator.Snapshot{NetworkPolicies: []*networkingv1.NetworkPolicy{p}}); len(problems) == 0 {
				return true
			}
		}
	}
	return false
}

// invalid tells whether the evaluator refuses a policy.
func (w *walk) invalid(p *widePolicy) bool {
	s := evaluator.Snapshot{}
	for _, o := range w.snapshot.ClusterNetworkPolicies {
		if p.ref.Kind == "ClusterNetworkPolicy" && o.Name == p.ref.Name {
			s.ClusterNetworkPolicies = append(s.ClusterNetworkPolicies, o)
		}
	}
	for _, o := range w.snapshot.AdminNetworkPolicies {
		if p.ref.Kind == "AdminNetworkPolicy" && o.Name == p.ref.Name {
			s.AdminNetworkPolicies = append(s.AdminNetworkPolicies, o)
		}
	}
	for _, o := range w.snapshot.BaselineAdminNetworkPolicies {
		if p.ref.Kind == "BaselineAdminNetworkPolicy" && o.Name == p.ref.Name {
			s.BaselineAdminNetworkPolicies = append(s.BaselineAdminNetworkPolicies, o)
		}
	}
	_, problems := evaluator.Compile(s)
	return len(problems) > 0
}

// rule explains one rule, and says what a match of it does.
func (w *walk) rule(p *widePolicy, index int) (answer string, why []string, action string) {
	r := &p.rules[index]
	action = map[string]string{"Accept": accepts, "Allow": accepts, "Deny": denies, "Pass": passes}[r.action]
	switch {
	case r.unknown() && action == accepts:
		return DoesNotMatch, []string{"it has a peer of a kind that is not known, and so matches nothing (rule S35)"}, ""
	case r.unknown():
		return Matches, []string{"it has a peer of a kind that is not known, and so denies everything (rule S35)"}, denies
	}
	switch answer, reason := w.askRule(p, r); answer {
	case MayMatch:
		return MayMatch, []string{reason}, action
	case Matches:
		next := map[string]string{accepts: "it accepts this connection", denies: "it denies this connection", passes: "it leaves this connection to the NetworkPolicies"}[action]
		if action == passes && p.tier == evaluator.TierBaseline {
			next = "it leaves this connection to the default, which allows"
		}
		return Matches, []string{next}, action
	}
	other, end := w.from, w.f.From
	if w.egress {
		other, end = w.to, w.f.To
	}
	anyPort := wideRule{peers: r.peers}
	byPeers, reason := w.askRule(p, &anyPort)
	switch byPeers {
	case DoesNotMatch:
		why = append(why, fmt.Sprintf("it is about %s, which %s is not", r.peersText(), named(end, other)))
	case MayMatch:
		why = append(why, reason)
	}
	if byPeers != DoesNotMatch || !w.portMatches(r) {
		text := fmt.Sprintf("it is about %s, not about %s/%d", r.portsText(), w.f.Protocol, w.f.Port)
		if names := r.portNames(); names != "" {
			text += fmt.Sprintf(" (%s is looked up among the ports of %s)", names, w.f.To)
		}
		if byPeers == MayMatch {
			why = nil
		}
		why = append(why, text)
	}
	return DoesNotMatch, why, ""
}

// portNames lists the named ports.
func (r *wideRule) portNames() string {
	var out []string
	for _, p := range r.protocols {
		if p.DestinationNamedPort != "" {
			out = append(out, p.DestinationNamedPort)
		}
	}
	return strings.Join(out, ", ")
}

// portMatches tells whether the rule is about the port of the flow, or may be.
func (w *walk) portMatches(r *wideRule) bool {
	in := func(protocol string, p *policyv1alpha2.Port) bool {
		switch {
		case string(w.f.Protocol) != protocol:
			return false
		case p == nil:
			return true
		case p.Range != nil:
			return p.Range.Start <= int32(w.f.Port) && int32(w.f.Port) <= p.Range.End
		}
		return p.Number == int32(w.f.Port)
	}
	for _, p := range r.protocols {
		switch {
		case p.TCP != nil && in("TCP", p.TCP.DestinationPort), p.UDP != nil && in("UDP", p.UDP.DestinationPort),
			p.SCTP != nil && in("SCTP", p.SCTP.DestinationPort), p.DestinationNamedPort != "":
			return true
		}
	}
	return len(r.protocols) == 0
}

// askRule has the evaluator decide as if the policy accepted by nothing but this
// rule, and a NetworkPolicy denied everything else. That tells whether the rule
// matches, whatever its action is.
func (w *walk) askRule(p *widePolicy, r *wideRule) (answer, reason string) {
	only := &policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: p.ref.Name}}
	only.Spec.Tier, only.Spec.Subject = policyv1alpha2.AdminTier, p.subject
	closed := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "closed"}}
	const accept = policyv1alpha2.ClusterNetworkPolicyRuleActionAccept
	if w.egress {
		only.Spec.Egress = []policyv1alpha2.ClusterNetworkPolicyEgressRule{{Action: accept, To: r.peers, Protocols: r.protocols}}
		closed.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
	} else {
		only.Spec.Ingress = []policyv1alpha2.ClusterNetworkPolicyIngressRule{{Action: accept, From: r.ingress(), Protocols: r.protocols}}
		closed.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	}
	subject, end := w.to, w.f.To
	if w.egress {
		subject, end = w.from, w.f.From
	}
	if closed.Namespace = end.Namespace; subject != nil {
		closed.Namespace = subject.Namespace
	}
	s := w.few
	s.ClusterNetworkPolicies, s.NetworkPolicies = []*policyv1alpha2.ClusterNetworkPolicy{only}, []*networkingv1.NetworkPolicy{closed}
	// Cluster-wide policies know no exception for the own node (rule S34).
	s.Profile.PodReachesOwnNode = evaluator.False
	engine, _ := evaluator.Compile(s)
	decision := engine.Decide(w.f)
	d := decision.Ingress
	if w.egress {
		d = decision.Egress
	}
	switch {
	case d.AllowedBy != nil && d.AllowedBy.IsClusterWide():
		return Matches, ""
	case d.Verdict == evaluator.Undefined && d.Rule != "S14":
		return MayMatch, strings.NewReplacer(
			"rule 0 of ClusterNetworkPolicy "+p.ref.Name+" ", "it ",
			"ClusterNetworkPolicy "+p.ref.Name, p.ref.String(),
		).Replace(d.Reason)
	}
	return DoesNotMatch, ""
}
