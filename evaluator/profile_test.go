package evaluator

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// newProfile parses assumptions separated by commas.
func newProfile(t testing.TB, text string) Profile {
	t.Helper()
	if text == "" {
		return Profile{}
	}
	p, err := ParseAssumptions(strings.Split(text, ","))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// runProfiles asks the same flows under several profiles: want holds for each profile
// the verdicts of the flows.
func runProfiles(t *testing.T, s Snapshot, policies map[string]string, want map[string]map[string]string) {
	t.Helper()
	for profile, verdicts := range want {
		s.Profile = newProfile(t, profile)
		runDecide(t, s, map[string]decideCase{"with " + profile: {policies: policies, want: verdicts}})
	}
}

func TestS10AProfileSettlesBlocks(t *testing.T) {
	s := shop()
	s.Pods = append(s.Pods, newPod("shop/pending", "app=pending"),
		onHostNetwork(onNode(newPod("ops/agent", "app=agent"), "node-2", "192.168.0.2")))
	const toPod, toNode, toAgent = "shop/web -> shop/db TCP/80", "shop/web -> 192.168.0.1 TCP/80", "shop/web -> ops/agent TCP/80"
	const toExcept, toIdentity, toPending = "shop/web -> ops/tool TCP/80", "shop/web -> shop/{a=b} TCP/80", "shop/web -> shop/pending TCP/80"
	policies := map[string]string{"shop/p": `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress],
		egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.1.0/24]}}]}]}`}
	runProfiles(t, s, policies, map[string]map[string]string{
		"": {
			toPod: "Undefined S10", toNode: "Undefined S10", toAgent: "Undefined S10", toExcept: "Denied",
			toIdentity: "Undefined S10", toPending: "Undefined X2", "shop/web -> 203.0.113.1 TCP/80": "Allowed",
		},
		"ipBlockMatchesPods=true": {
			toPod: "Allowed", toNode: "Undefined S10", toAgent: "Undefined S10", toExcept: "Denied",
			// Its address may be one of the excepted.
			toIdentity: "Undefined X2", toPending: "Undefined X2",
		},
		"ipBlockMatchesPods=false": {
			toPod: "Denied", toNode: "Undefined S10", toAgent: "Undefined S10", toExcept: "Denied",
			toIdentity: "Denied", toPending: "Denied", "shop/web -> 203.0.113.1 TCP/80": "Allowed",
		},
		"ipBlockMatchesNodes=false":                               {toPod: "Undefined S10", toNode: "Undefined S14", toAgent: "Undefined S13"},
		"ipBlockMatchesNodes=true":                                {toPod: "Undefined S10", toNode: "Allowed", toAgent: "Undefined S13"},
		"ipBlockMatchesNodes=true,hostNetworkPodsSelectable=true": {toAgent: "Undefined S10"},
		// A pod on the host network is a pod and has the address of a node.
		"ipBlockMatchesNodes=true,ipBlockMatchesPods=true":   {toAgent: "Allowed"},
		"ipBlockMatchesNodes=false,ipBlockMatchesPods=false": {toAgent: "Denied"},
		// Where nothing sees a pod in it, it is nothing but its node.
		"ipBlockMatchesNodes=true,hostNetworkPodsPoliced=false,hostNetworkPodsSelectable=false": {toAgent: "Allowed"},
	})
}

func TestS13AProfileSettlesHostNetworkPods(t *testing.T) {
	s := shop()
	s.Pods = append(s.Pods, onHostNetwork(onNode(newPod("ops/agent", "app=agent"), "node-2", "192.168.0.2")))
	const in, out, byNode = "shop/web -> ops/agent TCP/80", "ops/agent -> shop/db TCP/80", "192.168.0.2 -> shop/db TCP/80"
	policies := map[string]string{
		"ops/deny": `policyTypes: [Ingress]`,
		"shop/p":   `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: agent}}}]}]}`,
	}
	runProfiles(t, s, policies, map[string]map[string]string{
		"":                             {in: "Undefined S13", out: "Undefined S13", byNode: "Undefined S13"},
		"hostNetworkPodsPoliced=true":  {in: "Denied", out: "Undefined S13", byNode: "Undefined S13"},
		"hostNetworkPodsPoliced=false": {in: "Allowed", out: "Undefined S13", byNode: "Undefined S13"},
		// The address may still be the node's own.
		"hostNetworkPodsSelectable=true":                               {in: "Undefined S13", out: "Allowed", byNode: "Undefined S13"},
		"hostNetworkPodsSelectable=false":                              {in: "Undefined S13", out: "Denied", byNode: "Denied"},
		"hostNetworkPodsPoliced=false,hostNetworkPodsSelectable=false": {in: "Allowed", out: "Denied", byNode: "Denied"},
		"hostNetworkPodsPoliced=true,hostNetworkPodsSelectable=true":   {in: "Denied", out: "Allowed", byNode: "Undefined S13"},
	})
}

func TestS14AProfileSettlesTheWayToTheOwnNode(t *testing.T) {
	s := shop()
	s.Pods = append(s.Pods, onNode(newPod("shop/lost", "app=lost", "10.0.0.9"), ""))
	const own, other, lost = "shop/db -> 192.168.0.1 TCP/80", "shop/db -> 192.168.0.2 TCP/80", "shop/lost -> 192.168.0.1 TCP/80"
	s.Pods = append(s.Pods, onNode(newPod("ops/far", "", "10.1.0.9"), "node-2", "192.168.0.2"))
	policies := map[string]string{"shop/deny": `policyTypes: [Egress]`}
	runProfiles(t, s, policies, map[string]map[string]string{
		"": {own: "Undefined S14", other: "Denied", lost: "Undefined S14"},
		// Whether it is the own node is still not known.
		"podReachesOwnNode=true":  {own: "Allowed", other: "Denied", lost: "Undefined S14"},
		"podReachesOwnNode=false": {own: "Denied", other: "Denied", lost: "Denied"},
	})
}

func TestProfilesOnlySettleWhatIsUndefined(t *testing.T) {
	settled := 0
	rapid.Check(t, func(t *rapid.T) {
		s := drawCluster(t)
		s.Profile = Profile{}
		before, _ := Compile(s)
		s.Profile = drawProfile(t)
		after, _ := Compile(s)
		for range flowsPerCluster {
			f := drawFlow(t, s)
			was, is := before.Decide(f), after.Decide(f)
			if was.Verdict != is.Verdict && was.Verdict != Undefined {
				describe(t, s)
				t.Fatalf("%s: was %s, is %s with %s", f, was.Verdict, is.Verdict, s.Profile)
			}
			for _, d := range [][2]Verdict{{was.Egress.Verdict, is.Egress.Verdict}, {was.Ingress.Verdict, is.Ingress.Verdict}} {
				if d[0] != d[1] && d[0] != Undefined {
					describe(t, s)
					t.Fatalf("%s: a direction was %s, is %s with %s", f, d[0], d[1], s.Profile)
				}
			}
			if was.Verdict != is.Verdict {
				settled++
			}
		}
	})
	if settled == 0 {
		t.Error("no profile settled anything")
	}
}

func TestReasonsSayHowToSettleThem(t *testing.T) {
	s := shop()
	s.Pods = append(s.Pods, onHostNetwork(onNode(newPod("ops/agent", "app=agent"), "node-2", "192.168.0.2")))
	policies := map[string]string{
		"shop/p":   `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}`,
		"shop/q":   `{podSelector: {matchLabels: {app: db}}, policyTypes: [Egress]}`,
		"ops/deny": `policyTypes: [Ingress]`,
	}
	for _, tc := range []struct{ profile, flow, want string }{
		{"", "shop/web -> shop/db TCP/80", "--assume ipBlockMatchesPods=true|false"},
		{"", "shop/web -> 192.168.0.1 TCP/80", "--assume ipBlockMatchesNodes=true|false"},
		{"hostNetworkPodsSelectable=true", "shop/web -> ops/agent TCP/80", "--assume ipBlockMatchesPods=true|false,ipBlockMatchesNodes=true|false"},
		{"", "shop/db -> 192.168.0.1 TCP/80", "--assume podReachesOwnNode=true|false"},
		{"", "203.0.113.1 -> ops/agent TCP/80", "--assume hostNetworkPodsPoliced=true|false,hostNetworkPodsSelectable=true|false"},
	} {
		s.Profile = newProfile(t, tc.profile)
		d := compile(t, withPolicies(t, s, policies)).Decide(newFlow(t, tc.flow))
		if d.Verdict != Undefined || !strings.HasSuffix(d.Reason, "; if you know, say "+tc.want) {
			t.Errorf("%s: %s does not end with %s", tc.flow, d.Reason, tc.want)
		}
	}
}

func TestParseAssumptions(t *testing.T) {
	for name, tc := range map[string]struct {
		list []string
		want string
		err  string
	}{
		"nothing":                {},
		"one":                    {list: []string{"ipBlockMatchesPods=false"}, want: "ipBlockMatchesPods=false"},
		"several, in any order":  {list: []string{"podReachesOwnNode=true", "ipBlockMatchesNodes=true"}, want: "ipBlockMatchesNodes=true, podReachesOwnNode=true"},
		"the same twice":         {list: []string{"ipBlockMatchesPods=true", "ipBlockMatchesPods=true"}, want: "ipBlockMatchesPods=true"},
		"a key that is unknown":  {list: []string{"ipBlockMatchesEverything=true"}, err: "write one of ipBlockMatchesPods, ipBlockMatchesNodes"},
		"a value that is none":   {list: []string{"ipBlockMatchesPods=yes"}, err: "with =true or =false"},
		"a key without a value":  {list: []string{"ipBlockMatchesPods"}, err: "with =true or =false"},
		"an empty value":         {list: []string{"ipBlockMatchesPods="}, err: "with =true or =false"},
		"two values for one key": {list: []string{"ipBlockMatchesPods=true", "ipBlockMatchesPods=false"}, err: "both true and false"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := ParseAssumptions(tc.list)
			if (err != nil) != (tc.err != "") || (err != nil && !strings.Contains(err.Error(), tc.err)) {
				t.Fatalf("got error %v, want %q", err, tc.err)
			}
			if p.String() != tc.want {
				t.Errorf("got %q, want %q", p, tc.want)
			}
			again, err := ParseAssumptions(p.Assumptions())
			if err != nil || again != p {
				t.Errorf("%q is read back as %q: %v", p, again, err)
			}
		})
	}
}

func TestProfileOr(t *testing.T) {
	told := Profile{IPBlockMatchesPods: True}
	detected := Profile{IPBlockMatchesPods: False, HostNetworkPodsPoliced: False}
	want := Profile{IPBlockMatchesPods: True, HostNetworkPodsPoliced: False}
	if diff := cmp.Diff(want, told.Or(detected)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEveryAssumptionIsDocumented(t *testing.T) {
	doc := read(t, semantics)
	keys := find(doc, "(?m)^\\| `(\\w+)` \\|")
	for _, key := range AssumptionKeys() {
		if !slices.Contains(keys, key) {
			t.Errorf("%s does not explain %s", semantics, key)
		}
	}
}
