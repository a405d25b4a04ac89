package manifests

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// DefaultClusterDNS is the Service that pods of nearly every cluster resolve names
// with. It is not part of anybody's manifests, so it is the one thing that is
// assumed to exist.
const DefaultClusterDNS = "kube-system/kube-dns"

// complete adds what a cluster would have added. The order matters: pods need an
// address before EndpointSlices can hold it.
func complete(r *Result, o Options) {
	r.completeNamespaces()
	if o.Cluster == nil {
		// What a cluster lacks does not exist.
		r.assumeClusterDNS(o.ClusterDNS)
	}
	r.standIns()
	r.completePods()
	r.completeAddresses()
	r.completeSlices()
}

// assumeClusterDNS adds the cluster DNS if expectations need it and the input
// lacks it. Of its namespace nothing is assumed but the name, so that a policy
// that asks for other labels stays undecided.
func (r *Result) assumeClusterDNS(name string) {
	if name != DefaultClusterDNS || !r.asksDNS() {
		return
	}
	namespace, name, _ := strings.Cut(name, "/")
	for _, s := range r.Snapshot.Services {
		if s.Namespace == namespace && s.Name == name {
			return
		}
	}
	labels := map[string]string{"k8s-app": "kube-dns"}
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}
	port := func(name string, protocol corev1.Protocol) corev1.ServicePort {
		return corev1.ServicePort{Name: name, Protocol: protocol, Port: 53, TargetPort: intstr.FromInt32(53)}
	}
	r.Snapshot.Services = append(r.Snapshot.Services, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
		Selector: labels, Ports: []corev1.ServicePort{port("dns", corev1.ProtocolUDP), port("dns-tcp", corev1.ProtocolTCP)},
	}})
	meta.Name = "assumed-cluster-dns"
	r.Snapshot.Pods = append(r.Snapshot.Pods, &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "dns", Ports: []corev1.ContainerPort{
			{Name: "dns", Protocol: corev1.ProtocolUDP, ContainerPort: 53}, {Name: "dns-tcp", Protocol: corev1.ProtocolTCP, ContainerPort: 53},
		},
	}}}})
	r.Notes = append(r.Notes, fmt.Sprintf("the cluster DNS is not among the manifests: assumed Service %s with pods k8s-app=kube-dns on port 53 (name another with --cluster-dns, and add its manifests)", DefaultClusterDNS))
}

func (r *Result) asksDNS() bool {
	for _, e := range r.Expectations {
		for i := range e.Object.Spec.Paths {
			if e.Object.Spec.Paths[i].DNS != nil {
				return true
			}
		}
	}
	return false
}
