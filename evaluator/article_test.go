package evaluator

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// production is a three-tier application with cluster DNS beside it: frontends may
// call backends, backends may call MongoDB, nobody else may.
func production() Snapshot {
	return Snapshot{
		Namespaces: []*corev1.Namespace{
			newNamespace("production", "environment=production"), newNamespace("staging", "environment=staging"),
			newNamespace("kube-system", ""), newNamespace("default", ""),
		},
		Pods: []*corev1.Pod{
			newPod("production/frontend", "app=frontend", "10.1.0.1"),
			newPod("production/backend", "app=backend", "10.1.0.2"),
			newPod("production/mongodb", "app=mongodb", "10.1.0.3"),
			newPod("staging/frontend", "app=frontend", "10.1.1.1"),
			newPod("kube-system/dns", "k8s-app=kube-dns", "10.1.2.1"),
			newPod("default/debug", "run=debug", "10.1.3.1"),
		},
	}
}

func TestThreeTierApplication(t *testing.T) {
	const toMongo = `{podSelector: {matchLabels: {app: mongodb}}, policyTypes: [Ingress],
		ingress: [{from: [{podSelector: {matchLabels: {app: backend}}}], ports: [{protocol: TCP, port: 27017}]}]}`
	const fromBackend = `{podSelector: {matchLabels: {app: backend}}, policyTypes: [Egress],
		egress: [{to: [{podSelector: {matchLabels: {app: mongodb}}}], ports: [{protocol: TCP, port: 27017}]}]}`
	const dns = `{podSelector: {matchLabels: {app: backend}}, policyTypes: [Egress],
		egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}],
			ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]}]}`
	const api = `{podSelector: {matchLabels: {app: backend}}, policyTypes: [Egress],
		egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24}}], ports: [{protocol: TCP, port: 443}]}]}`
	runDecide(t, production(), map[string]decideCase{
		"only backends reach the database": {
			policies: map[string]string{"production/allow-backend-to-mongodb": toMongo},
			want: map[string]string{
				"production/backend -> production/mongodb TCP/27017":    "Allowed",
				"production/backend -> production/mongodb TCP/27018":    "Denied",
				"production/backend -> production/mongodb UDP/27017":    "Denied",
				"production/frontend -> production/mongodb TCP/27017":   "Denied",
				"default/debug -> production/mongodb TCP/27017":         "Denied",
				"staging/{app=backend} -> production/mongodb TCP/27017": "Denied",
				"203.0.113.9 -> production/mongodb TCP/27017":           "Denied",
				"production/frontend -> production/backend TCP/8080":    "Allowed",
				"production/mongodb -> production/backend TCP/8080":     "Allowed",
			},
		},
		"strict egress forgets DNS": {
			policies: map[string]string{"production/egress": fromBackend},
			want: map[string]string{
				"production/backend -> production/mongodb TCP/27017": "Allowed",
				"production/backend -> kube-system/dns UDP/53":       "Denied",
				"production/backend -> 203.0.113.9 TCP/443":          "Denied",
			},
		},
		"with DNS and an external API": {
			policies: map[string]string{"production/egress": fromBackend, "production/dns": dns, "production/api": api},
			want: map[string]string{
				"production/backend -> kube-system/dns UDP/53":   "Allowed",
				"production/backend -> kube-system/dns TCP/53":   "Allowed",
				"production/backend -> kube-system/dns TCP/9153": "Denied",
				"production/backend -> default/debug UDP/53":     "Denied",
				"production/backend -> 203.0.113.9 TCP/443":      "Allowed",
				"production/backend -> 203.0.114.9 TCP/443":      "Denied",
			},
		},
		"default deny in both directions": {
			policies: map[string]string{
				"production/default-deny-all": `{podSelector: {}, policyTypes: [Ingress, Egress]}`,
				"production/ingress":          toMongo, "production/egress": fromBackend,
			},
			want: map[string]string{
				"production/backend -> production/mongodb TCP/27017": "Allowed",
				"production/frontend -> production/backend TCP/8080": "Denied",
				"production/frontend -> kube-system/dns UDP/53":      "Denied",
				"default/debug -> staging/frontend TCP/80":           "Allowed",
			},
		},
		"staging frontends by namespace and label": {
			policies: map[string]string{"production/and": `{podSelector: {matchLabels: {app: backend}}, ingress: [{from: [
				{namespaceSelector: {matchLabels: {environment: staging}}, podSelector: {matchLabels: {app: frontend}}}]}]}`},
			want: map[string]string{
				"staging/frontend -> production/backend TCP/8080": "Allowed", "production/frontend -> production/backend TCP/8080": "Denied",
				"staging/{app=x} -> production/backend TCP/8080": "Denied",
			},
		},
		"staging or local frontends": {
			policies: map[string]string{"production/or": `{podSelector: {matchLabels: {app: backend}}, ingress: [{from: [
				{namespaceSelector: {matchLabels: {environment: staging}}}, {podSelector: {matchLabels: {app: frontend}}}]}]}`},
			want: map[string]string{
				"staging/frontend -> production/backend TCP/8080": "Allowed", "production/frontend -> production/backend TCP/8080": "Allowed",
				"staging/{app=x} -> production/backend TCP/8080": "Allowed", "default/debug -> production/backend TCP/8080": "Denied",
			},
		},
	})
}
