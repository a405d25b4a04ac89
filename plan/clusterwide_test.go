package plan

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha1 "sigs.k8s.io/network-policy-api/apis/v1alpha1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"

	"github.com/pathproof/pathproof/evaluator"
)

// withClusterWide adds one policy without a namespace: cnp, anp or banp.
func withClusterWide(t *testing.T, kind, spec string) func(*Snapshot) {
	t.Helper()
	read := func(into any) {
		if err := yaml.UnmarshalStrict([]byte(spec), into); err != nil {
			t.Fatalf("test input: %v", err)
		}
	}
	meta := metav1.ObjectMeta{Name: "default"}
	cnp, anp, banp := policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: meta}, policyv1alpha1.AdminNetworkPolicy{ObjectMeta: meta}, policyv1alpha1.BaselineAdminNetworkPolicy{ObjectMeta: meta}
	switch kind {
	case "cnp":
		read(&cnp.Spec)
		return func(s *Snapshot) { s.ClusterNetworkPolicies = append(s.ClusterNetworkPolicies, &cnp) }
	case "anp":
		read(&anp.Spec)
		return func(s *Snapshot) { s.AdminNetworkPolicies = append(s.AdminNetworkPolicies, &anp) }
	default:
		read(&banp.Spec)
		return func(s *Snapshot) { s.BaselineAdminNetworkPolicies = append(s.BaselineAdminNetworkPolicies, &banp) }
	}
}

// clusterWideSpecs writes the same policy in each kind.
func clusterWideSpecs(subject, rules string) map[string]string {
	return map[string]string{
		"cnp":  "{tier: Admin, priority: 1, subject: " + subject + ", " + rules + "}",
		"anp":  "{priority: 1, subject: " + subject + ", " + rules + "}",
		"banp": "{subject: " + subject + ", " + rules + "}",
	}
}

func TestPredictRangesOfClusterWidePolicies(t *testing.T) {
	to := path("to: {address: {cidr: '203.0.113.0/24', ips: ['203.0.113.10']}}, ports: [{port: 443}]")
	cases := map[string]struct {
		network string
		want    evaluator.Verdict
	}{
		"exactly the range":         {"203.0.113.0/24", evaluator.Denied},
		"everything":                {"0.0.0.0/0", evaluator.Denied},
		"beside the range":          {"203.0.114.0/24", evaluator.Allowed},
		"the half that is probed":   {"203.0.113.0/25", evaluator.Undefined},
		"the half that is not":      {"203.0.113.128/25", evaluator.Undefined},
		"one address in the middle": {"203.0.113.77/32", evaluator.Undefined},
	}
	for name, tc := range cases {
		for kind, spec := range clusterWideSpecs("{namespaces: {}}", "egress: [{action: Deny, to: [{networks: ["+tc.network+"]}]}]") {
			t.Run(name+", "+kind, func(t *testing.T) {
				e, _ := predictFirst(t, to, nil, withClusterWide(t, kind, spec))
				if e.Prediction.Verdict != tc.want {
					t.Errorf("got %v (%s), want %v", e.Prediction.Verdict, e.Prediction.Reason, tc.want)
				}
				if tc.want == evaluator.Undefined && !strings.Contains(e.Prediction.Reason, "differently") {
					t.Errorf("got the reason %q", e.Prediction.Reason)
				}
			})
		}
	}
}

