package evaluator

import "testing"

const (
	everyPod = `namespaces: {}`
	shopPods = `namespaces: {matchLabels: {kubernetes.io/metadata.name: shop}}`
	opsPods  = `namespaces: {matchLabels: {team: ops}}`
	dbPods   = `pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}`
	denyAll  = `policyTypes: [Ingress, Egress]`
	openAll  = `{ingress: [{}], egress: [{}]}`
)

// cnp is the spec of a ClusterNetworkPolicy for every pod.
func cnp(tier, priority, rules string) string {
	return `{tier: ` + tier + `, priority: ` + priority + `, subject: {` + everyPod + `}, ` + rules + `}`
}

// in is one ingress rule, and out one egress rule.
func in(action, peer string) string {
	return `ingress: [{action: ` + action + `, from: [{` + peer + `}]}]`
}

func out(action, peer string) string {
	return `egress: [{action: ` + action + `, to: [{` + peer + `}]}]`
}

func TestS29TiersAreAskedInOrder(t *testing.T) {
	const web, tool = "shop/web -> shop/db TCP/80", "ops/tool -> shop/db TCP/80"
	deny := in("Deny", opsPods)
	runDecide(t, shop(), map[string]decideCase{
		"Admin denies what a NetworkPolicy allows": {
			policies: map[string]string{"cnp:a": cnp("Admin", "0", deny), "shop/open": openAll},
			want:     map[string]string{web: "Allowed", tool: "Denied"},
		},
		"Admin accepts what a NetworkPolicy denies": {
			policies: map[string]string{"cnp:a": cnp("Admin", "0", in("Accept", opsPods)), "shop/deny": `{policyTypes: [Ingress]}`},
			want:     map[string]string{web: "Denied", tool: "Allowed"},
		},
		"Baseline denies where no NetworkPolicy isolates": {
			policies: map[string]string{"cnp:b": cnp("Baseline", "0", deny)},
			want:     map[string]string{web: "Allowed", tool: "Denied"},
		},
		"a NetworkPolicy that isolates the pod hides Baseline, even where it denies": {
			policies: map[string]string{"cnp:b": cnp("Baseline", "0", deny), "shop/p": `{ingress: [{from: [{namespaceSelector: {}}]}]}`},
			want:     map[string]string{web: "Allowed", tool: "Allowed"},
		},
		"a NetworkPolicy that isolates and denies is not overridden by Baseline": {
			policies: map[string]string{"cnp:b": cnp("Baseline", "0", in("Accept", everyPod)), "shop/p": `{policyTypes: [Ingress]}`},
			want:     map[string]string{web: "Denied", tool: "Denied"},
		},
		"a NetworkPolicy for the other direction hides nothing": {
			policies: map[string]string{"cnp:b": cnp("Baseline", "0", deny), "shop/p": `{policyTypes: [Egress], egress: [{}]}`},
			want:     map[string]string{web: "Allowed", tool: "Denied"},
		},
		"the tier counts and not the priority": {
			policies: map[string]string{"cnp:b": cnp("Baseline", "0", deny), "cnp:a": cnp("Admin", "1000", in("Accept", opsPods))},
			want:     map[string]string{tool: "Allowed"},
		},
		"both sides must allow (S16)": {
			policies: map[string]string{"cnp:a": cnp("Admin", "0", in("Accept", everyPod)+`, `+out("Deny", shopPods))},
			want:     map[string]string{web: "Denied", tool: "Denied", "shop/web -> ops/web TCP/80": "Allowed"},
		},
		"what no policy speaks of is allowed": {
			policies: map[string]string{"cnp:a": cnp("Admin", "0", deny), "cnp:b": cnp("Baseline", "0", deny)},
			want:     map[string]string{web: "Allowed", "203.0.113.1 -> shop/db TCP/80": "Allowed"},
		},
	})
}

