package evaluator

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	policyv1alpha1 "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

func TestX1InvalidClusterWidePoliciesAreProblems(t *testing.T) {
	const valid = `{namespaces: {}}`
	spec := func(rules string) string {
		return `{tier: Admin, priority: 1, subject: {namespaces: {}}, ` + rules + `}`
	}
	rule := func(rule string) string { return spec(`ingress: [{` + rule + `}]`) }
	peer := func(peer string) string { return rule(`action: Deny, from: [` + peer + `]`) }
	port := func(port string) string {
		return rule(`action: Deny, from: [` + valid + `], protocols: [` + port + `]`)
	}
	to := func(action, peer, more string) string {
		return spec(`egress: [{action: ` + action + `, to: [` + peer + `]` + more + `}]`)
	}
	older := func(rule string) string {
		return `{priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [` + valid + `]` + rule + `}]}`
	}
	tests := map[string]struct {
		policy, spec, wantField, wantMessage string
	}{
		"tier":                {"cnp:p", `{tier: Adnim, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [` + valid + `]}]}`, "spec.tier", "write Admin or Baseline"},
		"negative priority":   {"cnp:p", `{tier: Baseline, priority: -1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [` + valid + `]}]}`, "spec.priority", "from 0 to 1000"},
		"priority too high":   {"anp:p", `{priority: 1001, subject: {namespaces: {}}, ingress: [{action: Deny, from: [` + valid + `]}]}`, "spec.priority", "from 0 to 1000"},
		"no subject":          {"cnp:p", `{tier: Admin, priority: 1, subject: {}, ingress: [{action: Deny, from: [` + valid + `]}]}`, "spec.subject", "write namespaces or pods"},
		"two subjects":        {"cnp:p", `{tier: Admin, priority: 1, subject: {namespaces: {}, pods: {namespaceSelector: {}, podSelector: {}}}, ingress: [{action: Deny, from: [` + valid + `]}]}`, "spec.subject", "exactly one field"},
		"subject's namespace": {"cnp:p", `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {"-": a}}}, ingress: [{action: Deny, from: [` + valid + `]}]}`, "spec.subject.namespaces", "write label keys"},
		"subject's pods":      {"anp:p", `{priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {matchExpressions: [{key: a, operator: Is}]}}}, ingress: [{action: Deny, from: [` + valid + `]}]}`, "spec.subject.pods.podSelector.matchExpressions[0].operator", "write In"},
		"action":              {"cnp:p", rule(`action: Allow, from: [` + valid + `]`), "spec.ingress[0].action", "write Accept, Deny or Pass"},
		"action of v1alpha1":  {"anp:p", strings.Replace(older(``), "Deny", "Accept", 1), "spec.ingress[0].action", "write Allow, Deny or Pass"},
		"action of Baseline":  {"banp:default", `{subject: {namespaces: {}}, ingress: [{action: Pass, from: [` + valid + `]}]}`, "spec.ingress[0].action", "write Allow or Deny"},
		"name of Baseline":    {"banp:p", `{subject: {namespaces: {}}, ingress: [{action: Deny, from: [` + valid + `]}]}`, "metadata.name", "write default"},
		"no name":             {"cnp:", peer(valid), "metadata.name", "write a name"},
		"no peers":            {"cnp:p", rule(`action: Deny`), "spec.ingress[0].from", "at least one peer"},
		"two kinds of peers":  {"cnp:p", peer(`{namespaces: {}, pods: {namespaceSelector: {}, podSelector: {}}}`), "spec.ingress[0].from[0]", "items of their own"},
		"peer's selector":     {"cnp:p", peer(valid + `, {pods: {namespaceSelector: {}, podSelector: {matchLabels: {a: "b c"}}}}`), "spec.ingress[0].from[1].pods.podSelector", "write label keys"},
		"networks":            {"cnp:p", to("Deny", `{networks: [10.0.0.0/8, 10.0.0.1]}`, ``), "spec.egress[0].to[0].networks[1]", "is not a CIDR"},
		"no networks":         {"cnp:p", to("Deny", `{networks: []}`, ``), "spec.egress[0].to[0].networks", "at least one CIDR"},
		"nodes":               {"cnp:p", to("Deny", `{nodes: {matchLabels: {"-": a}}}`, ``), "spec.egress[0].to[0].nodes", "write label keys"},
		"a name to deny":      {"cnp:p", to("Deny", `{domainNames: [example.org]}`, ``), "spec.egress[0].to[0].domainNames", "accept only"},
		"not a domain name":   {"cnp:p", to("Accept", `{domainNames: ["*"]}`, ``), "spec.egress[0].to[0].domainNames[0]", "*.example.org"},
		"no domain names":     {"cnp:p", to("Accept", `{domainNames: []}`, ``), "spec.egress[0].to[0].domainNames", "at least one"},
		"named port":          {"cnp:p", to("Deny", `{namespaces: {}}, {networks: [10.0.0.0/8]}`, `, protocols: [{destinationNamedPort: http}]`), "spec.egress[0].protocols", "write the number"},
		"named port, v1alpha1": {"anp:p", `{priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{nodes: {}}], ports: [{namedPort: http}]}]}`,
			"spec.egress[0].ports", "write the number"},
		"no protocols":        {"cnp:p", port(``), "spec.ingress[0].protocols", "leave it out"},
		"empty protocol":      {"cnp:p", port(`{}`), "spec.ingress[0].protocols[0]", "write tcp, udp, sctp or destinationNamedPort"},
		"two protocols":       {"cnp:p", port(`{tcp: {destinationPort: {number: 1}}, udp: {destinationPort: {number: 1}}}`), "spec.ingress[0].protocols[0]", "exactly one field"},
		"empty port":          {"cnp:p", port(`{tcp: {destinationPort: {}}}`), "spec.ingress[0].protocols[0].tcp.destinationPort", "number or range"},
		"number and range":    {"cnp:p", port(`{udp: {destinationPort: {number: 1, range: {start: 1, end: 2}}}}`), "spec.ingress[0].protocols[0].udp.destinationPort", "number or range"},
		"number":              {"cnp:p", port(`{sctp: {destinationPort: {number: 65536}}}`), "spec.ingress[0].protocols[0].sctp.destinationPort.number", "from 1 to 65535"},
		"range of one":        {"cnp:p", port(`{tcp: {destinationPort: {range: {start: 80, end: 80}}}}`), "spec.ingress[0].protocols[0].tcp.destinationPort.range.end", "or a single port"},
		"start of a range":    {"cnp:p", port(`{tcp: {destinationPort: {range: {start: 0, end: 80}}}}`), "spec.ingress[0].protocols[0].tcp.destinationPort.range.start", "from 1 to 65535"},
		"name of a port":      {"cnp:p", port(`{destinationNamedPort: "80"}`), "spec.ingress[0].protocols[0].destinationNamedPort", "without quotes"},
		"no ports":            {"anp:p", older(`, ports: []`), "spec.ingress[0].ports", "leave it out"},
		"empty item of ports": {"anp:p", older(`, ports: [{}]`), "spec.ingress[0].ports[0]", "write portNumber, portRange or namedPort"},
		"older protocol":      {"anp:p", older(`, ports: [{portNumber: {protocol: tcp, port: 80}}]`), "spec.ingress[0].ports[0].portNumber.protocol", "write TCP, UDP or SCTP"},
		"older range":         {"anp:p", older(`, ports: [{portRange: {start: 90, end: 80}}]`), "spec.ingress[0].ports[0].portRange.end", "a higher number"},
		"older number":        {"anp:p", older(`, ports: [{portNumber: {protocol: UDP, port: 0}}]`), "spec.ingress[0].ports[0].portNumber.port", "from 1 to 65535"},
		"older name":          {"anp:p", older(`, ports: [{namedPort: ""}]`), "spec.ingress[0].ports[0].namedPort", "lower-case"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			e, problems := Compile(withPolicies(t, shop(), map[string]string{tc.policy: tc.spec}))
			if len(problems) != 1 {
				t.Fatalf("got problems %v, want one", problems)
			}
			got := problems[0]
			if !strings.Contains(got.Message, tc.wantMessage) {
				t.Errorf("message %q does not say %q", got.Message, tc.wantMessage)
			}
			got.Message = ""
			kind, object, _ := strings.Cut(tc.policy, ":")
			kinds := map[string]string{"cnp": "ClusterNetworkPolicy", "anp": "AdminNetworkPolicy", "banp": "BaselineAdminNetworkPolicy"}
			if diff := cmp.Diff(Problem{Kind: kinds[kind], Name: object, Field: tc.wantField}, got); diff != "" {
				t.Errorf("problem (-want +got):\n%s", diff)
			}
			d := e.Decide(newFlow(t, "shop/web -> shop/db TCP/80"))
			if d.Verdict != Undefined || d.Rule != RuleInvalidPolicy {
				t.Errorf("got %s %s, want Undefined X1", d.Verdict, d.Rule)
			}
			checkConsistent(t, d)
			// The other direction has no rules.
			other := d.Egress
			if strings.HasPrefix(tc.wantField, "spec.egress") {
				other = d.Ingress
			}
			if other.Verdict != Allowed {
				t.Errorf("a direction without rules is decided too: %+v", other)
			}
		})
	}
}