func TestDivergenceByClusterWidePolicies(t *testing.T) {
	pods := func(label string) string {
		return "{pods: {namespaceSelector: {}, podSelector: {matchLabels: {" + label + "}}}}"
	}
	cases := map[string]struct {
		subject, rules string
		want           bool
	}{
		"the application's label":     {pods("app: web"), "egress: [{action: Deny, to: [{namespaces: {}}]}]", false},
		"the hash in the subject":     {pods("pod-template-hash: '2'"), "egress: [{action: Deny, to: [{namespaces: {}}]}]", true},
		"the hash in a source":        {"{namespaces: {}}", "ingress: [{action: Deny, from: [" + pods("pod-template-hash: '1'") + "]}]", true},
		"the hash of nobody":          {"{namespaces: {}}", "ingress: [{action: Deny, from: [" + pods("pod-template-hash: '9'") + "]}]", false},
		"the hash in a target":        {"{namespaces: {}}", "egress: [{action: Deny, to: [" + pods("pod-template-hash: '1'") + "]}]", false},
		"everybody, by the namespace": {"{namespaces: {}}", "ingress: [{action: Deny, from: [{namespaces: {}}]}]", false},
	}
	for name, tc := range cases {
		for kind, spec := range clusterWideSpecs(tc.subject, tc.rules) {
			t.Run(name+", "+kind, func(t *testing.T) {
				e, _ := predictFirst(t, path(toDB), nil, withClusterWide(t, kind, spec))
				if e.Diverges() != tc.want {
					t.Errorf("diverges: %v (probe %v, workload %v), want %v", e.Diverges(), e.Prediction.Verdict, e.Workload.Verdict, tc.want)
				}
			})
		}
	}
}

func TestProvenanceHoldsClusterWidePolicies(t *testing.T) {
	const deny = "ingress: [{action: Deny, from: [{namespaces: {}}]}]"
	cases := map[string]struct {
		subject     string
		wantChanged bool
	}{
		"every namespace":             {"{namespaces: {}}", true},
		"the namespace of the paths":  {"{namespaces: {matchLabels: {kubernetes.io/metadata.name: ns}}}", true},
		"the target alone":            {"{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ns}}, podSelector: {matchLabels: {app: db}}}}", true},
		"the source alone":            {"{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ns}}, podSelector: {matchLabels: {app: web}}}}", false},
		"other pods of its namespace": {"{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ns}}, podSelector: {matchLabels: {app: x}}}}", false},
		"another namespace":           {"{namespaces: {matchLabels: {team: x}}}", false},
		"pods of another namespace":   {"{pods: {namespaceSelector: {matchLabels: {team: x}}, podSelector: {}}}", false},
		"a subject that says nothing": {"{}", true},
		"a subject without sense":     {"{namespaces: {matchExpressions: [{key: a, operator: Is}]}}", true},
	}
	before := resolve(t, path(toDB), nil).Provenance
	for name, tc := range cases {
		for kind, spec := range clusterWideSpecs(tc.subject, deny) {
			t.Run(name+", "+kind, func(t *testing.T) {
				added := resolve(t, path(toDB), withClusterWide(t, kind, spec)).Provenance
				if got := added != before; got != tc.wantChanged {
					t.Errorf("provenance changed: %v, want %v", got, tc.wantChanged)
				}
				changed := resolve(t, path(toDB), withClusterWide(t, kind, strings.Replace(spec, "Deny", "Allow", 1))).Provenance
				if got := changed != added; got != tc.wantChanged {
					t.Errorf("provenance changed with the spec: %v, want %v", got, tc.wantChanged)
				}
			})
		}
	}
	t.Run("labels of a namespace that is not listed could be any", func(t *testing.T) {
		gone := func(s *Snapshot) { s.Namespaces = slices.Clone(s.Namespaces)[1:] }
		other := withClusterWide(t, "cnp", clusterWideSpecs("{namespaces: {matchLabels: {team: z}}}", deny)["cnp"])
		if resolve(t, path(toDB), gone).Provenance == resolve(t, path(toDB), func(s *Snapshot) { gone(s); other(s) }).Provenance {
			t.Error("the policy is not in the provenance")
		}
	})
}

func TestProvenanceHoldsWhatIsAssumed(t *testing.T) {
	assume := func(p evaluator.Profile) func(*Snapshot) { return func(s *Snapshot) { s.Profile = p } }
	seen := map[string]evaluator.Profile{}
	for _, p := range []evaluator.Profile{{}, {IPBlockMatchesPods: evaluator.True}, {IPBlockMatchesPods: evaluator.False}, {PodReachesOwnNode: evaluator.True}} {
		provenance := resolve(t, path(toDB), assume(p)).Provenance
		if other, ok := seen[provenance]; ok {
			t.Errorf("%q and %q have the same provenance", p, other)
		}
		seen[provenance] = p
	}
}