func TestS29ActionsAndTheOrderOfRules(t *testing.T) {
	const web, tool = "shop/web -> shop/db TCP/80", "ops/tool -> shop/db TCP/80"
	rules := func(tier string, actions ...string) string {
		text := ""
		for _, a := range actions {
			text += `{action: ` + a + `, from: [{` + opsPods + `}]}, `
		}
		return cnp(tier, "5", `ingress: [`+text+`]`)
	}
	runDecide(t, shop(), map[string]decideCase{
		"the first rule that matches decides": {
			policies: map[string]string{"cnp:a": rules("Admin", "Accept", "Deny"), "shop/p": denyAll}, want: map[string]string{tool: "Allowed", web: "Denied"},
		},
		"the other way around": {
			policies: map[string]string{"cnp:a": rules("Admin", "Deny", "Accept")}, want: map[string]string{tool: "Denied", web: "Allowed"},
		},
		"a rule that does not match is passed over": {
			policies: map[string]string{"cnp:a": cnp("Admin", "0", `ingress: [{action: Accept, from: [{`+shopPods+`}]}, {action: Deny, from: [{`+everyPod+`}]}]`)},
			want:     map[string]string{tool: "Denied", web: "Allowed"},
		},
		"Pass skips the rest of its policy and of the Admin tier": {
			policies: map[string]string{"cnp:a": rules("Admin", "Pass", "Deny"), "cnp:z": cnp("Admin", "6", in("Deny", everyPod))},
			want:     map[string]string{tool: "Allowed", web: "Denied"},
		},
		"Pass leads to the NetworkPolicies": {
			policies: map[string]string{"cnp:a": rules("Admin", "Pass"), "cnp:z": cnp("Admin", "6", in("Accept", everyPod)), "shop/p": denyAll},
			want:     map[string]string{tool: "Denied"},
		},
		"and from there to Baseline": {
			policies: map[string]string{"cnp:a": rules("Admin", "Pass"), "cnp:b": cnp("Baseline", "0", in("Deny", everyPod))},
			want:     map[string]string{tool: "Denied", web: "Denied"},
		},
		"Pass in Baseline is the default, which allows": {
			policies: map[string]string{"cnp:b": rules("Baseline", "Pass", "Deny"), "cnp:z": cnp("Baseline", "6", in("Deny", everyPod))},
			want:     map[string]string{tool: "Allowed", web: "Denied"},
		},
		"a lower priority value comes first": {
			policies: map[string]string{"cnp:a": cnp("Admin", "7", in("Deny", everyPod)), "cnp:z": rules("Admin", "Accept")},
			want:     map[string]string{tool: "Allowed", web: "Denied"},
		},
	})
}

