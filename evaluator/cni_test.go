package evaluator

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// newAgent builds a pod of an agent from namespace/name, its labels, and images of
// containers as in cilium-agent=quay.io/cilium/cilium:v1.17.3.
func newAgent(name, labels string, images ...string) *corev1.Pod {
	p := onHostNetwork(newPod(name, labels))
	for _, text := range images {
		container, image, _ := strings.Cut(text, "=")
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: container, Image: image})
	}
	return p
}

func TestDetectTheImplementation(t *testing.T) {
	const onHost = "hostNetworkPodsPoliced=false, hostNetworkPodsSelectable=false"
	cilium := func(tag string) *corev1.Pod {
		return newAgent("kube-system/cilium-"+tag, "k8s-app=cilium", "config=busybox:1.37", "cilium-agent=quay.io:443/cilium/cilium"+tag)
	}
	calico := newAgent("calico-system/calico-node-a", "k8s-app=calico-node", "calico-node=docker.io/calico/node:v3.31.0")
	aws := newAgent("kube-system/aws-node-a", "k8s-app=aws-node", "aws-node=602401143452.dkr.ecr.us-west-2.amazonaws.com/amazon-k8s-cni:v1.19.0",
		"aws-eks-nodeagent=602401143452.dkr.ecr.us-west-2.amazonaws.com/amazon/aws-network-policy-agent:v1.1.6-eksbuild.1")
	flannel := newAgent("kube-flannel/kube-flannel-ds-a", "app=flannel", "kube-flannel=ghcr.io/flannel-io/flannel:v0.27.0")
	onPodNetwork, elsewhere, ended := cilium(":v1.17.3"), cilium(":v1.17.3"), cilium(":v1.17.3")
	onPodNetwork.Spec.HostNetwork = false
	elsewhere.Namespace = "shop"
	ended.Status.Phase = corev1.PodFailed
	for name, tc := range map[string]struct {
		assume string
		pods   []*corev1.Pod
		want   string
		note   string
	}{
		"nothing":                        {pods: []*corev1.Pod{newPod("shop/web", "app=web")}},
		"Cilium":                         {pods: []*corev1.Pod{cilium(":v1.17.3")}, want: "ipBlockMatchesPods=false, " + onHost, note: "cilium was found"},
		"Cilium by tag and digest":       {pods: []*corev1.Pod{cilium(":v1.17.3@sha256:1234")}, want: "ipBlockMatchesPods=false, " + onHost},
		"Cilium that has the option":     {pods: []*corev1.Pod{cilium(":v1.20.0")}, want: onHost},
		"Cilium of a vendor":             {pods: []*corev1.Pod{cilium(":v1.17.3-gke.1")}, want: onHost},
		"Cilium of an unknown version":   {pods: []*corev1.Pod{cilium("@sha256:1234")}, want: onHost},
		"Cilium before a release":        {pods: []*corev1.Pod{cilium(":v1.19.0-rc.1")}, want: onHost},
		"Cilium of a moving tag":         {pods: []*corev1.Pod{cilium(":latest")}, want: onHost},
		"Cilium while it is upgraded":    {pods: []*corev1.Pod{cilium(":v1.20.0"), cilium(":v1.19.2")}, want: onHost},
		"Cilium, and a user says more":   {assume: "ipBlockMatchesPods=true,podReachesOwnNode=true", pods: []*corev1.Pod{cilium(":v1.17.3")}, want: "ipBlockMatchesPods=true, " + onHost + ", podReachesOwnNode=true"},
		"detection that is switched off": {assume: "cni=none,podReachesOwnNode=true", pods: []*corev1.Pod{cilium(":v1.17.3")}, want: "podReachesOwnNode=true"},
		"pods that only look like it":    {pods: []*corev1.Pod{onPodNetwork, elsewhere, ended}},
		"Calico":                         {pods: []*corev1.Pod{calico}, want: "ipBlockMatchesPods=true, hostNetworkPodsPoliced=false"},
		"the VPC CNI":                    {pods: []*corev1.Pod{aws}, want: "podReachesOwnNode=true"},
		"two, of which one enforces":     {pods: []*corev1.Pod{aws, calico}, note: "the CNIs aws-vpc-cni and calico were found: nothing is assumed of either"},
		"two, of which one is named":     {assume: "cni=Calico", pods: []*corev1.Pod{aws, calico}, want: "ipBlockMatchesPods=true, hostNetworkPodsPoliced=false"},
		"Calico beside Flannel":          {pods: []*corev1.Pod{flannel, calico}, want: "ipBlockMatchesPods=true, hostNetworkPodsPoliced=false"},
		"Flannel":                        {pods: []*corev1.Pod{flannel}, note: "enforces no NetworkPolicy by itself"},
		"one that is named only":         {assume: "cni=cilium", want: onHost, note: "cilium was named"},
		"Antrea before it left them out": {pods: []*corev1.Pod{newAgent("kube-system/antrea-agent-a", "app=antrea", "antrea-agent=antrea/antrea-agent-ubuntu:v1.4.0")}, note: "nothing is assumed of it"},
		"Antrea":                         {pods: []*corev1.Pod{newAgent("kube-system/antrea-agent-a", "app=antrea", "antrea-agent=antrea/antrea-agent-ubuntu:v2.6.1")}, want: onHost},
	} {
		t.Run(name, func(t *testing.T) {
			var list []string
			if tc.assume != "" {
				list = strings.Split(tc.assume, ",")
			}
			i, err := ParseImplementation(list)
			if err != nil {
				t.Fatal(err)
			}
			d := i.Detect(tc.pods)
			if d.Profile.String() != tc.want {
				t.Errorf("got %q, want %q (%s)", d.Profile, tc.want, d.Note)
			}
			if !strings.Contains(d.Note, tc.note) {
				t.Errorf("the note %q does not say %q", d.Note, tc.note)
			}
			slices.Reverse(tc.pods)
			if again := i.Detect(tc.pods); again != d {
				t.Errorf("the order of the pods matters: %v and %v", d, again)
			}
		})
	}
}