func TestX1TheAnswerStandsIfTheInvalidClusterWidePolicyCannotChangeIt(t *testing.T) {
	broken := func(tier, priority string) string {
		return `{tier: ` + tier + `, priority: ` + priority + `, subject: {` + shopPods + `}, ingress: [{action: Drop, from: [{namespaces: {}}]}]}`
	}
	const web, tool, out = "shop/web -> shop/db TCP/80", "ops/tool -> shop/db TCP/80", "shop/db -> ops/tool TCP/80"
	runDecide(t, shop(), map[string]decideCase{
		"pods that it does not select": {
			policies: map[string]string{"cnp:p": broken("Admin", "5")}, invalid: true,
			want: map[string]string{web: "Undefined X1", tool: "Undefined X1", out: "Allowed"},
		},
		"a policy before it decides": {
			policies: map[string]string{"cnp:p": broken("Admin", "5"), "cnp:a": cnp("Admin", "4", in("Deny", opsPods))}, invalid: true,
			want: map[string]string{web: "Undefined X1", tool: "Denied"},
		},
		"a policy of the same priority does not": {
			policies: map[string]string{"cnp:p": broken("Admin", "5"), "cnp:a": cnp("Admin", "5", in("Deny", opsPods))}, invalid: true,
			want: map[string]string{tool: "Undefined X1"},
		},
		"the Admin tier decides before a baseline": {
			policies: map[string]string{"cnp:p": broken("Baseline", "5"), "cnp:a": cnp("Admin", "9", in("Accept", opsPods))}, invalid: true,
			want: map[string]string{web: "Undefined X1", tool: "Allowed"},
		},
		"a NetworkPolicy hides a baseline": {
			policies: map[string]string{"cnp:p": broken("Baseline", "5"), "shop/p": `{ingress: [{from: [{podSelector: {}}]}]}`}, invalid: true,
			want: map[string]string{web: "Allowed", tool: "Denied"},
		},
		"an invalid NetworkPolicy may hide a baseline": {
			policies: map[string]string{"cnp:b": cnp("Baseline", "5", in("Accept", everyPod)), "shop/p": `{ingress: [{from: [{}]}]}`}, invalid: true,
			want: map[string]string{web: "Undefined X1"},
		},
		"the other direction denies": {
			policies: map[string]string{"cnp:p": broken("Admin", "5"), "ops/q": `policyTypes: [Egress]`}, invalid: true,
			want: map[string]string{tool: "Denied"},
		},
		"without a place it may come first": {
			policies: map[string]string{"cnp:p": broken("Base", "5"), "cnp:a": cnp("Admin", "0", in("Deny", opsPods))}, invalid: true,
			want: map[string]string{tool: "Undefined X1"},
		},
		"a subject that cannot be read may be any pod": {
			policies: map[string]string{"cnp:p": `{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {"-": a}}}}, ` + in("Deny", shopPods) + `}`}, invalid: true,
			want: map[string]string{web: "Undefined X1", out: "Undefined X1", "ops/tool -> 203.0.113.1 TCP/80": "Allowed"},
		},
	})
}