func TestS29EqualPriorities(t *testing.T) {
	const web, tool, other = "shop/web -> shop/db TCP/80", "ops/tool -> shop/db TCP/80", "shop/db -> ops/tool TCP/80"
	runDecide(t, shop(), map[string]decideCase{
		"policies that disagree": {
			policies: map[string]string{"cnp:a": cnp("Admin", "5", in("Accept", opsPods)), "cnp:b": cnp("Admin", "5", in("Deny", everyPod))},
			want:     map[string]string{tool: "Undefined S29", web: "Denied"},
		},
		"policies that agree": {
			policies: map[string]string{"cnp:a": cnp("Admin", "5", in("Deny", opsPods)), "cnp:b": cnp("Admin", "5", in("Deny", everyPod))},
			want:     map[string]string{tool: "Denied", web: "Denied"},
		},
		"a policy with a lower value settles it": {
			policies: map[string]string{
				"cnp:a": cnp("Admin", "5", in("Accept", opsPods)), "cnp:b": cnp("Admin", "5", in("Deny", everyPod)), "cnp:c": cnp("Admin", "4", in("Pass", opsPods)),
			},
			want: map[string]string{tool: "Allowed", web: "Denied"},
		},
		"different tiers are no conflict": {
			policies: map[string]string{"cnp:a": cnp("Admin", "5", in("Accept", opsPods)), "cnp:b": cnp("Baseline", "5", in("Deny", everyPod))},
			want:     map[string]string{tool: "Allowed", web: "Denied"},
		},
		"Accept and Pass agree if what follows accepts": {
			policies: map[string]string{"cnp:a": cnp("Admin", "5", in("Accept", everyPod)), "cnp:b": cnp("Admin", "5", in("Pass", everyPod)), "shop/open": openAll},
			want:     map[string]string{tool: "Allowed"},
		},
		"and disagree if what follows denies": {
			policies: map[string]string{"cnp:a": cnp("Admin", "5", in("Accept", everyPod)), "cnp:b": cnp("Admin", "5", in("Pass", everyPod)), "shop/deny": denyAll},
			want:     map[string]string{tool: "Undefined S29"},
		},
		"three actions": {
			policies: map[string]string{
				"cnp:a": cnp("Baseline", "5", in("Accept", everyPod)), "cnp:b": cnp("Baseline", "5", in("Pass", everyPod)), "cnp:c": cnp("Baseline", "5", in("Deny", opsPods)),
			},
			want: map[string]string{web: "Allowed", tool: "Undefined S29"},
		},
		"the other direction denies in any case": {
			policies: map[string]string{
				"cnp:a": cnp("Admin", "5", in("Accept", opsPods)), "cnp:b": cnp("Admin", "5", in("Deny", everyPod)),
				"cnp:c": `{tier: Baseline, priority: 1, subject: {` + opsPods + `}, ` + out("Deny", everyPod) + `}`,
			},
			want: map[string]string{tool: "Denied", other: "Denied"},
		},
		"each direction chooses on its own": {
			policies: map[string]string{
				"cnp:a": cnp("Admin", "5", in("Deny", everyPod)+`, `+out("Accept", everyPod)), "cnp:b": cnp("Admin", "5", in("Pass", everyPod)+`, `+out("Pass", everyPod)),
				"ops/q": `policyTypes: [Egress]`,
			},
			want: map[string]string{tool: "Undefined S29"},
		},
		"AdminNetworkPolicies are no different": {
			policies: map[string]string{
				"anp:a": `{priority: 5, subject: {` + everyPod + `}, ` + in("Allow", opsPods) + `}`,
				"anp:b": `{priority: 5, subject: {` + everyPod + `}, ` + in("Deny", everyPod) + `}`,
			},
			want: map[string]string{tool: "Undefined S29", web: "Denied"},
		},
	})
}

func TestS31TwoVersionsSideBySide(t *testing.T) {
	const web, tool = "shop/web -> shop/db TCP/80", "ops/tool -> shop/db TCP/80"
	anp := func(priority, rules string) string {
		return `{priority: ` + priority + `, subject: {` + everyPod + `}, ` + rules + `}`
	}
	banp := func(rules string) string { return `{subject: {` + everyPod + `}, ` + rules + `}` }
	runDecide(t, shop(), map[string]decideCase{
		"an AdminNetworkPolicy is of the Admin tier": {
			policies: map[string]string{"anp:a": anp("5", in("Deny", opsPods)), "shop/open": openAll},
			want:     map[string]string{tool: "Denied", web: "Allowed"},
		},
		"its Allow is final, its Pass is not": {
			policies: map[string]string{
				"anp:a": anp("5", `ingress: [{action: Allow, from: [{`+opsPods+`}]}, {action: Pass, from: [{`+everyPod+`}]}, {action: Allow, from: [{`+everyPod+`}]}]`), "shop/p": denyAll,
			},
			want: map[string]string{tool: "Allowed", web: "Denied"},
		},
		"the BaselineAdminNetworkPolicy is of the Baseline tier": {
			policies: map[string]string{"banp:default": banp(`ingress: [{action: Allow, from: [{` + opsPods + `}]}, {action: Deny, from: [{` + everyPod + `}]}]`)},
			want:     map[string]string{tool: "Allowed", web: "Denied"},
		},
		"and is hidden by a NetworkPolicy": {
			policies: map[string]string{"banp:default": banp(in("Deny", everyPod)), "shop/p": `{ingress: [{from: [{podSelector: {}}]}]}`},
			want:     map[string]string{tool: "Denied", web: "Allowed", "shop/db -> ops/web TCP/80": "Denied"},
		},
		"both versions agree": {
			policies: map[string]string{"anp:a": anp("5", in("Deny", opsPods)), "cnp:a": cnp("Admin", "7", in("Deny", everyPod))},
			want:     map[string]string{tool: "Denied", web: "Denied"},
		},
		"both versions disagree, whatever their priorities": {
			policies: map[string]string{"anp:a": anp("5", in("Allow", opsPods)), "cnp:a": cnp("Admin", "7", in("Deny", everyPod))},
			want:     map[string]string{tool: "Undefined S31", web: "Denied"},
		},
		"both baselines disagree": {
			policies: map[string]string{"banp:default": banp(in("Allow", opsPods)), "cnp:b": cnp("Baseline", "7", in("Deny", everyPod))},
			want:     map[string]string{tool: "Undefined S31", web: "Denied"},
		},
		"Allow and Pass agree if what follows allows": {
			policies: map[string]string{"anp:a": anp("5", in("Allow", everyPod)), "cnp:a": cnp("Admin", "7", in("Pass", everyPod))},
			want:     map[string]string{tool: "Allowed"},
		},
		"equal priorities within one version, and another version": {
			policies: map[string]string{
				"anp:a": anp("5", in("Allow", everyPod)), "anp:b": anp("5", in("Deny", everyPod)), "cnp:a": cnp("Admin", "7", in("Deny", everyPod)),
			},
			want: map[string]string{tool: "Undefined S31"},
		},
	})
}

