package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
)

// manyPods writes the manifests of a cluster of 1,000 pods and 500 policies in 20
// namespaces. Five pods are of one ReplicaSet each, or of nothing.
func manyPods(owned bool) string {
	const namespaces, pods, policies, apps = 20, 1000, 500, 10
	specs := []string{
		`{podSelector: {}, policyTypes: [Ingress]}`,
		`{podSelector: {matchLabels: {app: app-%[1]d}}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: In, values: [app-%[2]d, app-7]}]}}], ports: [{port: 8080}]}]}`,
		`{podSelector: {matchLabels: {app: app-%[2]d}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: app-%[1]d}}}], ports: [{port: http}, {port: 53, protocol: UDP}]}]}`,
		`{podSelector: {matchLabels: {app: app-%[1]d}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: team-%[2]d}}}], ports: [{port: 8000, endPort: 9100}]}]}`,
		`{podSelector: {matchLabels: {app: app-%[1]d}}, ingress: [{from: [{namespaceSelector: {}}], ports: [{port: metrics}]}]}`,
	}
	var b strings.Builder
	for i := range namespaces {
		fmt.Fprintf(&b, "apiVersion: v1\nkind: Namespace\nmetadata: {name: ns-%d, labels: {team: team-%d}}\n---\n", i, i%apps)
	}
	for i := range pods {
		app, owner := i/namespaces%apps, ""
		if owned {
			owner = fmt.Sprintf(", ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: app-%d, uid: u, controller: true}]", app)
		}
		fmt.Fprintf(&b, `apiVersion: v1
kind: Pod
metadata: {name: app-%d-%d, namespace: ns-%d, labels: {app: app-%d, tier: backend}%s}
spec:
  nodeName: node-%d
  containers:
  - name: main
    image: example.com/app
    ports: [{name: http, containerPort: 8080}, {name: metrics, containerPort: 9090}]
status: {phase: Running, podIP: 10.%d.%d.1}
---
`, app, i, i%namespaces, app, owner, i%50, i/250, i%250)
	}
	for i := range policies {
		round := i / namespaces
		spec := specs[round%len(specs)]
		if round%len(specs) != 0 {
			app := (round + round/len(specs)*2) % apps
			spec = fmt.Sprintf(spec, app, (app+1)%apps)
		}
		fmt.Fprintf(&b, "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: np-%d, namespace: ns-%d}\nspec: %s\n---\n", i, i%namespaces, spec)
	}
	return b.String()
}

// BenchmarkMatrix1000Pods500Policies goes from manifests to output. Where nothing
// owns the pods, each is a row.
func BenchmarkMatrix1000Pods500Policies(b *testing.B) {
	for _, c := range []struct {
		name    string
		owned   bool
		outputs []string
	}{
		{"200Workloads", true, []string{"table", "json", "csv", "html", "svg"}},
		{"1000Rows", false, []string{"table", "json", "csv"}},
	} {
		path := file(b, "cluster.yaml", manyPods(c.owned))
		_, text, _ := call(b, "", "matrix", "-f", path, "-o", "json")
		var table struct{ Cells map[string]int }
		if err := json.Unmarshal([]byte(text), &table); err != nil {
			b.Fatal(err)
		}
		for _, state := range []string{"allowed", "denied", "mixed"} {
			if table.Cells[state] < 1000 {
				b.Fatalf("too few cells are %s: %v", state, table.Cells)
			}
		}
		for _, output := range c.outputs {
			b.Run(c.name+"/"+output, func(b *testing.B) {
				for b.Loop() {
					var errs strings.Builder
					if code := run(b.Context(), []string{"matrix", "-f", path, "-o", output}, streams{out: io.Discard, err: &errs}); code != 0 {
						b.Fatalf("exit code %d: %s", code, errs.String())
					}
				}
			})
		}
	}
}
