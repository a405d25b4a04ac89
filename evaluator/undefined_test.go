package evaluator

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestS10BlocksMayOrMayNotMatchPods(t *testing.T) {
	const block = `{ipBlock: {cidr: 10.0.0.0/8}}`
	const fromBlock = `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [` + block + `]}]}`
	s := shop()
	s.Pods = append(s.Pods, newPod("shop/pending", "app=pending"))
	runDecide(t, s, map[string]decideCase{
		"ingress from a pod inside of the block": {
			policies: map[string]string{"shop/p": fromBlock},
			want: map[string]string{
				"shop/web -> shop/db TCP/80":                 "Undefined S10",
				"10.0.0.1 -> shop/db TCP/80":                 "Undefined S10",
				"shop/web -> 10.0.0.2 TCP/80":                "Undefined S10",
				"10.99.0.1 -> shop/db TCP/80":                "Allowed",
				"203.0.113.1 -> shop/db TCP/80":              "Denied",
				"shop/pending -> shop/db TCP/80":             "Undefined X2",
				"shop/{app=x} -> shop/db TCP/80":             "Undefined S10",
				"shop/{app=x}@10.0.7.7 -> shop/db TCP/80":    "Undefined S10",
				"shop/{app=x}@203.0.113.1 -> shop/db TCP/80": "Denied",
			},
		},
		"egress to a pod inside of the block": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [` + block + `]}]}`},
			want:     map[string]string{"shop/web -> shop/db TCP/80": "Undefined S10", "shop/web -> 10.99.0.1 TCP/80": "Allowed"},
		},
		"the port decides before the block": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [` + block + `], ports: [{port: 81}]}]}`},
			want:     map[string]string{"shop/web -> shop/db TCP/80": "Denied", "shop/web -> shop/db TCP/81": "Undefined S10"},
		},
		"another rule that allows settles it": {
			policies: map[string]string{"shop/p": fromBlock, "shop/q": `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {}}]}]}`},
			want:     map[string]string{"shop/web -> shop/db TCP/80": "Allowed", "ops/web -> shop/db TCP/80": "Undefined S10"},
		},
		"the other direction denies in any case": {
			policies: map[string]string{"shop/p": fromBlock, "ops/q": `policyTypes: [Egress]`},
			want:     map[string]string{"ops/web -> shop/db TCP/80": "Denied"},
		},
		"an address of a node is as open as that of a pod": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.168.0.0/16}}]}]}`},
			want:     map[string]string{"shop/web -> 192.168.0.1 TCP/6443": "Undefined S10", "shop/web -> 192.168.7.7 TCP/6443": "Allowed"},
		},
	})
}

func TestS13HostNetworkPodsArePolicedOrIgnored(t *testing.T) {
	s := shop()
	s.Pods = append(s.Pods,
		onHostNetwork(onNode(newPod("ops/agent", "app=agent"), "node-2", "192.168.0.2")),
		onHostNetwork(onNode(newPod("ops/other", "app=other"), "node-3", "192.168.0.3")),
	)
	const denyOps = `policyTypes: [Ingress, Egress]`
	const toDB = `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [`
	runDecide(t, s, map[string]decideCase{
		"without policies": {
			want: map[string]string{"ops/agent -> shop/db TCP/80": "Allowed", "ops/agent -> ops/other TCP/80": "Allowed"},
		},
		"as the subject of a policy that denies": {
			policies: map[string]string{"ops/deny": denyOps},
			want: map[string]string{
				"shop/web -> ops/agent TCP/80": "Undefined S13", "ops/agent -> shop/web TCP/80": "Undefined S13",
				"shop/web -> 192.168.0.2 TCP/80": "Undefined S13", "192.168.0.2 -> shop/web TCP/80": "Undefined S13",
				// Nothing on the network of node-1 can be selected.
				"192.168.0.1 -> shop/web TCP/80": "Allowed",
			},
		},
		"as the subject of policies that allow": {
			policies: map[string]string{"ops/deny": denyOps, "ops/open": `{policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}`},
			want:     map[string]string{"shop/web -> ops/agent TCP/80": "Allowed", "ops/agent -> shop/web TCP/80": "Allowed"},
		},
		"as a peer by its labels": {
			policies: map[string]string{"shop/p": toDB + `{namespaceSelector: {}, podSelector: {matchLabels: {app: agent}}}]}]}`},
			want: map[string]string{
				"ops/agent -> shop/db TCP/80": "Undefined S13", "192.168.0.2 -> shop/db TCP/80": "Undefined S13",
				"ops/other -> shop/db TCP/80": "Denied", "192.168.0.3 -> shop/db TCP/80": "Denied",
			},
		},
		"as a peer by the address of its node": {
			policies: map[string]string{"shop/p": toDB + `{ipBlock: {cidr: 192.168.0.2/32}}]}]}`},
			want:     map[string]string{"ops/agent -> shop/db TCP/80": "Undefined S10", "ops/other -> shop/db TCP/80": "Denied"},
		},
		"as everybody": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 80}]}]}`},
			want:     map[string]string{"ops/agent -> shop/db TCP/80": "Allowed", "ops/agent -> shop/db TCP/81": "Denied"},
		},
		"named ports count only for those who see a pod": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{port: health}]}]}`},
			want:     map[string]string{"shop/web -> ops/agent TCP/9100": "Denied"},
		},
	})
	s.Pods[4] = withPorts(s.Pods[4], "health=9100/TCP")
	runDecide(t, s, map[string]decideCase{
		"named ports that are declared": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{port: health}]}]}`},
			want:     map[string]string{"shop/web -> ops/agent TCP/9100": "Undefined S13", "shop/web -> ops/agent TCP/9101": "Denied"},
		},
	})
}