func TestS32SubjectsAndPeersArePodsOnThePodNetwork(t *testing.T) {
	s := shop()
	s.Pods = append(s.Pods, onHostNetwork(onNode(newPod("ops/agent", "app=db"), "node-2", "192.168.0.2")))
	subject := func(subject, rules string) string {
		return `{tier: Admin, priority: 1, subject: {` + subject + `}, ` + rules + `}`
	}
	runDecide(t, s, map[string]decideCase{
		"a subject by namespace": {
			policies: map[string]string{"cnp:a": subject(shopPods, in("Deny", everyPod))},
			want:     map[string]string{"ops/tool -> shop/db TCP/80": "Denied", "shop/db -> ops/tool TCP/80": "Allowed", "ops/tool -> shop/{a=b} TCP/80": "Denied"},
		},
		"a subject by namespace and pod": {
			policies: map[string]string{"cnp:a": subject(dbPods, in("Deny", everyPod))},
			want:     map[string]string{"ops/tool -> shop/db TCP/80": "Denied", "ops/tool -> shop/web TCP/80": "Allowed"},
		},
		"a peer by namespace and pod": {
			policies: map[string]string{"cnp:a": subject(everyPod, in("Deny", dbPods))},
			want:     map[string]string{"shop/db -> ops/web TCP/80": "Denied", "shop/web -> ops/web TCP/80": "Allowed", "10.0.0.2 -> ops/web TCP/80": "Denied"},
		},
		"one of two peers is enough": {
			policies: map[string]string{"cnp:a": subject(everyPod, `ingress: [{action: Deny, from: [{`+dbPods+`}, {`+opsPods+`}]}]`)},
			want:     map[string]string{"shop/db -> shop/web TCP/80": "Denied", "ops/web -> shop/web TCP/80": "Denied", "shop/web -> shop/db TCP/80": "Allowed"},
		},
		"pods on the host network are no subject": {
			policies: map[string]string{"cnp:a": subject(everyPod, in("Deny", everyPod)+`, `+out("Deny", everyPod))},
			want: map[string]string{
				"ops/agent -> 203.0.113.1 TCP/80": "Allowed", "203.0.113.1 -> ops/agent TCP/80": "Allowed", "192.168.0.2 -> ops/agent TCP/80": "Allowed",
				"ops/web -> shop/db TCP/80": "Denied",
			},
		},
		"not even for other pods": {
			policies: map[string]string{"cnp:a": subject(opsPods, in("Deny", everyPod)+`, `+out("Deny", everyPod))},
			want: map[string]string{
				"shop/web -> ops/agent TCP/80": "Allowed", "ops/agent -> shop/web TCP/80": "Allowed", "shop/web -> ops/web TCP/80": "Denied",
			},
		},
		"and no peer": {
			policies: map[string]string{"cnp:a": subject(shopPods, in("Deny", everyPod)+`, `+out("Deny", everyPod))},
			want: map[string]string{
				"ops/agent -> shop/db TCP/80": "Allowed", "shop/db -> ops/agent TCP/80": "Allowed", "shop/db -> 192.168.0.2 TCP/80": "Allowed",
				"shop/db -> ops/tool TCP/80": "Denied",
			},
		},
		"addresses are no pods": {
			policies: map[string]string{"cnp:a": subject(everyPod, in("Deny", everyPod)+`, `+out("Deny", everyPod))},
			want:     map[string]string{"203.0.113.1 -> shop/db TCP/80": "Allowed", "shop/db -> 203.0.113.1 TCP/80": "Allowed"},
		},
		"without rules for a direction, it is not affected": {
			policies: map[string]string{"cnp:a": subject(shopPods, in("Accept", everyPod))},
			want:     map[string]string{"shop/web -> ops/web TCP/80": "Allowed", "203.0.113.1 -> shop/web TCP/80": "Allowed"},
		},
		"without rules at all, nothing is": {
			policies: map[string]string{"cnp:a": subject(everyPod, `ingress: [], egress: []`)},
			want:     map[string]string{"shop/web -> ops/web TCP/80": "Allowed", "203.0.113.1 -> shop/web TCP/80": "Allowed"},
		},
		"a pod and itself (S15)": {
			policies: map[string]string{"cnp:a": subject(everyPod, in("Deny", everyPod)+`, `+out("Deny", everyPod))},
			want:     map[string]string{"shop/db -> shop/db TCP/80": "Allowed", "shop/db -> 127.0.0.1 TCP/80": "Allowed", "shop/{app=db} -> shop/{app=db} TCP/80": "Denied"},
		},
		"several policies, each for its own pods": {
			policies: map[string]string{"cnp:a": subject(opsPods, in("Deny", shopPods)), "cnp:b": `{tier: Admin, priority: 2, subject: {` + shopPods + `}, ` + in("Deny", opsPods) + `}`},
			want:     map[string]string{"ops/web -> shop/db TCP/80": "Denied", "shop/db -> ops/web TCP/80": "Denied", "shop/web -> shop/db TCP/80": "Allowed"},
		},
	})
}

