package evaluator

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestX1InvalidPoliciesAreProblems(t *testing.T) {
	in := func(ports string) string { return `{ingress: [{ports: [` + ports + `]}]}` }
	from := func(peer string) string { return `{ingress: [{from: [` + peer + `]}]}` }
	tests := map[string]struct {
		spec, wantField, wantMessage string
	}{
		"policy type":             {`{policyTypes: [ingress]}`, "spec.policyTypes[0]", "write Ingress or Egress"},
		"three policy types":      {`{policyTypes: [Ingress, Egress, Ingress]}`, "spec.policyTypes", "at most once"},
		"operator":                {`{podSelector: {matchExpressions: [{key: a, operator: Equals, values: [b]}]}}`, "spec.podSelector.matchExpressions[0].operator", "write In, NotIn, Exists or DoesNotExist"},
		"values of Exists":        {`{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}`, "spec.podSelector", "none for Exists"},
		"values of In":            {`{podSelector: {matchExpressions: [{key: a, operator: In}]}}`, "spec.podSelector", "values for In"},
		"label value":             {from(`{podSelector: {matchLabels: {app: "a b"}}}`), "spec.ingress[0].from[0].podSelector", "write label keys and values"},
		"label key":               {from(`{namespaceSelector: {matchLabels: {"-": a}}}`), "spec.ingress[0].from[0].namespaceSelector", "write label keys and values"},
		"empty peer":              {from(`{}`), "spec.ingress[0].from[0]", "write podSelector, namespaceSelector or ipBlock"},
		"block and selector":      {from(`{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}`), "spec.ingress[0].from[0]", "two items"},
		"address for CIDR":        {from(`{ipBlock: {cidr: 10.0.0.1}}`), "spec.ingress[0].from[0].ipBlock.cidr", "a prefix length"},
		"leading zero":            {from(`{ipBlock: {cidr: 010.0.0.0/8}}`), "spec.ingress[0].from[0].ipBlock.cidr", "is not a CIDR"},
		"no CIDR":                 {from(`{ipBlock: {}}`), "spec.ingress[0].from[0].ipBlock.cidr", "is not a CIDR"},
		"IPv4 as IPv6":            {from(`{ipBlock: {cidr: "::ffff:10.0.0.0/104"}}`), "spec.ingress[0].from[0].ipBlock.cidr", "write it as IPv4"},
		"except is not a CIDR":    {from(`{ipBlock: {cidr: 10.0.0.0/8, except: [x]}}`), "spec.ingress[0].from[0].ipBlock.except[0]", "is not a CIDR"},
		"except outside":          {from(`{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}`), "spec.ingress[0].from[0].ipBlock.except[0]", "inside of it"},
		"except is all":           {from(`{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}`), "spec.ingress[0].from[0].ipBlock.except[0]", "inside of it"},
		"except of other family":  {from(`{ipBlock: {cidr: 10.0.0.0/8, except: ["2001:db8::/64"]}}`), "spec.ingress[0].from[0].ipBlock.except[0]", "inside of it"},
		"egress peer":             {`{egress: [{}, {to: [{ipBlock: {cidr: x}}]}]}`, "spec.egress[1].to[0].ipBlock.cidr", "is not a CIDR"},
		"protocol":                {in(`{protocol: ICMP}`), "spec.ingress[0].ports[0].protocol", "write TCP, UDP or SCTP"},
		"port 0":                  {in(`{port: 0}`), "spec.ingress[0].ports[0].port", "from 1 to 65535"},
		"port too high":           {in(`{port: 65536}`), "spec.ingress[0].ports[0].port", "from 1 to 65535"},
		"quoted number":           {in(`{port: "80"}`), "spec.ingress[0].ports[0].port", "without quotes"},
		"upper-case name":         {in(`{port: HTTP}`), "spec.ingress[0].ports[0].port", "lower-case"},
		"empty name":              {in(`{port: ""}`), "spec.ingress[0].ports[0].port", "lower-case"},
		"endPort below port":      {in(`{port: 80, endPort: 79}`), "spec.ingress[0].ports[0].endPort", "from 80 to 65535"},
		"endPort too high":        {in(`{port: 80, endPort: 65536}`), "spec.ingress[0].ports[0].endPort", "from 80 to 65535"},
		"endPort without port":    {in(`{endPort: 80}`), "spec.ingress[0].ports[0].endPort", "as port"},
		"endPort of a named port": {in(`{port: http, endPort: 80}`), "spec.ingress[0].ports[0].endPort", "leave endPort out"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := shop()
			s.NetworkPolicies = append(s.NetworkPolicies, newPolicy(t, "shop/p", tc.spec))
			e, problems := Compile(s)
			if len(problems) != 1 {
				t.Fatalf("got problems %v, want one", problems)
			}
			got := problems[0]
			if !strings.Contains(got.Message, tc.wantMessage) {
				t.Errorf("message %q does not say %q", got.Message, tc.wantMessage)
			}
			got.Message = ""
			want := Problem{Kind: "NetworkPolicy", Namespace: "shop", Name: "p", Field: tc.wantField}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("problem (-want +got):\n%s", diff)
			}
			text := "shop/web -> shop/db TCP/80"
			if strings.HasPrefix(tc.wantField, "spec.egress") {
				text = "shop/db -> ops/web TCP/80"
			}
			if d := e.Decide(newFlow(t, text)); d.Verdict != Undefined || d.Rule != RuleInvalidPolicy {
				t.Errorf("%s: got %s %s, want Undefined X1", text, d.Verdict, d.Rule)
			}
			if d := e.Decide(newFlow(t, "shop/{a=b} -> ops/tool TCP/80")); strings.HasPrefix(tc.wantField, "spec.ingress") && d.Verdict != Allowed {
				t.Errorf("an ingress policy of another namespace decides: got %s %s", d.Verdict, d.Reason)
			}
		})
	}
}