func TestS14TheOwnNodeReachesItsPods(t *testing.T) {
	s := shop()
	s.Pods = append(s.Pods,
		onHostNetwork(newPod("ops/near", "app=agent")),
		onHostNetwork(onNode(newPod("ops/far", "app=agent"), "node-2", "192.168.0.2")),
		onHostNetwork(onNode(newPod("ops/lost", "app=agent"), "")),
		onNode(newPod("shop/lost", "app=lost", "10.0.0.9"), ""),
		onNode(newPod("shop/dual", "app=dual", "10.0.0.8", "fd00::8"), "node-1", "192.168.0.1", "fd00:1::1"),
	)
	runDecide(t, s, map[string]decideCase{
		"ingress": {
			policies: map[string]string{"shop/deny": `policyTypes: [Ingress]`},
			want: map[string]string{
				"192.168.0.1 -> shop/db TCP/80": "Allowed", "ops/near -> shop/db TCP/80": "Allowed",
				"192.168.0.2 -> shop/db TCP/80": "Denied", "ops/far -> shop/db TCP/80": "Denied",
				"fd00:1::1 -> shop/dual TCP/80": "Allowed", "fd00:1::2 -> shop/dual TCP/80": "Denied",
				// The snapshot does not say which node this is.
				"192.168.0.1 -> shop/lost TCP/80": "Undefined S14", "ops/lost -> shop/db TCP/80": "Undefined S14",
				// An identity is answered for a pod on another node.
				"192.168.0.1 -> shop/{app=db} TCP/80": "Denied",
			},
		},
		"egress to the own node is not settled by the API": {
			policies: map[string]string{"shop/deny": `policyTypes: [Egress]`},
			want: map[string]string{
				"shop/db -> 192.168.0.1 TCP/80": "Undefined S14", "shop/db -> ops/near TCP/80": "Undefined S14",
				"shop/db -> 192.168.0.2 TCP/80": "Denied",
			},
		},
	})
}