func TestNewPodsWaitForTheSlowestImplementation(t *testing.T) {
	agent := func(name, labels string) *corev1.Pod {
		return newAgent("kube-system/"+name, labels, "agent=agent:v1.0.0")
	}
	aws, calico := agent("aws-node-a", "k8s-app=aws-node"), agent("calico-node-a", "k8s-app=calico-node")
	for name, tc := range map[string]struct {
		assume string
		pods   []*corev1.Pod
		want   time.Duration
	}{
		"one that is fast":          {pods: []*corev1.Pod{calico}},
		"one that is slow":          {pods: []*corev1.Pod{aws}, want: 5 * time.Second},
		"a slow one beside another": {pods: []*corev1.Pod{aws, calico}, want: 5 * time.Second},
		"a slow one that is named":  {assume: "cni=aws-vpc-cni", want: 5 * time.Second},
		"one that is not asked for": {assume: "cni=calico", pods: []*corev1.Pod{aws, calico}},
		"nothing is assumed":        {assume: "cni=none", pods: []*corev1.Pod{aws}},
	} {
		t.Run(name, func(t *testing.T) {
			var list []string
			if tc.assume != "" {
				list = []string{tc.assume}
			}
			i, err := ParseImplementation(list)
			if err != nil {
				t.Fatal(err)
			}
			if got := i.Detect(tc.pods).WarmUp; got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestParseImplementation(t *testing.T) {
	for text, want := range map[string]string{
		"cni=unheardof":              "write one of antrea, ",
		"cni":                        "write one of antrea, ",
		"cni=cilium,cni=calico":      "both cilium and calico",
		"ipBlockMatchesPods=perhaps": "or cni=NAME",
	} {
		if _, err := ParseImplementation(strings.Split(text, ",")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

func TestEveryCNIIsDocumentedWithItsSources(t *testing.T) {
	doc := read(t, "../docs/cni.md")
	for _, c := range cnis {
		i := strings.Index(doc, "| `"+c.Name+"` |")
		if i < 0 {
			t.Errorf("docs/cni.md has no row for %s", c.Name)
			continue
		}
		row, _, _ := strings.Cut(doc[i:], "\n\n")
		if !strings.Contains(row, "`"+c.label[0]+"="+c.label[1]+"`") {
			t.Errorf("docs/cni.md does not name the label of %s", c.Name)
		}
		for _, f := range c.facts {
			for _, a := range f.Assumptions() {
				if !strings.Contains(row, "`"+a+"`") {
					t.Errorf("docs/cni.md does not say %s of %s", a, c.Name)
				}
			}
			if len(f.sources) == 0 {
				t.Errorf("%s of %s has no source", f.Profile, c.Name)
			}
			for _, s := range f.sources {
				if !strings.Contains(doc, s) {
					t.Errorf("docs/cni.md lacks the source %s of %s", s, c.Name)
				}
			}
			for _, bound := range []string{f.since, f.before} {
				if !strings.Contains(row, bound) {
					t.Errorf("docs/cni.md does not say %s for %s", bound, c.Name)
				}
			}
		}
	}
}
