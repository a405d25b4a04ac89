package manifests

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/plan"
)

// completeSlices makes the EndpointSlices that the cluster's controller would make,
// for Services that have a selector and none in the input.
func (r *Result) completeSlices() {
	have := map[string]bool{}
	for _, s := range r.Snapshot.EndpointSlices {
		have[s.Namespace+"/"+s.Labels[discoveryv1.LabelServiceName]] = true
	}
	pods := map[string][]*corev1.Pod{}
	for _, p := range sorted(r.Snapshot.Pods) {
		if rank(p) == 0 && p.DeletionTimestamp == nil {
			pods[p.Namespace] = append(pods[p.Namespace], p)
		}
	}
	for _, s := range r.Snapshot.Services {
		defaultPorts(s)
		if have[s.Namespace+"/"+s.Name] || len(s.Spec.Selector) == 0 || s.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		selector := labels.SelectorFromSet(s.Spec.Selector)
		var backends []*corev1.Pod
		for _, p := range pods[s.Namespace] {
			if selector.Matches(labels.Set(p.Labels)) {
				backends = append(backends, p)
			}
		}
		r.Snapshot.EndpointSlices = append(r.Snapshot.EndpointSlices, slicesOf(s, backends)...)
	}
}

// defaultPorts sets what the API server would set.
func defaultPorts(s *corev1.Service) {
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == (intstr.IntOrString{}) {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
}

// slicesOf makes the slices of a Service: one for each family and each set of port
// numbers, because a named target port may be another number on each pod.
func slicesOf(s *corev1.Service, pods []*corev1.Pod) []*discoveryv1.EndpointSlice {
	found := map[string]*discoveryv1.EndpointSlice{}
	for _, pod := range pods {
		ports := resolvePorts(s, pod)
		for _, addr := range pod.Status.PodIPs {
			family := discoveryv1.AddressTypeIPv4
			if a, err := netip.ParseAddr(addr.IP); err != nil || !a.Unmap().Is4() {
				family = discoveryv1.AddressTypeIPv6
			}
			key := string(family) + signature(ports)
			slice := found[key]
			if slice == nil {
				slice = &discoveryv1.EndpointSlice{
					ObjectMeta:  metav1.ObjectMeta{Namespace: s.Namespace, Labels: map[string]string{discoveryv1.LabelServiceName: s.Name}},
					AddressType: family, Ports: ports,
				}
				found[key] = slice
			}
			ready := s.Spec.PublishNotReadyAddresses || plan.IsReady(pod)
			endpoint := discoveryv1.Endpoint{
				Addresses: []string{addr.IP}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name},
			}
			if pod.Spec.NodeName != "" {
				endpoint.NodeName = &pod.Spec.NodeName
			}
			slice.Endpoints = append(slice.Endpoints, endpoint)
		}
	}
	var out []*discoveryv1.EndpointSlice
	for i, key := range slices.Sorted(maps.Keys(found)) {
		found[key].Name = fmt.Sprintf("%s-%d", s.Name, i)
		out = append(out, found[key])
	}
	return out
}

// resolvePorts returns the ports of a Service on one pod. A pod that does not have
// a named port is no endpoint for it.
func resolvePorts(s *corev1.Service, pod *corev1.Pod) []discoveryv1.EndpointPort {
	var out []discoveryv1.EndpointPort
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		number := p.TargetPort.IntVal
		if p.TargetPort.Type == intstr.String {
			n, ok := plan.NamedPort(pod, flow.Protocol(p.Protocol), p.TargetPort.StrVal)
			if !ok {
				continue
			}
			number = int32(n)
		}
		out = append(out, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &p.Protocol, Port: &number})
	}
	return out
}

func signature(ports []discoveryv1.EndpointPort) string {
	var b strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&b, " %s/%s/%d", *p.Name, *p.Protocol, *p.Port)
	}
	return b.String()
}
