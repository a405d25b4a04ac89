package evaluator

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// shop is the cluster of most tables: two namespaces, no policy.
func shop() Snapshot {
	return Snapshot{
		Namespaces: []*corev1.Namespace{newNamespace("shop", "team=shop,env=prod"), newNamespace("ops", "team=ops")},
		Pods: []*corev1.Pod{
			newPod("shop/web", "app=web", "10.0.0.1"),
			newPod("shop/db", "app=db", "10.0.0.2"),
			newPod("ops/web", "app=web", "10.0.1.1"),
			newPod("ops/tool", "app=tool,role=admin", "10.0.1.2"),
		},
	}
}

func TestNoPolicyAllowsEverything(t *testing.T) {
	runDecide(t, shop(), map[string]decideCase{
		"pods and addresses": {want: map[string]string{
			"shop/web -> shop/db TCP/80":       "Allowed",
			"203.0.113.1 -> shop/db UDP/53":    "Allowed",
			"shop/web -> 203.0.113.1 SCTP/1":   "Allowed",
			"203.0.113.1 -> 203.0.113.2 TCP/1": "Allowed",
		}},
	})
}

func TestS02PolicyTypesDefaultOnTheRules(t *testing.T) {
	const in, out = "shop/web -> shop/db TCP/80", "shop/db -> shop/web TCP/80"
	runDecide(t, shop(), map[string]decideCase{
		"unset without egress rules affects ingress only": {
			policies: map[string]string{"shop/p": `podSelector: {matchLabels: {app: db}}`},
			want:     map[string]string{in: "Denied", out: "Allowed"},
		},
		"unset with an empty list of egress rules affects ingress only": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: db}}, egress: []}`},
			want:     map[string]string{in: "Denied", out: "Allowed"},
		},
		"unset with egress rules affects both": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: db}}, egress: [{ports: [{port: 53}]}]}`},
			want:     map[string]string{in: "Denied", out: "Denied"},
		},
		"egress only has to be said": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: db}}, policyTypes: [Egress]}`},
			want:     map[string]string{in: "Allowed", out: "Denied"},
		},
		"egress rules are ignored when only ingress is listed": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], egress: [{ports: [{port: 53}]}]}`},
			want:     map[string]string{in: "Denied", out: "Allowed"},
		},
		"ingress rules are ignored when only egress is listed": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: db}}, policyTypes: [Egress], ingress: [{ports: [{port: 53}]}]}`},
			want:     map[string]string{in: "Allowed", out: "Denied"},
		},
		"an unset pod selector selects every pod of the namespace": {
			policies: map[string]string{"shop/p": `policyTypes: [Ingress]`},
			want:     map[string]string{in: "Denied", out: "Denied", "shop/db -> ops/web TCP/80": "Allowed"},
		},
		"an unset protocol is TCP": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 80}]}]}`},
			want:     map[string]string{in: "Allowed", "shop/web -> shop/db UDP/80": "Denied"},
		},
	})
}

func TestS03EmptyListsAndEmptyRules(t *testing.T) {
	const in, out = "shop/web -> shop/db TCP/80", "shop/db -> shop/web UDP/9"
	const both = `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress, Egress], `
	deny, allow := map[string]string{in: "Denied", out: "Denied"}, map[string]string{in: "Allowed", out: "Allowed"}
	runDecide(t, shop(), map[string]decideCase{
		"absent rules deny":          {policies: map[string]string{"shop/p": both + `}`}, want: deny},
		"empty lists of rules deny":  {policies: map[string]string{"shop/p": both + `ingress: [], egress: []}`}, want: deny},
		"null lists of rules deny":   {policies: map[string]string{"shop/p": both + `ingress: null, egress: null}`}, want: deny},
		"one empty rule allows":      {policies: map[string]string{"shop/p": both + `ingress: [{}], egress: [{}]}`}, want: allow},
		"empty peers match everyone": {policies: map[string]string{"shop/p": both + `ingress: [{from: []}], egress: [{to: []}]}`}, want: allow},
		"null peers match everyone":  {policies: map[string]string{"shop/p": both + `ingress: [{from: null}], egress: [{to: null}]}`}, want: allow},
		"empty ports match every port": {
			policies: map[string]string{"shop/p": both + `ingress: [{ports: [], from: [{podSelector: {}}]}], egress: [{ports: [], to: [{podSelector: {}}]}]}`},
			want:     allow,
		},
		"an empty peer is invalid": {
			policies: map[string]string{"shop/p": both + `ingress: [{from: [{}]}], egress: [{to: [{}]}]}`},
			want:     map[string]string{in: "Undefined X1", out: "Undefined X1"}, invalid: true,
		},
	})
}