func TestS33NetworksMatchPods(t *testing.T) {
	s := shop()
	s.Pods = append(s.Pods, newPod("shop/dual", "app=dual", "10.0.0.8", "fd00::8"), newPod("shop/pending", "app=pending"),
		onHostNetwork(onNode(newPod("ops/agent", ""), "node-2", "192.168.0.2")))
	runDecide(t, s, map[string]decideCase{
		"pods, nodes and everybody else": {
			policies: map[string]string{"cnp:a": cnp("Admin", "1", out("Deny", `networks: [10.0.1.0/24, 192.168.0.2/32, 203.0.113.0/24]`))},
			want: map[string]string{
				"shop/web -> ops/web TCP/80": "Denied", "shop/web -> shop/db TCP/80": "Allowed", "shop/web -> 10.0.1.77 TCP/80": "Denied",
				"shop/web -> ops/agent TCP/80": "Denied", "shop/web -> 192.168.0.2 TCP/80": "Denied", "shop/web -> 203.0.113.1 UDP/80": "Denied",
				"shop/web -> 203.0.114.1 TCP/80": "Allowed",
			},
		},
		"everything of one family": {
			policies: map[string]string{"cnp:a": cnp("Admin", "1", out("Deny", `networks: [0.0.0.0/0]`))},
			want: map[string]string{
				"shop/web -> shop/db TCP/80": "Denied", "shop/web -> 203.0.113.1 TCP/80": "Denied", "shop/dual -> 2001:db8::1 TCP/80": "Allowed",
			},
		},
		"pods are passed before": {
			policies: map[string]string{"cnp:a": cnp("Admin", "1", `egress: [{action: Pass, to: [{`+everyPod+`}]}, {action: Deny, to: [{networks: [0.0.0.0/0, "::/0"]}]}]`)},
			want:     map[string]string{"shop/web -> shop/db TCP/80": "Allowed", "shop/web -> 203.0.113.1 TCP/80": "Denied", "shop/dual -> 2001:db8::1 TCP/80": "Denied"},
		},
		"an address that is not known": {
			policies: map[string]string{"cnp:a": cnp("Admin", "1", out("Deny", `networks: [10.0.0.0/8]`))},
			want:     map[string]string{"shop/web -> shop/pending TCP/80": "Undefined X2", "shop/web -> shop/{a=b} TCP/80": "Undefined X2", "shop/web -> shop/{a=b}@10.0.7.7 TCP/80": "Denied"},
		},
		"ranges that agree on it": {
			policies: map[string]string{"cnp:a": cnp("Admin", "1", `egress: [{action: Accept, to: [{networks: [10.0.0.0/8]}]}, {action: Deny, to: [{networks: [10.1.0.0/16]}]}]`)},
			want:     map[string]string{"shop/web -> shop/{a=b} TCP/80": "Allowed", "shop/web -> shop/pending TCP/80": "Allowed"},
		},
		"a part is in the whole": {
			policies: map[string]string{
				"cnp:a": cnp("Admin", "1", `egress: [{action: Pass, to: [{networks: [10.1.0.0/16]}]}, {action: Deny, to: [{`+everyPod+`}]}]`),
				"cnp:b": cnp("Baseline", "1", out("Deny", `networks: [10.0.0.0/8]`)),
			},
			want: map[string]string{"shop/web -> shop/{a=b} TCP/80": "Denied"},
		},
		"a NetworkPolicy with the same block": {
			policies: map[string]string{
				"cnp:a":  cnp("Admin", "1", out("Deny", `networks: [10.0.0.0/8]`)),
				"shop/p": `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.1.0.0/16}}]}]}`,
			},
			want: map[string]string{"shop/web -> shop/{a=b} TCP/80": "Denied"},
		},
	})
}

