package main

import (
	"strings"
	"testing"
)

const ciliumAgent = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: cilium, namespace: kube-system}
spec:
  selector: {matchLabels: {k8s-app: cilium}}
  template:
    metadata: {labels: {k8s-app: cilium}}
    spec: {hostNetwork: true, containers: [{name: cilium-agent, image: "quay.io/cilium/cilium:v1.18.4"}]}
`

// running are pods of a cluster, with addresses that a policy lets in by range.
const running = `
apiVersion: v1
kind: Namespace
metadata: {name: live}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: live}
status: {phase: Running, podIP: 10.0.0.1, hostIP: 192.168.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: live, labels: {app: server}}
status: {phase: Running, podIP: 10.0.0.2, hostIP: 192.168.0.1}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: live}
spec: {podSelector: {matchLabels: {app: server}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}
`

func TestAssumptionsSettleWhatIsUndefined(t *testing.T) {
	agent, pods := file(t, "cilium.yaml", ciliumAgent), file(t, "running.yaml", running)
	for name, tc := range map[string]struct {
		args    []string
		want    string
		note    string
		noNotes bool
	}{
		"nothing is known":              {want: "Undefined", noNotes: true},
		"blocks match pods":             {args: []string{"--assume", "ipBlockMatchesPods=true"}, want: "Allowed", noNotes: true},
		"blocks do not match pods":      {args: []string{"--assume", "podReachesOwnNode=true,ipBlockMatchesPods=false"}, want: "Denied"},
		"Cilium is among the manifests": {args: []string{"-f", agent}, want: "Denied", note: "note: the CNI cilium was found: assumed ipBlockMatchesPods=false"},
		"what is told wins":             {args: []string{"-f", agent, "--assume", "ipBlockMatchesPods=true"}, want: "Allowed", note: "to overrule it"},
		"nothing is looked for":         {args: []string{"-f", agent, "--assume", "cni=none"}, want: "Undefined", noNotes: true},
		"Calico is named":               {args: []string{"--assume", "cni=calico"}, want: "Allowed", note: "the CNI calico was named"},
		"a flag that is written twice":  {args: []string{"--assume", "cni=calico", "--assume", "ipBlockMatchesPods=false"}, want: "Denied"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"predict", "--flows", "-", "-f", pods}, tc.args...)
			code, out, errs := call(t, `{"id":"1","from":"live/client","to":"live/server","port":80}`, args...)
			if code != 0 {
				t.Fatalf("exit code %d: %s", code, errs)
			}
			if got := parse(t, out)[0].Verdict; got != tc.want {
				t.Errorf("got %s, want %s: %s", got, tc.want, out)
			}
			if !strings.Contains(errs, tc.note) || (tc.noNotes && strings.Contains(errs, "CNI")) {
				t.Errorf("want the note %q, got: %s", tc.note, errs)
			}
		})
	}
}

// Manifests say nothing of addresses: no block lets a pod in for one that was made up.
func TestBlocksThatMatchPodsSettleNothingOfManifests(t *testing.T) {
	_, out, errs := call(t, `{"id":"1","from":"production/frontend","to":"other/ranged","port":80}`,
		"predict", "--flows", "-", "-f", production, "-f", more, "--assume", "ipBlockMatchesPods=true")
	if got := parse(t, out)[0].Verdict; got != "Undefined" || !strings.Contains(errs, "ipBlockMatchesPods=true is left out") {
		t.Errorf("got %s: %s", got, errs)
	}
}

func TestAnAssumptionThatIsUnknownIsAUsageError(t *testing.T) {
	for _, text := range []string{"ipBlocks=true", "ipBlockMatchesPods=perhaps", "cni=unheardof"} {
		code, _, errs := call(t, "", "check", "-f", production, "--assume", text)
		if code != exitInvalid || !strings.Contains(errs, "error: --assume: ") || !strings.Contains(errs, "write one of") {
			t.Errorf("%s: exit code %d: %s", text, code, errs)
		}
	}
}