func TestS03EmptyAndNilSlicesMeanTheSame(t *testing.T) {
	for name, ingress := range map[string][]networkingv1.NetworkPolicyIngressRule{"nil": nil, "empty": {}} {
		t.Run(name, func(t *testing.T) {
			p := newPolicy(t, "shop/p", `policyTypes: [Ingress]`)
			p.Spec.Ingress = ingress
			s := shop()
			s.NetworkPolicies = append(s.NetworkPolicies, p)
			if got := compile(t, s).Decide(newFlow(t, "shop/web -> shop/db TCP/80")).Verdict; got != Denied {
				t.Errorf("got %s, want Denied", got)
			}
		})
	}
}

func TestS04SelectorsOfOnePeerAreAnded(t *testing.T) {
	const toDB = `{podSelector: {matchLabels: {app: db}}, ingress: [{from: `
	runDecide(t, shop(), map[string]decideCase{
		"an empty pod selector is the policy's namespace": {
			policies: map[string]string{"shop/p": toDB + `[{podSelector: {}}]}]}`},
			want:     map[string]string{"shop/web -> shop/db TCP/80": "Allowed", "ops/web -> shop/db TCP/80": "Denied"},
		},
		"an empty namespace selector is every namespace": {
			policies: map[string]string{"shop/p": toDB + `[{namespaceSelector: {}}]}]}`},
			want: map[string]string{
				"shop/web -> shop/db TCP/80": "Allowed", "ops/web -> shop/db TCP/80": "Allowed",
				"203.0.113.1 -> shop/db TCP/80": "Denied",
			},
		},
		"both selectors in one item must match": {
			policies: map[string]string{"shop/p": toDB + `[{namespaceSelector: {matchLabels: {team: ops}}, podSelector: {matchLabels: {app: web}}}]}]}`},
			want: map[string]string{
				"ops/web -> shop/db TCP/80": "Allowed", "ops/tool -> shop/db TCP/80": "Denied", "shop/web -> shop/db TCP/80": "Denied",
			},
		},
		"one of two items must match": {
			policies: map[string]string{"shop/p": toDB + `[{namespaceSelector: {matchLabels: {team: ops}}}, {podSelector: {matchLabels: {app: web}}}]}]}`},
			want: map[string]string{
				"ops/web -> shop/db TCP/80": "Allowed", "ops/tool -> shop/db TCP/80": "Allowed", "shop/web -> shop/db TCP/80": "Allowed",
			},
		},
		"peers and ports of one rule must both match": {
			policies: map[string]string{"shop/p": toDB + `[{podSelector: {}}], ports: [{port: 80}]}]}`},
			want: map[string]string{
				"shop/web -> shop/db TCP/80": "Allowed", "shop/web -> shop/db TCP/81": "Denied", "ops/web -> shop/db TCP/80": "Denied",
			},
		},
		"peers and ports of different rules do not mix": {
			policies: map[string]string{"shop/p": toDB + `[{podSelector: {}}], ports: [{port: 80}]}, {ports: [{port: 81}], from: [{namespaceSelector: {matchLabels: {team: ops}}}]}]}`},
			want: map[string]string{
				"shop/web -> shop/db TCP/80": "Allowed", "shop/web -> shop/db TCP/81": "Denied",
				"ops/web -> shop/db TCP/81": "Allowed", "ops/web -> shop/db TCP/80": "Denied",
			},
		},
		"a policy selects pods of its own namespace only": {
			policies: map[string]string{"ops/p": `{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}`},
			want:     map[string]string{"shop/db -> ops/web TCP/80": "Denied", "shop/db -> shop/web TCP/80": "Allowed"},
		},
	})
}