func TestX1ClusterWideDuplicatesAreProblems(t *testing.T) {
	specs := map[string]string{
		"cnp:p": cnp("Admin", "1", in("Deny", opsPods)), "anp:p": `{priority: 1, subject: {` + opsPods + `}, ` + in("Deny", opsPods) + `}`,
		"banp:default": `{subject: {` + opsPods + `}, ` + in("Deny", opsPods) + `}`,
	}
	s := withPolicies(t, withPolicies(t, shop(), specs), specs)
	s.ClusterNetworkPolicies = append(s.ClusterNetworkPolicies, nil)
	s.AdminNetworkPolicies = append(s.AdminNetworkPolicies, nil)
	s.BaselineAdminNetworkPolicies = append(s.BaselineAdminNetworkPolicies, nil)
	e, problems := Compile(s)
	var got []string
	for _, p := range problems {
		got = append(got, p.Kind+" "+p.Name+" "+p.Field)
	}
	want := []string{"AdminNetworkPolicy p metadata.name", "BaselineAdminNetworkPolicy default metadata.name", "ClusterNetworkPolicy p metadata.name"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if d := e.Decide(newFlow(t, "ops/tool -> shop/db TCP/80")); d.Verdict != Undefined || d.Rule != RuleInvalidPolicy {
		t.Errorf("got %s %s, want Undefined X1", d.Verdict, d.Rule)
	}
}

func TestX1AnswersHoldWhateverTheInvalidClusterWidePolicyDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawCluster(t)
		odd := drawClusterNetworkPolicy(t, "odd")
		broken := odd.DeepCopy()
		if rapid.Bool().Draw(t, "breakTier") {
			broken.Spec.Tier = "Adnim"
		} else {
			broken.Spec.Subject = policyv1alpha2.ClusterNetworkPolicySubject{}
		}
		with := func(p ...*policyv1alpha2.ClusterNetworkPolicy) *Engine {
			s := s
			s.ClusterNetworkPolicies = append(slices.Clone(s.ClusterNetworkPolicies), p...)
			e, _ := Compile(s)
			return e
		}
		e, others := with(broken), []*Engine{with(), with(odd)}
		for range flowsPerCluster {
			f := drawFlow(t, s)
			d := e.Decide(f)
			if d.Verdict == Undefined {
				continue
			}
			for i, other := range others {
				if got := other.Decide(f).Verdict; got != d.Verdict {
					describe(t, s)
					t.Fatalf("%s: got %s, but %s in the variant %d of the policy: %+v", f, d.Verdict, got, i, odd)
				}
			}
		}
	})
}

