package explain

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/flow"
)

// named names an end with its labels, which is what policies see of it.
func named(e flow.Endpoint, pod *corev1.Pod) string {
	if pod == nil {
		return e.String()
	}
	name := pod.Namespace + "/" + pod.Name
	if len(pod.Labels) == 0 {
		return name + " (no labels)"
	}
	return name + " (" + flow.FormatLabels(pod.Labels) + ")"
}

// selectorText renders a selector in one piece.
func selectorText(s *metav1.LabelSelector) string {
	if s == nil || (len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 0) {
		return "any"
	}
	return metav1.FormatLabelSelector(s)
}

// text renders a rule in words.
func (r parts) text(t networkingv1.PolicyType, namespace string) string {
	word := "from"
	if t == networkingv1.PolicyTypeEgress {
		word = "to"
	}
	return fmt.Sprintf("%s %s, %s", word, peersText(r.peers, namespace), portsText(r.ports))
}

func peersText(peers []networkingv1.NetworkPolicyPeer, namespace string) string {
	if len(peers) == 0 {
		return "anything"
	}
	out := make([]string, len(peers))
	for i, p := range peers {
		out[i] = peerText(p, namespace)
	}
	return strings.Join(out, " or ")
}

func peerText(p networkingv1.NetworkPolicyPeer, namespace string) string {
	if p.IPBlock != nil {
		text := "addresses in " + p.IPBlock.CIDR
		if len(p.IPBlock.Except) > 0 {
			text += " except " + strings.Join(p.IPBlock.Except, ", ")
		}
		return text
	}
	pods := "pods"
	if p.PodSelector != nil && selectorText(p.PodSelector) != "any" {
		pods += " " + selectorText(p.PodSelector)
	}
	switch {
	case p.NamespaceSelector == nil:
		return pods + " of namespace " + namespace
	case selectorText(p.NamespaceSelector) == "any":
		return pods + " of any namespace"
	}
	return pods + " of namespaces with " + selectorText(p.NamespaceSelector)
}

func portsText(ports []networkingv1.NetworkPolicyPort) string {
	if len(ports) == 0 {
		return "any port"
	}
	out := make([]string, len(ports))
	for i, p := range ports {
		protocol := corev1.ProtocolTCP
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		switch {
		case p.Port == nil:
			out[i] = "any " + string(protocol) + " port"
		case p.EndPort != nil:
			out[i] = fmt.Sprintf("%s/%s-%d", protocol, p.Port.String(), *p.EndPort)
		default:
			out[i] = fmt.Sprintf("%s/%s", protocol, p.Port.String())
		}
	}
	return strings.Join(out, " or ")
}

// namesOf lists the named ports.
func namesOf(ports []networkingv1.NetworkPolicyPort) string {
	var out []string
	for _, p := range ports {
		if p.Port != nil && p.Port.StrVal != "" {
			out = append(out, p.Port.StrVal)
		}
	}
	return strings.Join(out, ", ")
}