func TestS34NodesAndDomainNames(t *testing.T) {
	s := shop()
	s.Pods = append(s.Pods, onHostNetwork(onNode(newPod("ops/agent", ""), "node-2", "192.168.0.2")))
	runDecide(t, s, map[string]decideCase{
		"every node": {
			policies: map[string]string{"cnp:a": cnp("Admin", "1", out("Deny", `nodes: {}`))},
			want: map[string]string{
				"shop/web -> 192.168.0.2 TCP/80": "Denied", "shop/web -> ops/agent TCP/80": "Denied", "shop/web -> shop/db TCP/80": "Allowed",
				"shop/web -> shop/{a=b} TCP/80": "Allowed",
				// It may be a node on which no pod runs, or another address of one.
				"shop/web -> 203.0.113.1 TCP/80": "Undefined S34",
				// The own node is no exception for egress.
				"shop/web -> 192.168.0.1 TCP/80": "Denied",
			},
		},
		"nodes by label": {
			policies: map[string]string{"anp:a": `{priority: 1, subject: {` + everyPod + `}, ` + out("Deny", `nodes: {matchLabels: {zone: a}}`) + `}`},
			want: map[string]string{
				"shop/web -> 192.168.0.2 TCP/80": "Undefined S34", "shop/web -> ops/agent TCP/80": "Undefined S34", "shop/web -> shop/db TCP/80": "Allowed",
				"shop/web -> 203.0.113.1 TCP/80": "Undefined S34",
			},
		},
		"the labels do not matter if all rules agree": {
			policies: map[string]string{"cnp:a": cnp("Admin", "1", `egress: [{action: Deny, to: [{nodes: {matchLabels: {zone: a}}}]}, {action: Deny, to: [{networks: [192.168.0.0/16]}]}]`)},
			want:     map[string]string{"shop/web -> 192.168.0.2 TCP/80": "Denied"},
		},
		"the same labels are the same everywhere": {
			policies: map[string]string{
				"cnp:a": cnp("Admin", "1", out("Accept", `nodes: {matchLabels: {zone: a}}`)), "cnp:b": cnp("Admin", "2", out("Deny", `nodes: {matchLabels: {zone: a}}`)),
			},
			want: map[string]string{"shop/web -> 192.168.0.2 TCP/80": "Allowed", "shop/web -> 203.0.113.1 TCP/80": "Allowed"},
		},
		"other labels are another question": {
			policies: map[string]string{
				"cnp:a": cnp("Admin", "1", out("Accept", `nodes: {matchLabels: {zone: a}}`)), "cnp:b": cnp("Admin", "2", out("Deny", `nodes: {matchLabels: {zone: b}}`)),
			},
			want: map[string]string{"shop/web -> 192.168.0.2 TCP/80": "Undefined S34"},
		},
		"domain names": {
			policies: map[string]string{"cnp:a": cnp("Admin", "1", `egress: [{action: Accept, to: [{domainNames: [example.org, "*.example.com"]}]}, {action: Deny, to: [{networks: [0.0.0.0/0]}]}]`)},
			want:     map[string]string{"shop/web -> 203.0.113.1 TCP/80": "Undefined S34", "shop/web -> 192.168.0.2 TCP/80": "Undefined S34", "shop/web -> shop/db TCP/80": "Denied"},
		},
		"domain names that change nothing": {
			policies: map[string]string{"cnp:a": cnp("Admin", "1", out("Accept", `domainNames: [example.org]`))},
			want:     map[string]string{"shop/web -> 203.0.113.1 TCP/80": "Allowed"},
		},
	})
}

