package plan

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// dualStackService adds a Service with two addresses, and with an IPv6 endpoint or none.
func dualStackService(s *Snapshot, served bool) {
	s.Services = append(s.Services, service("ns", "two", []string{"10.96.0.50", "fd00:96::50"}, corev1.ServicePort{Name: "http", Port: 80}))
	s.EndpointSlices = append(s.EndpointSlices, slice("ns", "two", "http", corev1.ProtocolTCP, 8080, "web-1/a/10.0.1.1"))
	if served {
		s.EndpointSlices = append(s.EndpointSlices, slice("ns", "two", "http", corev1.ProtocolTCP, 8080, "web-1/a/fd00::1:1"))
	}
}

// Every address family that a pair shares is an edge of its own.
func TestResolveFamilies(t *testing.T) {
	testDetails(t, map[string]detailCase{
		"a dual-stack Service: each family with its own endpoints": {
			spec: path("to: {service: {name: two}}, ports: [{port: 80}]"), change: func(s *Snapshot) {
				dualStack(s)
				dualStackService(s, true)
			},
			want: []string{
				"Service ns/two 10.96.0.50 TCP 80 node=a ready=true [ns/web-1=10.0.1.1:8080]",
				"Service ns/two fd00:96::50 TCP 80 node=a ready=true [ns/web-1=fd00::1:1:8080]",
			},
		},
		"a dual-stack Service, from pods with IPv4 alone: the family that they share": {
			spec: path("to: {service: {name: two}}, ports: [{port: 80}]"), change: func(s *Snapshot) { dualStackService(s, true) },
			want: []string{"Service ns/two 10.96.0.50 TCP 80 node=a ready=true [ns/web-1=10.0.1.1:8080]"},
		},
		"a dual-stack Service without an IPv6 endpoint: half of it leads nowhere": {
			spec: path("to: {service: {name: two}}, ports: [{port: 80}]"), change: func(s *Snapshot) {
				dualStack(s)
				dualStackService(s, false)
			},
			want:          []string{"Service ns/two 10.96.0.50 TCP 80 node=a ready=true [ns/web-1=10.0.1.1:8080]"},
			wantObstacles: []string{"NoTargetMatched: Service ns/two has the address fd00:96::50 and no ready IPv6 endpoint for port 80"},
		},
		"a dual-stack Service without an IPv6 endpoint, from pods that could not use one": {
			spec: path("to: {service: {name: two}}, ports: [{port: 80}]"), change: func(s *Snapshot) { dualStackService(s, false) },
			want: []string{"Service ns/two 10.96.0.50 TCP 80 node=a ready=true [ns/web-1=10.0.1.1:8080]"},
		},
		"a headless Service: each address of each endpoint": {
			spec: path("to: {service: {name: headless}}, ports: [{port: 80}]"), change: func(s *Snapshot) {
				dualStack(s)
				s.EndpointSlices = append(s.EndpointSlices[:3], slice("ns", "headless", "http", corev1.ProtocolTCP, 8080, "web-2/b/10.0.2.1"),
					slice("ns", "headless", "http", corev1.ProtocolTCP, 8080, "web-2/b/fd00::2:1"))
			},
			want: []string{
				"Service ns/headless endpoint ns/web-2 10.0.2.1 TCP 8080 node=b ready=true [ns/web-2=10.0.2.1:8080]",
				"Service ns/headless endpoint ns/web-2 fd00::2:1 TCP 8080 node=b ready=true [ns/web-2=fd00::2:1:8080]",
			},
		},
		"a dual-stack pod, from pods with IPv4 alone: the family that they share": {
			spec: path(toDB), change: func(s *Snapshot) {
				s.Pods[2].Status.PodIPs = append(s.Pods[2].Status.PodIPs, corev1.PodIP{IP: "fd00::2"})
			},
			want: []string{"ns/db-1 10.0.2.2 TCP 1 node=b ready=true [ns/db-1=10.0.2.2:1]"},
		},
		"a pod of the other family than the source": {
			spec: path(toDB), change: func(s *Snapshot) { s.Pods[2].Status.PodIPs = []corev1.PodIP{{IP: "fd00::2"}} },
			wantObstacles: []string{"NoSharedFamily: no pod of the source has an IPv6 address, and the target has no other"},
		},
		"a pod of the other family than the source, beside one of the same": {
			spec: path("to: {podSelector: {matchExpressions: [{key: app, operator: In, values: [db, web]}]}}, ports: [{port: 1}]"), change: func(s *Snapshot) {
				s.Pods = append(s.Pods[:1:1], s.Pods[2:]...)
				s.Pods[1].Status.PodIPs = []corev1.PodIP{{IP: "fd00::2"}}
			},
			want:          []string{"ns/web-1 10.0.1.1 TCP 1 node=a ready=true [ns/web-1=10.0.1.1:1]"},
			wantObstacles: []string{"NoSharedFamily: no pod of the source has an IPv6 address, and the target has no other"},
		},
		"pods of a source that have no address yet may have one of any family": {
			spec: path(toDB), change: func(s *Snapshot) {
				s.Pods[0].Status.PodIPs, s.Pods[0].Status.PodIP = nil, ""
				s.Pods[1].Status.PodIPs, s.Pods[1].Status.PodIP = nil, ""
				s.Pods[2].Status.PodIPs = []corev1.PodIP{{IP: "fd00::2"}}
			},
			want: []string{"ns/db-1 fd00::2 TCP 1 node=b ready=true [ns/db-1=fd00::2:1]"},
		},
		"an address of a family that the source lacks, beside one that it has": {
			spec:          path("to: {address: {ips: ['2001:db8::1', 203.0.113.1]}}, ports: [{port: 1}]"),
			want:          []string{"203.0.113.1 203.0.113.1 TCP 1 node= ready=true [203.0.113.1=203.0.113.1:1]"},
			wantObstacles: []string{"NoSharedFamily: no pod of the source has an IPv6 address, and the target has no other"},
		},
	})
}
