package manifests

import (
	"strings"
	"testing"
)

func TestOwnersOfPods(t *testing.T) {
	pod := func(owner, hash string) string {
		kind, name, _ := strings.Cut(owner, "/")
		text := "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  namespace: a\n  labels: {pod-template-hash: \"" + hash + "\"}\n"
		if owner != "" {
			text += "  ownerReferences: [{apiVersion: v1, kind: " + kind + ", name: " + name + ", uid: u, controller: true}]\n"
		}
		return text + "---\n"
	}
	workload := func(kind, name, owner string) string {
		version := "apps/v1"
		spec := "{selector: {matchLabels: {app: x}}, template: {metadata: {labels: {app: x}}}}"
		switch kind {
		case "Job":
			version, spec = "batch/v1", "{template: {metadata: {labels: {app: x}}}}"
		case "CronJob":
			version, spec = "batch/v1", "{schedule: '* * * * *', jobTemplate: {spec: {template: {metadata: {labels: {app: x}}}}}}"
		}
		text := "apiVersion: " + version + "\nkind: " + kind + "\nmetadata:\n  name: " + name + "\n  namespace: a\n"
		if ownerKind, ownerName, ok := strings.Cut(owner, "/"); ok {
			text += "  ownerReferences: [{apiVersion: v1, kind: " + ownerKind + ", name: " + ownerName + ", uid: u, controller: true}]\n"
		}
		return text + "spec: " + spec + "\n---\n"
	}
	cases := map[string]struct {
		text string
		// want is kind/name; empty if nothing owns the pod.
		want string
	}{
		"a pod of its own":                   {pod("", ""), ""},
		"a pod that a node owns":             {pod("Node/node-1", ""), ""},
		"the pod of a workload":              {workload("DaemonSet", "w", ""), "DaemonSet/w"},
		"an owner that is not in the input":  {pod("StatefulSet/w", ""), "StatefulSet/w"},
		"a ReplicaSet alone":                 {pod("ReplicaSet/w", ""), "ReplicaSet/w"},
		"a Deployment by the hash":           {pod("ReplicaSet/w-5d4", "5d4"), "Deployment/w"},
		"another hash":                       {pod("ReplicaSet/w-5d4", "777"), "ReplicaSet/w-5d4"},
		"the owner of the owner":             {pod("Job/w-1", "") + workload("Job", "w-1", "CronJob/w"), "CronJob/w"},
		"the owner of the owner of all":      {pod("Job/w-1", "") + workload("Job", "w-1", "CronJob/w") + workload("CronJob", "w", ""), "CronJob/w"},
		"a ReplicaSet that says whose it is": {pod("ReplicaSet/w-5d4", "5d4") + workload("ReplicaSet", "w-5d4", "Deployment/other"), "Deployment/other"},
		"workloads that own each other":      {pod("Job/one", "") + workload("Job", "one", "Job/two") + workload("Job", "two", "Job/one"), "Job/one"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := readBytes([]byte(tc.text), Options{})
			if len(r.Problems) > 0 || len(r.Snapshot.Pods) != 1 {
				t.Fatalf("%d pods, %v", len(r.Snapshot.Pods), r.Problems)
			}
			owner, ok := r.Owners().Of(r.Snapshot.Pods[0])
			got := ""
			if ok {
				got = owner.Kind + "/" + owner.Name
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