func TestX2AnswersHoldWhateverTheLabelsOfANamespaceAre(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawCluster(t)
		unlisted := s
		unlisted.Namespaces = s.Namespaces[1:]
		e, _ := Compile(unlisted)
		var others []*Engine
		for _, labels := range []string{"", "app=a", "app=b", "role=a", "role=b", "app=a,role=a", "app=a,role=b", "app=b,role=a", "app=b,role=b"} {
			listed := s
			listed.Namespaces = []*corev1.Namespace{newNamespace("n0", labels), s.Namespaces[1]}
			other, _ := Compile(listed)
			others = append(others, other)
		}
		for range flowsPerCluster {
			f := drawFlow(t, s)
			if f.From.IsIdentity() || f.To.IsIdentity() {
				continue
			}
			d := e.Decide(f)
			if d.Verdict == Undefined {
				continue
			}
			for _, other := range others {
				if got := other.Decide(f); got.Verdict != d.Verdict {
					describe(t, s)
					t.Fatalf("%s: got %s without the labels, but %s with some: %+v", f, d.Verdict, got.Verdict, got)
				}
			}
		}
	})
}

// Where an address that is not known lies is one question for all tiers: what the Admin
// tier passes because of it reaches the NetworkPolicies with it.
func TestX2TiersAgreeOnAnAddressThatIsNotKnown(t *testing.T) {
	const (
		passed  = `egress: [{action: Pass, to: [{networks: [10.0.0.0/8]}]}, {action: Accept, to: [{` + everyPod + `}]}]`
		block   = `{policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}`
		but     = `{policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]}`
		other   = `{policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}`
		planned = "shop/web -> shop/{a=b} TCP/80"
		pending = "shop/web -> shop/pending TCP/80"
	)
	s := shop()
	s.Pods = append(s.Pods, newPod("shop/pending", "app=pending"))
	for matches, want := range map[Setting]map[string]string{
		// The addresses that are passed are those that the block holds.
		True: {"block": "Allowed", "but": "Undefined X2", "other": "Undefined X2"},
		// Blocks hold no pods, so that what is passed is denied, and the rest is not.
		False: {"block": "Undefined X2", "but": "Undefined X2", "other": "Undefined X2"},
		Unset: {"block": "Undefined S10", "but": "Undefined", "other": "Undefined X2"},
	} {
		s.Profile.IPBlockMatchesPods = matches
		for name, policy := range map[string]string{"block": block, "but": but, "other": other} {
			e := compile(t, withPolicies(t, s, map[string]string{"cnp:a": cnp("Admin", "1", passed), "shop/p": policy}))
			for _, text := range []string{planned, pending} {
				d := e.Decide(newFlow(t, text))
				if got := d.Verdict.String() + " " + d.Rule; !strings.HasPrefix(got, want[name]) {
					t.Errorf("%s, %s, blocks match pods %s: got %s, want %s (%s)", text, name, matches, got, want[name], d.Reason)
				}
				checkConsistent(t, d)
			}
		}
	}
}