func TestX1TheAnswerStandsIfTheInvalidPolicyCannotChangeIt(t *testing.T) {
	const broken = `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{}]}]}`
	const unreadable = `{podSelector: {matchExpressions: [{key: a, operator: Bad}]}, policyTypes: [Ingress]}`
	runDecide(t, shop(), map[string]decideCase{
		"pods that it does not select": {
			policies: map[string]string{"shop/p": broken}, invalid: true,
			want: map[string]string{
				"shop/db -> shop/web TCP/80": "Allowed", "shop/web -> ops/web TCP/80": "Allowed", "shop/web -> shop/db TCP/80": "Undefined X1",
			},
		},
		"an unreadable selector may select every pod of the namespace": {
			policies: map[string]string{"shop/p": unreadable}, invalid: true,
			want: map[string]string{
				"shop/db -> shop/web TCP/80": "Undefined X1", "shop/web -> shop/db TCP/80": "Undefined X1", "shop/web -> ops/web TCP/80": "Allowed",
			},
		},
		"a valid policy allows": {
			policies: map[string]string{"shop/p": broken, "shop/q": `{ingress: [{ports: [{port: 80}]}]}`}, invalid: true,
			want: map[string]string{"shop/web -> shop/db TCP/80": "Allowed", "shop/web -> shop/db TCP/81": "Undefined X1", "shop/db -> shop/web TCP/81": "Denied"},
		},
		"the other direction denies": {
			policies: map[string]string{"shop/p": broken, "ops/q": `policyTypes: [Egress]`}, invalid: true,
			want: map[string]string{"ops/web -> shop/db TCP/80": "Denied"},
		},
		"an unknown policy type leaves both directions open": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: db}}, policyTypes: [Engress]}`}, invalid: true,
			want: map[string]string{"shop/web -> shop/db TCP/80": "Undefined X1", "shop/db -> shop/web TCP/80": "Undefined X1"},
		},
		"host bits in a CIDR are tolerated": {
			policies: map[string]string{"shop/p": `{ingress: [{from: [{ipBlock: {cidr: 203.0.113.77/24, except: [203.0.113.200/25]}}]}]}`},
			want:     map[string]string{"203.0.113.1 -> shop/db TCP/80": "Allowed", "203.0.113.128 -> shop/db TCP/80": "Denied"},
		},
		"a policy without namespace may be anywhere": {
			policies: map[string]string{"/p": `policyTypes: [Ingress]`}, invalid: true,
			want: map[string]string{"shop/web -> shop/db TCP/80": "Undefined X1", "shop/web -> 203.0.113.1 TCP/80": "Allowed"},
		},
	})
}

func TestX1DuplicatesAreProblems(t *testing.T) {
	s := shop()
	s.Namespaces = append(s.Namespaces, newNamespace("ops", "team=other"))
	s.Pods = append(s.Pods, newPod("shop/web", "app=other", "10.0.0.99"))
	deny := newPolicy(t, "ops/p", `policyTypes: [Ingress]`)
	open := newPolicy(t, "ops/p", `{ingress: [{}]}`)
	s.NetworkPolicies = append(s.NetworkPolicies, deny, open, newPolicy(t, "shop/q", `{ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}]}]}`))
	e, problems := Compile(s)
	var got []string
	for _, p := range problems {
		got = append(got, p.String())
	}
	want := []string{
		"Namespace /ops: metadata.name: is defined more than once, so its labels are not known: keep one definition",
		"NetworkPolicy ops/p: metadata.name: is defined more than once: keep one definition, or give the others names of their own",
		"Pod shop/web: metadata.name: is defined more than once: keep one definition",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	for text, rule := range map[string]string{
		"shop/web -> ops/tool TCP/80": RuleIncomplete, "10.0.0.99 -> ops/tool TCP/80": RuleIncomplete,
		"shop/db -> ops/tool TCP/80": RuleInvalidPolicy, "ops/tool -> shop/db TCP/80": RuleIncomplete,
	} {
		if d := e.Decide(newFlow(t, text)); d.Verdict != Undefined || d.Rule != rule {
			t.Errorf("%s: got %s %s, want Undefined %s", text, d.Verdict, d.Rule, rule)
		}
	}
}

func TestX1UnreadablePodsAreProblems(t *testing.T) {
	s := shop()
	s.Pods = append(s.Pods, nil, newPod("/p", ""), newPod("shop/bad", "", "10.0.0.300"))
	s.Namespaces = append(s.Namespaces, nil)
	s.NetworkPolicies = append(s.NetworkPolicies, nil)
	_, problems := Compile(s)
	var got []string
	for _, p := range problems {
		got = append(got, p.Kind+" "+p.Namespace+"/"+p.Name+" "+p.Field)
	}
	want := []string{"Pod /p metadata", "Pod shop/bad status.podIP", "Pod shop/bad status.podIPs[0].ip"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestDecisionsNameTheirPolicies(t *testing.T) {
	s := shop()
	for name, spec := range map[string]string{
		"shop/z-allow": `{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 80}]}]}`,
		"shop/b-allow": `{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 1}]}, {from: [{podSelector: {}}]}]}`,
		"shop/a-deny":  `policyTypes: [Ingress]`,
		"shop/other":   `{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}`,
	} {
		s.NetworkPolicies = append(s.NetworkPolicies, newPolicy(t, name, spec))
	}
	got := compile(t, s).Decide(newFlow(t, "shop/web -> shop/db TCP/80"))
	ref := func(name string) PolicyRef { return PolicyRef{Namespace: "shop", Name: name} }
	want := Decision{
		Verdict: Allowed,
		Egress:  DirectionDecision{Verdict: Allowed},
		Ingress: DirectionDecision{
			Verdict:   Allowed,
			Tier:      TierNetworkPolicy,
			Isolating: []PolicyRef{ref("a-deny"), ref("b-allow"), ref("z-allow")},
			AllowedBy: &RuleRef{PolicyRef: ref("b-allow"), Index: 1},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decision (-want +got):\n%s", diff)
	}
}

func TestUnknownProtocolOfADeclaredPortIsNoMatch(t *testing.T) {
	s := shop()
	p := newPod("shop/a", "app=a", "10.0.2.1")
	p.Spec.Containers = []corev1.Container{container("http=80/HTTP", "=81/TCP")}
	p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, corev1.ContainerPort{Name: "big", ContainerPort: 70000})
	s.Pods = append(s.Pods, p)
	runDecide(t, s, map[string]decideCase{
		"names": {
			policies: map[string]string{"shop/p": `{ingress: [{ports: [{port: http}, {port: big}]}]}`},
			want:     map[string]string{"shop/web -> shop/a TCP/80": "Denied", "shop/web -> shop/a TCP/4464": "Denied"},
		},
	})
}
