package matrix

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/pathproof/pathproof/flow"
)

func TestTargetsAreAskedAboutTheirPorts(t *testing.T) {
	udp := corev1.ContainerPort{Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP}
	sidecar := func(p Pod) Pod {
		p.Spec.InitContainers = []corev1.Container{
			{Name: "proxy", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways), Ports: []corev1.ContainerPort{tcp("http", 3000)}},
			{Name: "setup", Ports: []corev1.ContainerPort{tcp("http", 1)}},
		}
		return p
	}
	number := func(n int32) Wanted { return Wanted{flow.TCP, intstr.FromInt32(n)} }
	name := func(p flow.Protocol, s string) Wanted { return Wanted{p, intstr.FromString(s)} }
	cases := map[string]struct {
		pod     Pod
		wanted  []Wanted
		want    string
		assumed bool
	}{
		"declared, sorted, once":     {pod("a/x", KindPod, "x", "l=1", "", udp, tcp("b", 90), tcp("a", 80), tcp("c", 80)), nil, "TCP/80, 90, UDP/53", false},
		"no protocol is TCP":         {pod("a/x", KindPod, "x", "l=1", "", corev1.ContainerPort{ContainerPort: 7}), nil, "TCP/7", false},
		"none declared":              {pod("a/x", KindPod, "x", "l=1", ""), nil, "TCP/80", true},
		"S8: sidecars declare too":   {sidecar(pod("a/x", KindPod, "x", "l=1", "")), nil, "TCP/3000", false},
		"a number":                   {pod("a/x", KindPod, "x", "l=1", "", tcp("http", 80)), []Wanted{number(443)}, "TCP/443", false},
		"a name":                     {pod("a/x", KindPod, "x", "l=1", "", tcp("http", 8080), tcp("other", 1)), []Wanted{name(flow.TCP, "http")}, "TCP/8080", false},
		"a name with two numbers":    {pod("a/x", KindPod, "x", "l=1", "", tcp("http", 1), tcp("http", 2)), []Wanted{name(flow.TCP, "http")}, "TCP/1, 2", false},
		"a name of another protocol": {pod("a/x", KindPod, "x", "l=1", "", udp, tcp("dns", 54)), []Wanted{name(flow.UDP, "dns")}, "UDP/53", false},
		"a number and a name of it":  {pod("a/x", KindPod, "x", "l=1", "", tcp("http", 80)), []Wanted{number(80), name(flow.TCP, "http")}, "TCP/80", false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			m := build(t, []Pod{tc.pod}, nil, tc.wanted...)
			if got := portWords(m.Rows[0].Ports); got != tc.want || m.Rows[0].Assumed != tc.assumed {
				t.Errorf("got %s, assumed %v", got, m.Rows[0].Assumed)
			}
		})
	}
}

func TestANameThatNobodyDeclaresIsAnError(t *testing.T) {
	pods := []Pod{pod("a/x", KindPod, "x", "l=1", "", tcp("http", 80))}
	_, err := New(compile(pods, nil), pods, []Wanted{{flow.UDP, intstr.FromString("http")}})
	if err == nil || !strings.Contains(err.Error(), `declares a UDP port named "http"`) {
		t.Errorf("got %v", err)
	}
}

func TestLongListsOfPortsAreCut(t *testing.T) {
	r := Row{}
	for n := range uint16(5) {
		r.Ports = append(r.Ports, flow.Port{Protocol: flow.TCP, Number: n + 1})
	}
	if got := r.portLabel(); got != "TCP/1, 2 +3" {
		t.Errorf("got %s", got)
	}
	// A cut that saves nothing is none.
	if r.Ports = r.Ports[:3]; r.portLabel() != "TCP/1, 2, 3" {
		t.Errorf("got %s", r.portLabel())
	}
}