func TestPoliciesThatSelectNothingChangeNothing(t *testing.T) {
	nobody := metav1.LabelSelector{MatchLabels: map[string]string{"app": "nobody"}}
	rapid.Check(t, func(t *rapid.T) {
		s := drawCluster(t)
		more := s
		idle := drawClusterNetworkPolicy(t, "idle")
		idle.Spec.Subject = policyv1alpha2.ClusterNetworkPolicySubject{Namespaces: &nobody}
		idleAdmin := drawAdminNetworkPolicy(t, "idle")
		idleAdmin.Spec.Subject = policyv1alpha1.AdminNetworkPolicySubject{Pods: &policyv1alpha1.NamespacedPod{PodSelector: nobody}}
		silent := drawClusterNetworkPolicy(t, "silent")
		silent.Spec.Ingress, silent.Spec.Egress = nil, nil
		more.ClusterNetworkPolicies = append(slices.Clone(s.ClusterNetworkPolicies), idle, silent)
		more.AdminNetworkPolicies = append(slices.Clone(s.AdminNetworkPolicies), idleAdmin)
		a, _ := Compile(s)
		b, _ := Compile(more)
		for range flowsPerCluster {
			f := drawFlow(t, s)
			if diff := cmp.Diff(a.Decide(f), b.Decide(f)); diff != "" {
				describe(t, s)
				t.Fatalf("%s (-without +with):\n%s", f, diff)
			}
		}
	})
}

// A flow that meets more open questions than are tried is left open: it does not
// take forever.
func TestManyOpenQuestionsAreUndefined(t *testing.T) {
	for n, want := range map[int]string{9: "Allowed", 12: "Undefined S34", 40: "Undefined S34"} {
		specs := map[string]string{}
		for i := range n {
			name := strconv.Itoa(i)
			specs["cnp:p"+name] = cnp("Admin", "1", out("Accept", `domainNames: [n`+name+`.example.org]`))
		}
		d := compile(t, withPolicies(t, shop(), specs)).Decide(newFlow(t, "shop/web -> 203.0.113.1 TCP/80"))
		if got := strings.TrimSpace(d.Verdict.String() + " " + d.Rule); got != want {
			t.Errorf("%d policies: got %s, want %s", n, got, want)
		}
		checkConsistent(t, d)
	}
}