func TestS35PeersOfAnUnknownKindFailClosed(t *testing.T) {
	const web, tool, address = "shop/web -> shop/db TCP/80", "ops/tool -> shop/db TCP/80", "203.0.113.1 -> shop/db UDP/53"
	rule := func(action, more string) string {
		return cnp("Admin", "1", `ingress: [{action: `+action+`, from: [`+more+`{}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]`)
	}
	runDecide(t, shop(), map[string]decideCase{
		"Accept matches nothing, not even by its other peers": {
			policies: map[string]string{"cnp:a": rule("Accept", `{`+opsPods+`}, `), "shop/p": denyAll},
			want:     map[string]string{web: "Denied", tool: "Denied"},
		},
		"Deny denies all, on every port": {
			policies: map[string]string{"cnp:a": rule("Deny", `{`+opsPods+`}, `)}, want: map[string]string{web: "Denied", tool: "Denied", address: "Denied"},
		},
		"and so does Pass": {
			policies: map[string]string{"cnp:a": rule("Pass", ``)}, want: map[string]string{web: "Denied", tool: "Denied", address: "Denied"},
		},
		"a rule above is not affected": {
			policies: map[string]string{"cnp:a": cnp("Admin", "1", `egress: [{action: Accept, to: [{`+opsPods+`}]}, {action: Deny, to: [{}]}]`)},
			want:     map[string]string{"shop/db -> ops/web TCP/80": "Allowed", "shop/db -> shop/web TCP/80": "Denied"},
		},
		"whether the own node is kept out is not settled (S14)": {
			policies: map[string]string{"cnp:a": rule("Deny", ``)}, want: map[string]string{"192.168.0.1 -> shop/db TCP/80": "Undefined S14", "192.168.0.2 -> shop/db TCP/80": "Denied"},
		},
		"in v1alpha1 too": {
			policies: map[string]string{
				"anp:a":        `{priority: 1, subject: {` + shopPods + `}, ingress: [{action: Allow, from: [{}]}, {action: Pass, from: [{}]}]}`,
				"banp:default": `{subject: {` + opsPods + `}, egress: [{action: Deny, to: [{}]}]}`,
			},
			want: map[string]string{web: "Denied", "ops/web -> 203.0.113.1 TCP/80": "Denied"},
		},
	})
}

