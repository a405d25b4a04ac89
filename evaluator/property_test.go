package evaluator

import (
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
	"pgregory.net/rapid"
)

// flowsPerCluster is how many flows are drawn for each random cluster: compiling is
// cheap next to drawing the cluster.
const flowsPerCluster = 12

// describe renders a snapshot for the log of a failure.
func describe(t *rapid.T, s Snapshot) {
	t.Logf("profile %s", s.Profile)
	for _, n := range s.Namespaces {
		t.Logf("namespace %s %v", n.Name, n.Labels)
	}
	for _, p := range s.Pods {
		t.Logf("pod %s/%s %v ip %s host %s hostNetwork %t phase %s ports %+v", p.Namespace, p.Name, p.Labels,
			p.Status.PodIP, p.Status.HostIP, p.Spec.HostNetwork, p.Status.Phase, declaredPorts(&p.Spec))
	}
	for _, p := range s.NetworkPolicies {
		t.Logf("policy %s/%s %s", p.Namespace, p.Name, p.Spec.String())
	}
	log := func(kind, name string, spec any) {
		text, _ := json.Marshal(spec) // It cannot fail.
		t.Logf("%s %s %s", kind, name, text)
	}
	for _, p := range s.ClusterNetworkPolicies {
		log(KindClusterNetworkPolicy, p.Name, p.Spec)
	}
	for _, p := range s.AdminNetworkPolicies {
		log(KindAdminNetworkPolicy, p.Name, p.Spec)
	}
	for _, p := range s.BaselineAdminNetworkPolicies {
		log(KindBaselineAdminNetworkPolicy, p.Name, p.Spec)
	}
}

// decisionsVariable names the environment variable that says how many decisions are
// compared with those of the naive evaluator; ten million take hours. Without it,
// there are flowsPerCluster in each of rapid's checks.
const decisionsVariable = "PATHPROOF_DECISIONS"

func TestAgreesWithTheNaiveEvaluator(t *testing.T) {
	want, flows := 0, flowsPerCluster
	if text := os.Getenv(decisionsVariable); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("%s: %v", decisionsVariable, err)
		}
		want, flows = n, 8*flowsPerCluster
	}
	seen, rules, compared := map[Verdict]int{}, map[string]int{}, 0
	for first := true; first || compared < want; first = false {
		compareWithNaive(t, flows, func(d Decision) {
			seen[d.Verdict]++
			rules[d.Rule]++
			compared++
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d decisions compared: %v, rules of the undefined: %v", compared, seen, rules)
	for _, v := range []Verdict{Allowed, Denied, Undefined} {
		if seen[v] == 0 {
			t.Errorf("the random clusters never led to %s", v)
		}
	}
}

// compareWithNaive draws clusters and flows, and hands each decision over.
func compareWithNaive(t *testing.T, flows int, count func(Decision)) {
	t.Helper()
	rapid.Check(t, func(t *rapid.T) {
		s := drawCluster(t)
		e, problems := Compile(s)
		if len(problems) > 0 {
			t.Fatalf("the generator drew problems: %v", problems)
		}
		text := naiveText(s)
		for range flows {
			f := drawFlow(t, s)
			d := e.Decide(f)
			count(d)
			if want := naiveVerdict(s, text, f); d.Verdict != want {
				describe(t, s)
				t.Fatalf("%s: got %s, want %s\n%+v", f, d.Verdict, want, d)
			}
			if d.Verdict == Undefined && !slices.Contains([]string{
				RuleNamedPort, ruleIPBlock, ruleHostNetwork, ruleOwnNode, rulePriority, ruleVersions, ruleNodes, RuleIncomplete,
			}, d.Rule) {
				t.Fatalf("%s: got rule %q: %s", f, d.Rule, d.Reason)
			}
			checkConsistent(t, d)
		}
	})
}

func TestOrderOfTheSnapshotIsIrrelevant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawCluster(t)
		a, _ := Compile(s)
		b, _ := Compile(shuffle(t, s))
		for range flowsPerCluster {
			f := drawFlow(t, s)
			if diff := cmp.Diff(a.Decide(f), b.Decide(f)); diff != "" {
				describe(t, s)
				t.Fatalf("%s (-in order +shuffled):\n%s", f, diff)
			}
		}
	})
}

func TestAddingARuleNeverDenies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawCluster(t)
		p := drawPolicy(t, "grown")
		// Without this, a first egress rule isolates for egress (S2).
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
		grown := p.DeepCopy()
		grown.Spec.Ingress = append(grown.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{Ports: drawPorts(t), From: drawPeers(t)})
		grown.Spec.Egress = append(grown.Spec.Egress, networkingv1.NetworkPolicyEgressRule{Ports: drawPorts(t), To: drawPeers(t)})
		policies := s.NetworkPolicies
		s.NetworkPolicies = append(slices.Clone(policies), p)
		before, _ := Compile(s)
		s.NetworkPolicies = append(slices.Clone(policies), grown)
		after, _ := Compile(s)
		for range flowsPerCluster {
			f := drawFlow(t, s)
			if was, is := before.Decide(f), after.Decide(f); was.Verdict == Allowed && is.Verdict != Allowed {
				describe(t, s)
				t.Fatalf("%s: was Allowed, is %s: %+v", f, is.Verdict, is)
			}
		}
	})
}

func TestX1AnswersHoldWithAndWithoutTheInvalidPolicy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawCluster(t)
		valid := drawPolicy(t, "odd")
		broken := valid.DeepCopy()
		if rapid.Bool().Draw(t, "breakIngress") {
			broken.Spec.Ingress = append(broken.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: make([]networkingv1.NetworkPolicyPeer, 1)})
		} else {
			broken.Spec.PodSelector.MatchLabels = map[string]string{"not a key": ""}
		}
		without, _ := Compile(s)
		policies := s.NetworkPolicies
		s.NetworkPolicies = append(slices.Clone(policies), valid)
		with, _ := Compile(s)
		s.NetworkPolicies = append(slices.Clone(policies), broken)
		e, problems := Compile(s)
		if len(problems) != 1 {
			t.Fatalf("got problems %v, want one", problems)
		}
		for range flowsPerCluster {
			f := drawFlow(t, s)
			d := e.Decide(f)
			if d.Verdict == Undefined {
				continue
			}
			if a, b := with.Decide(f).Verdict, without.Decide(f).Verdict; a != d.Verdict || b != d.Verdict {
				describe(t, s)
				t.Fatalf("%s: got %s, but %s if the policy is in force and %s if not", f, d.Verdict, a, b)
			}
		}
	})
}

func TestDecideIsSafeForConcurrentUse(t *testing.T) {
	s := shop()
	s.NetworkPolicies = append(s.NetworkPolicies, newPolicy(t, "shop/p", `{ingress: [{from: [{podSelector: {}}, {ipBlock: {cidr: 10.1.0.0/16}}]}]}`))
	e := compile(t, s)
	var flows []string
	for _, from := range []string{"shop/web", "ops/web", "10.0.0.1", "192.168.0.1", "shop/{a=b}"} {
		flows = append(flows, from+" -> shop/db TCP/80")
	}
	var wg sync.WaitGroup
	results := make([]string, 8)
	for i := range results {
		wg.Go(func() {
			var b strings.Builder
			for range 50 {
				for _, text := range flows {
					b.WriteString(e.Decide(newFlow(t, text)).Verdict.String())
				}
			}
			results[i] = b.String()
		})
	}
	wg.Wait()
	for _, r := range results {
		if r != results[0] {
			t.Fatal("concurrent callers got different answers")
		}
	}
}