func TestS05ProtocolWithoutPortIsEveryPortOfIt(t *testing.T) {
	runDecide(t, shop(), map[string]decideCase{
		"UDP": {
			policies: map[string]string{"shop/p": `{ingress: [{ports: [{protocol: UDP}]}]}`},
			want: map[string]string{
				"shop/web -> shop/db UDP/1": "Allowed", "shop/web -> shop/db UDP/65535": "Allowed",
				"shop/web -> shop/db TCP/80": "Denied", "shop/web -> shop/db SCTP/80": "Denied",
			},
		},
		"an empty item is every TCP port": {
			policies: map[string]string{"shop/p": `{ingress: [{ports: [{}]}]}`},
			want:     map[string]string{"shop/web -> shop/db TCP/80": "Allowed", "shop/web -> shop/db UDP/80": "Denied"},
		},
	})
}

func TestS11ExceptNarrowsItsOwnBlockOnly(t *testing.T) {
	const block = `{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.128/25]}}`
	runDecide(t, shop(), map[string]decideCase{
		"the block alone": {
			policies: map[string]string{"shop/p": `{ingress: [{from: [` + block + `]}]}`},
			want:     map[string]string{"203.0.113.1 -> shop/db TCP/80": "Allowed", "203.0.113.200 -> shop/db TCP/80": "Denied", "198.51.100.1 -> shop/db TCP/80": "Denied"},
		},
		"another item allows what except leaves out": {
			policies: map[string]string{"shop/p": `{ingress: [{from: [` + block + `, {ipBlock: {cidr: 203.0.113.200/32}}]}]}`},
			want:     map[string]string{"203.0.113.200 -> shop/db TCP/80": "Allowed", "203.0.113.201 -> shop/db TCP/80": "Denied"},
		},
		"another policy allows what except leaves out": {
			policies: map[string]string{
				"shop/p": `{ingress: [{from: [` + block + `]}]}`,
				"shop/q": `{ingress: [{ports: [{port: 443}]}]}`,
			},
			want: map[string]string{"203.0.113.200 -> shop/db TCP/443": "Allowed", "203.0.113.200 -> shop/db TCP/80": "Denied"},
		},
		"a pod inside of except is not in the block under any reading": {
			policies: map[string]string{"shop/p": `{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/16]}}]}]}`},
			want:     map[string]string{"shop/web -> shop/db TCP/80": "Denied"},
		},
	})
}

