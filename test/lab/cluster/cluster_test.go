package cluster

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"
)

func TestNodesHaveDistinctAddresses(t *testing.T) {
	seen := map[string]bool{}
	for _, n := range nodes(MaxNodes) {
		for _, value := range []string{n.Name, n.Netns, n.Addr.String(), n.Addr6.String(), n.PodCIDR.String(), n.PodCIDR6.String(), n.Dir} {
			if seen[value] {
				t.Errorf("%s is used twice", value)
			}
			seen[value] = true
		}
		if !fabricPrefix.Contains(n.Addr) || !podRange.Overlaps(n.PodCIDR) {
			t.Errorf("%s: %s or %s is out of range", n.Name, n.Addr, n.PodCIDR)
		}
		if !fabricPrefix6.Contains(n.Addr6) || !podRange6.Overlaps(n.PodCIDR6) {
			t.Errorf("%s: %s or %s is out of range", n.Name, n.Addr6, n.PodCIDR6)
		}
		if !strings.HasPrefix(n.Netns, prefix+"-") {
			t.Errorf("`down` would not find %s", n.Netns)
		}
		// The kernel allows a socket's path 107 bytes.
		if len(n.containerd()+".ttrpc") > 107 {
			t.Errorf("%s is too long for a socket", n.containerd())
		}
	}
}

func TestNodeIsReadyWhenItTakesPods(t *testing.T) {
	ready := []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	for _, c := range []struct {
		name       string
		conditions []corev1.NodeCondition
		taints     []corev1.Taint
		want       string // a part of the error
	}{
		{"new", nil, nil, "has not reported yet"},
		{"lost", []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Message: "silent"}}, nil, "is not ready: silent"},
		{"ready", ready, nil, ""},
		{"ready, and still taken for lost", ready, []corev1.Taint{{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}}, "has the taint node.kubernetes.io/unreachable:NoExecute"},
		{"ready, with a taint of its owner", ready, []corev1.Taint{{Key: "example.com/gpu", Effect: corev1.TaintEffectNoSchedule}}, ""},
	} {
		client := fake.NewClientset(&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "node-a"}, Spec: corev1.NodeSpec{Taints: c.taints}, Status: corev1.NodeStatus{Conditions: c.conditions},
		})
		err := nodeReady(t.Context(), client, "node-a")
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

func TestManifestsAreYAML(t *testing.T) {
	for _, file := range []string{"agent.yaml", "coredns.yaml"} {
		data, err := manifests.ReadFile("manifests/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(data), "\n---\n") {
			var object struct{ Kind string }
			if err := yaml.Unmarshal([]byte(document), &object); err != nil || object.Kind == "" {
				t.Errorf("%s: %v in\n%s", file, err, document)
			}
		}
	}
}

// TestEveryProcessIsNamedOnce: two processes of one name would share a record,
// and `down` would lose one of them.
func TestEveryProcessIsNamedOnce(t *testing.T) {
	l := &Lab{nodes: nodes(MaxNodes)}
	seen := map[string]bool{}
	for _, s := range l.all() {
		if seen[s.Name] {
			t.Errorf("%s is started twice", s.Name)
		}
		seen[s.Name] = true
	}
}

func TestOnlyAFinishedLabOfThisLayoutIsComplete(t *testing.T) {
	for text, want := range map[string]bool{
		`{}`:                              false,
		`{"complete":true,"boot":"this"}`: false, // the first layout
		`{"layout":3}`:                    false,
		`{"layout":3,"boot":"other"}`:     false,
		`{"layout":2,"boot":"this"}`:      false,
		`{"layout":3,"boot":"this"}`:      true,
	} {
		l := New(nil)
		text := strings.Replace(text, `"this"`, strconv.Quote(l.processes.Boot()), 1)
		l.state = state{}
		if err := json.Unmarshal([]byte(text), &l.state); err != nil {
			t.Fatal(err)
		}
		if got := l.Complete(); got != want {
			t.Errorf("%s: complete %t, want %t", text, got, want)
		}
	}
}