func TestS15APodReachesItself(t *testing.T) {
	s := shop()
	s.Pods = append(s.Pods, newPod("shop/dual", "app=dual", "10.0.0.8", "fd00::8"))
	runDecide(t, s, map[string]decideCase{
		"whatever the policies": {
			policies: map[string]string{"shop/deny": `policyTypes: [Ingress, Egress]`},
			want: map[string]string{
				"shop/db -> shop/db TCP/80": "Allowed", "shop/db -> 10.0.0.2 TCP/80": "Allowed", "10.0.0.2 -> shop/db UDP/80": "Allowed",
				"shop/db -> 127.0.0.1 TCP/80": "Allowed", "shop/dual@10.0.0.8 -> shop/dual@fd00::8 TCP/80": "Allowed",
				"shop/db -> shop/web TCP/80": "Denied",
				// Two pods of one identity are two pods.
				"shop/{app=db} -> shop/{app=db} TCP/80": "Denied",
				"127.0.0.1 -> shop/db TCP/80":           "Undefined X2", "203.0.113.1 -> 127.0.0.1 TCP/80": "Undefined X2",
			},
		},
	})
}

func TestS19EndedPodsAreNoPeers(t *testing.T) {
	s := shop()
	for _, phase := range []corev1.PodPhase{corev1.PodSucceeded, corev1.PodFailed} {
		p := newPod("shop/"+strings.ToLower(string(phase)), "app=web", "10.0.0.50")
		p.Status.Phase = phase
		s.Pods = append(s.Pods, p)
	}
	leaving := newPod("shop/leaving", "app=web", "10.0.0.51")
	leaving.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	s.Pods = append(s.Pods, leaving)
	const fromWeb = `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`
	runDecide(t, s, map[string]decideCase{
		"their address is anybody's": {
			policies: map[string]string{"shop/p": fromWeb},
			want: map[string]string{
				"10.0.0.50 -> shop/db TCP/80":      "Denied",
				"shop/succeeded -> shop/db TCP/80": "Undefined S19", "shop/db -> shop/failed TCP/80": "Undefined S19",
				// A pod that is shutting down still has its address.
				"10.0.0.51 -> shop/db TCP/80": "Allowed",
			},
		},
	})
	s.Pods = append(s.Pods, newPod("shop/heir", "app=web", "10.0.0.50"))
	runDecide(t, s, map[string]decideCase{
		"their address is its new owner's": {
			policies: map[string]string{"shop/p": fromWeb}, want: map[string]string{"10.0.0.50 -> shop/db TCP/80": "Allowed"},
		},
	})
}

func TestS21NamespacesThatAreBeingDeleted(t *testing.T) {
	s := shop()
	gone, going := newNamespace("gone", ""), newNamespace("going", "")
	gone.Status.Phase = corev1.NamespaceTerminating
	going.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	s.Namespaces = append(s.Namespaces, gone, going)
	s.Pods = append(s.Pods, newPod("gone/p", "", "10.0.5.1"), newPod("going/p", "", "10.0.5.2"),
		onHostNetwork(onNode(newPod("going/host", ""), "node-2", "192.168.0.2")))
	runDecide(t, s, map[string]decideCase{
		"either end": {want: map[string]string{
			"gone/p -> shop/db TCP/80": "Undefined S21", "shop/db -> going/p TCP/80": "Undefined S21",
			"10.0.5.1 -> shop/db TCP/80": "Undefined S21", "going/{a=b} -> shop/db TCP/80": "Undefined S21",
			"going/host -> shop/db TCP/80": "Undefined S21", "going/p -> going/p TCP/80": "Allowed",
			"shop/web -> shop/db TCP/80": "Allowed",
		}},
	})
}