func TestS12AddressesAreTakenAsTheFlowGivesThem(t *testing.T) {
	runDecide(t, shop(), map[string]decideCase{
		"a client behind a load balancer that keeps its address, and one behind a node": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}`},
			want: map[string]string{
				"203.0.113.7 -> shop/db TCP/80": "Allowed", "192.168.0.2 -> shop/db TCP/80": "Denied",
			},
		},
	})
}

func TestS16BothSidesMustAllow(t *testing.T) {
	const egressToDB = `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]}`
	const ingressFromWeb = `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`
	const denyAll = `policyTypes: [Ingress, Egress]`
	const f = "shop/web -> shop/db TCP/80"
	runDecide(t, shop(), map[string]decideCase{
		"neither side allows": {policies: map[string]string{"shop/deny": denyAll}, want: map[string]string{f: "Denied"}},
		"only egress allows":  {policies: map[string]string{"shop/deny": denyAll, "shop/e": egressToDB}, want: map[string]string{f: "Denied"}},
		"only ingress allows": {policies: map[string]string{"shop/deny": denyAll, "shop/i": ingressFromWeb}, want: map[string]string{f: "Denied"}},
		"both sides allow":    {policies: map[string]string{"shop/deny": denyAll, "shop/e": egressToDB, "shop/i": ingressFromWeb}, want: map[string]string{f: "Allowed"}},
	})
}

func TestS17RepliesNeedNoRule(t *testing.T) {
	runDecide(t, shop(), map[string]decideCase{
		"the source accepts nothing and the destination sends nothing": {
			policies: map[string]string{
				"shop/web": `{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}`,
				"shop/db":  `{podSelector: {matchLabels: {app: db}}, policyTypes: [Egress]}`,
			},
			want: map[string]string{"shop/web -> shop/db TCP/80": "Allowed", "shop/db -> shop/web TCP/80": "Denied"},
		},
	})
}

func TestS26NamespacesCarryTheirNameAsLabel(t *testing.T) {
	const fromOps = `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ops}}}]}]}`
	s := shop()
	labelled := newNamespace("labelled", "kubernetes.io/metadata.name=labelled")
	s.Namespaces = append(s.Namespaces, labelled)
	s.Pods = append(s.Pods, newPod("labelled/ops", "app=ops", "10.0.9.1"), newPod("unlisted/ops", "app=ops", "10.0.9.2"))
	runDecide(t, s, map[string]decideCase{
		"the label is there although the manifest lacks it": {
			policies: map[string]string{"shop/p": fromOps},
			want: map[string]string{
				"ops/web -> shop/db TCP/80": "Allowed", "shop/web -> shop/db TCP/80": "Denied",
				"labelled/ops -> shop/db TCP/80": "Denied", "unlisted/ops -> shop/db TCP/80": "Denied",
			},
		},
		"other labels decide by what they are now": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}]}]}`},
			want:     map[string]string{"ops/web -> shop/db TCP/80": "Allowed", "labelled/ops -> shop/db TCP/80": "Denied"},
		},
	})
	if got := len(s.Namespaces[0].Labels); got != 2 {
		t.Errorf("Compile changed the labels of its input: %v", s.Namespaces[0].Labels)
	}
}

func TestS26AContradictingNameLabelIsAProblem(t *testing.T) {
	s := shop()
	s.Namespaces = append(s.Namespaces, newNamespace("fake", "kubernetes.io/metadata.name=ops"))
	s.Pods = append(s.Pods, newPod("fake/web", "", "10.0.9.1"))
	runDecide(t, s, map[string]decideCase{
		"the name wins": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ops}}}]}]}`},
			want:     map[string]string{"fake/web -> shop/db TCP/80": "Denied"}, invalid: true,
		},
	})
}

func TestS27ExpressionsMatchPodsThatLackTheKey(t *testing.T) {
	const from = `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [`
	runDecide(t, shop(), map[string]decideCase{
		"NotIn matches a pod without the key": {
			policies: map[string]string{"shop/p": from + `{key: role, operator: NotIn, values: [admin]}]}}]}]}`},
			want:     map[string]string{"ops/web -> shop/db TCP/80": "Allowed", "ops/tool -> shop/db TCP/80": "Denied"},
		},
		"DoesNotExist matches a pod without the key": {
			policies: map[string]string{"shop/p": from + `{key: role, operator: DoesNotExist}]}}]}]}`},
			want:     map[string]string{"ops/web -> shop/db TCP/80": "Allowed", "ops/tool -> shop/db TCP/80": "Denied"},
		},
		"In and Exists do not": {
			policies: map[string]string{"shop/p": from + `{key: role, operator: In, values: [admin]}, {key: role, operator: Exists}]}}]}]}`},
			want:     map[string]string{"ops/web -> shop/db TCP/80": "Denied", "ops/tool -> shop/db TCP/80": "Allowed"},
		},
		"an extra label changes an identity": {
			policies: map[string]string{"shop/p": from + `{key: probe, operator: DoesNotExist}]}}]}]}`},
			want:     map[string]string{"shop/{app=web} -> shop/db TCP/80": "Allowed", "shop/{app=web,probe=1} -> shop/db TCP/80": "Denied"},
		},
	})
}