func TestS36PortsOfClusterWidePolicies(t *testing.T) {
	s := shop()
	s.Pods = append(s.Pods,
		withPorts(newPod("shop/a", "app=a", "10.0.2.1"), "http=8080/TCP", "dns=53/UDP"),
		withPorts(withPorts(newPod("shop/both", "app=b", "10.0.2.2"), "dns=53/UDP"), "dns=5353/TCP"),
		onHostNetwork(onNode(withPorts(newPod("ops/agent", ""), "http=8080/TCP"), "node-2", "192.168.0.2")))
	rule := func(protocols string) string {
		return cnp("Admin", "1", `ingress: [{action: Deny, from: [{`+everyPod+`}], protocols: [`+protocols+`]}]`)
	}
	older := func(ports string) string {
		return `{priority: 1, subject: {` + everyPod + `}, ingress: [{action: Deny, from: [{` + everyPod + `}], ports: [` + ports + `]}]}`
	}
	ranges := map[string]string{
		"shop/web -> shop/db TCP/79": "Allowed", "shop/web -> shop/db TCP/80": "Denied", "shop/web -> shop/db TCP/90": "Denied",
		"shop/web -> shop/db TCP/91": "Allowed", "shop/web -> shop/db UDP/80": "Allowed", "shop/web -> shop/db SCTP/7": "Denied", "shop/web -> shop/db UDP/53": "Denied",
	}
	names := map[string]string{
		"shop/web -> shop/a TCP/8080": "Denied", "shop/web -> shop/a TCP/80": "Allowed", "shop/web -> shop/a UDP/53": "Denied", "shop/web -> shop/a TCP/53": "Allowed",
		"shop/web -> shop/db TCP/8080": "Allowed", "shop/web -> shop/{a=b} TCP/80": "Undefined S7",
		// Two ports have the name, each of another protocol.
		"shop/web -> shop/both UDP/53": "Undefined S7", "shop/web -> shop/both UDP/5353": "Allowed",
	}
	runDecide(t, s, map[string]decideCase{
		"without ports": {
			policies: map[string]string{"cnp:a": cnp("Admin", "1", in("Deny", everyPod))}, want: map[string]string{"shop/web -> shop/db SCTP/1": "Denied", "shop/web -> shop/db UDP/65535": "Denied"},
		},
		"numbers and ranges": {
			policies: map[string]string{"cnp:a": rule(`{tcp: {destinationPort: {range: {start: 80, end: 90}}}}, {sctp: {destinationPort: {number: 7}}}, {udp: {destinationPort: {number: 53}}}`)},
			want:     ranges,
		},
		"a protocol without a port": {
			policies: map[string]string{"cnp:a": rule(`{udp: {}}`)}, want: map[string]string{"shop/web -> shop/db UDP/1": "Denied", "shop/web -> shop/db TCP/1": "Allowed"},
		},
		"names have no protocol": {policies: map[string]string{"cnp:a": rule(`{destinationNamedPort: http}, {destinationNamedPort: dns}`)}, want: names},
		"names in egress are those of the peer": {
			policies: map[string]string{"cnp:a": cnp("Admin", "1", `egress: [{action: Deny, to: [{`+everyPod+`}], protocols: [{destinationNamedPort: http}]}]`)},
			want:     map[string]string{"shop/web -> shop/a TCP/8080": "Denied", "shop/a -> shop/db TCP/8080": "Allowed", "shop/web -> ops/agent TCP/8080": "Allowed"},
		},
		"a name that is not known and does not matter": {
			policies: map[string]string{
				"cnp:a":  cnp("Admin", "1", `ingress: [{action: Deny, from: [{`+everyPod+`}], protocols: [{destinationNamedPort: http}]}]`),
				"shop/p": `{ingress: [{ports: [{port: http}]}]}`,
			},
			// Either the port has the name, and is denied, or nothing allows it.
			want: map[string]string{"shop/web -> shop/{a=b} TCP/80": "Denied"},
		},
		"v1alpha1: numbers and ranges": {
			policies: map[string]string{"anp:a": older(`{portRange: {start: 80, end: 90}}, {portNumber: {protocol: SCTP, port: 7}}, {portNumber: {protocol: UDP, port: 53}}`)},
			want:     ranges,
		},
		"v1alpha1: names": {policies: map[string]string{"anp:a": older(`{namedPort: http}, {namedPort: dns}`)}, want: names},
	})
}