func TestS24EachFamilyIsDecidedOnItsOwn(t *testing.T) {
	s := shop()
	s.Pods = append(s.Pods,
		newPod("shop/dual", "app=dual", "10.0.0.8", "fd00::8"), newPod("shop/six", "app=six", "fd00::6"),
	)
	runDecide(t, s, map[string]decideCase{
		"blocks": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: dual}}, ingress: [{from: [{ipBlock: {cidr: "2001:db8::/32"}}]}]}`},
			want: map[string]string{
				"2001:db8::1 -> shop/dual TCP/80": "Allowed", "203.0.113.1 -> shop/dual TCP/80": "Denied",
				"::ffff:203.0.113.1 -> shop/dual TCP/80": "Denied",
			},
		},
		"the family of one end chooses the address of the other": {
			policies: map[string]string{"shop/p": `{podSelector: {matchLabels: {app: dual}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: "fd00::/16"}}]}]}`},
			want: map[string]string{
				"shop/dual -> shop/six TCP/80": "Undefined S10", "shop/dual@10.0.0.8 -> shop/web TCP/80": "Denied",
			},
		},
		"no common family": {
			want: map[string]string{
				"shop/six -> shop/web TCP/80": "Undefined S24", "shop/six -> 203.0.113.1 TCP/80": "Undefined S24",
				"shop/dual@fd00::8 -> shop/web TCP/80": "Undefined S24",
			},
		},
	})
}

func TestS28OtherProtocolsAreUndefined(t *testing.T) {
	runDecide(t, shop(), map[string]decideCase{
		"no policy speaks of them": {want: map[string]string{
			"shop/web -> shop/db ICMP/8": "Undefined S28", "shop/web -> shop/db tcp/80": "Undefined S28", "shop/web -> shop/db /80": "Undefined S28",
		}},
	})
}

func TestX2WhatTheSnapshotDoesNotHold(t *testing.T) {
	s := shop()
	s.Pods = append(s.Pods,
		newPod("unlisted/p", "app=web", "10.0.6.1"),
		newPod("shop/one", "", "10.0.6.7"), newPod("shop/two", "", "10.0.6.7"),
	)
	const from = `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: `
	runDecide(t, s, map[string]decideCase{
		"unknown ends": {want: map[string]string{
			"shop/nobody -> shop/db TCP/80": "Undefined X2", "shop/db -> nowhere/p TCP/80": "Undefined X2",
			"nowhere/{a=b} -> shop/db TCP/80": "Undefined X2", "shop/web@10.9.9.9 -> shop/db TCP/80": "Undefined X2",
			"10.0.6.7 -> shop/db TCP/80": "Undefined X2", "shop/web -> shop/db TCP/0": "Undefined X2",
			"shop/web -> 0.0.0.0 TCP/80": "Undefined X2", "shop/web -> 224.0.0.1 UDP/80": "Undefined X2",
		}},
		"labels of a namespace that is not listed": {
			policies: map[string]string{"shop/p": from + `{matchLabels: {team: ops}}}]}]}`},
			want:     map[string]string{"unlisted/p -> shop/db TCP/80": "Undefined X2", "unlisted/{a=b} -> shop/db TCP/80": "Undefined X2"},
		},
		"the name of a namespace that is not listed": {
			policies: map[string]string{"shop/p": from + `{matchLabels: {kubernetes.io/metadata.name: unlisted}}}]}]}`},
			want:     map[string]string{"unlisted/p -> shop/db TCP/80": "Allowed"},
		},
		"another name decides without the labels": {
			policies: map[string]string{"shop/p": from + `{matchLabels: {kubernetes.io/metadata.name: ops, team: ops}}}]}]}`},
			want:     map[string]string{"unlisted/p -> shop/db TCP/80": "Denied"},
		},
		"the pod's labels decide without the namespace's": {
			policies: map[string]string{"shop/p": from + `{matchLabels: {team: ops}}, podSelector: {matchLabels: {app: tool}}}]}]}`},
			want:     map[string]string{"unlisted/p -> shop/db TCP/80": "Denied"},
		},
		"a policy in a namespace that is not listed": {
			policies: map[string]string{"unlisted/p": `{ingress: [{from: [{namespaceSelector: {matchLabels: {team: shop}}}]}]}`},
			want: map[string]string{
				"shop/db -> unlisted/p TCP/80": "Allowed", "ops/tool -> unlisted/p TCP/80": "Denied",
				"unlisted/{a=b} -> unlisted/p TCP/80": "Undefined X2",
			},
		},
	})
}
