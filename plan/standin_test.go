package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
)

// ends renders what kind of target each edge has, and where.
func ends(res *Resolution) []string {
	var out []string
	for _, e := range res.Edges {
		kind := map[bool]string{true: "stand-in", false: "endpoint"}[e.Target.StandsFor != nil]
		if (kind == "stand-in") != (e.Target.Kind == TargetResponder) {
			kind = "neither"
		}
		out = append(out, fmt.Sprintf("%s for %s on %s at %s %d", kind, e.Target.Name, e.Target.Node, e.Transport, e.Port))
	}
	return out
}

func TestViaChoosesBetweenPodAndStandIn(t *testing.T) {
	to := func(via, ports string) string {
		return path("to: {podSelector: {matchLabels: {app: db}}, " + via + "}, ports: [" + ports + "]")
	}
	const raw = "probe: {sctp: Raw}\n"
	all := "{port: 8080}, {port: 5000, protocol: UDP}, {port: 5001, protocol: SCTP}"
	for name, tc := range map[string]struct {
		spec string
		want []string
	}{
		"by default":                 {to("", all), []string{"endpoint for ns/db-1 on b at TCP 8080", "stand-in for ns/db-1 on b at UDP 5000", "endpoint for ns/db-1 on b at SCTP 5001"}},
		"as suits":                   {to("via: Auto", all), []string{"endpoint for ns/db-1 on b at TCP 8080", "stand-in for ns/db-1 on b at UDP 5000", "endpoint for ns/db-1 on b at SCTP 5001"}},
		"as suits, with raw SCTP":    {raw + to("via: Auto", all), []string{"endpoint for ns/db-1 on b at TCP 8080", "stand-in for ns/db-1 on b at UDP 5000", "stand-in for ns/db-1 on b at SCTP 5001"}},
		"the pod":                    {raw + to("via: Endpoint", all), []string{"endpoint for ns/db-1 on b at TCP 8080", "endpoint for ns/db-1 on b at UDP 5000", "endpoint for ns/db-1 on b at SCTP 5001"}},
		"a stand-in":                 {to("via: StandIn", all), []string{"stand-in for ns/db-1 on b at TCP 8080", "stand-in for ns/db-1 on b at UDP 5000", "stand-in for ns/db-1 on b at SCTP 5001"}},
		"a named port of the pod":    {to("via: StandIn", "{port: main}"), []string{"stand-in for ns/db-1 on b at TCP 8080"}},
		"pods on different nodes":    {path("to: {podSelector: {matchLabels: {app: web}}, via: StandIn}, ports: [{port: 1}]"), []string{"stand-in for ns/web-1 on a at TCP 1", "stand-in for ns/web-2 on b at TCP 1"}},
		"the cluster DNS, as ever":   {path("dns: {names: [a.b], transports: [UDP]}"), []string{"endpoint for cluster DNS for a.b. on a at DNS/UDP 53"}},
		"a pod of another namespace": {path("to: {podSelector: {matchLabels: {app: api}}, namespace: other}, ports: [{port: 5000, protocol: UDP}]"), []string{"endpoint for other/api-1 on a at UDP 5000"}},
	} {
		t.Run(name, func(t *testing.T) {
			res := resolve(t, tc.spec, nil)
			got := ends(res)
			slices.Sort(got)
			slices.Sort(tc.want)
			if diff := cmp.Diff(tc.want, got); diff != "" || len(res.Obstacles) > 0 {
				t.Errorf("edges (-want +got):\n%s\nobstacles %+v", diff, res.Obstacles)
			}
		})
	}
}

// What is learned of one port says nothing of another, nor of a pod that took its place.
func TestStandInsWhereNothingListens(t *testing.T) {
	spec := path("to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 1}, {port: 8080}]")
	input := func(via string, s Snapshot, refusing map[string]bool) *Resolution {
		engine, _ := evaluator.Compile(s.Snapshot)
		return Resolve(Input{Expectation: expectation(t, strings.Replace(spec, "{app: db}}}", "{app: db}}"+via+"}", 1)), Snapshot: s, Engine: engine, ClusterDNS: dns, Refusing: refusing})
	}
	before := input("", cluster(), nil)
	refusing := map[string]bool{before.Edges[0].Listener(): true}
	for via, want := range map[string]string{"": "stand-in", ", via: Auto": "stand-in", ", via: Endpoint": "endpoint"} {
		if got := ends(input(via, cluster(), refusing)); len(got) != 2 || !strings.HasPrefix(got[0], want+" for ns/db-1 on b at TCP 1") || !strings.HasPrefix(got[1], "endpoint ") {
			t.Errorf("%q: got %v", via, got)
		}
	}
	replaced := cluster()
	replaced.Pods[2] = pod("ns", "db-1", "b", "10.0.2.77", "app=db")
	hosted := cluster()
	hosted.Pods[2].Spec.HostNetwork = true
	for name, s := range map[string]Snapshot{"replaced": replaced, "of the host network": hosted} {
		if got := ends(input("", s, refusing)); !strings.HasPrefix(got[0], "endpoint ") {
			t.Errorf("%s: got %v", name, got)
		}
	}
	if after := input("", cluster(), refusing); after.Provenance == before.Provenance {
		t.Error("another end of a path is no change")
	}
}

func TestPodsOfOneIdentityOnOneNodeShareAStandIn(t *testing.T) {
	res := resolve(t, path("to: {podSelector: {matchLabels: {app: web}}, via: StandIn}, ports: [{port: 1}, {port: 2}]"), func(s *Snapshot) {
		s.Pods[1].Spec.NodeName = "a"
	})
	if got := ends(res); len(got) != 2 {
		t.Errorf("got %v, want an edge for each port", got)
	}
	got := Responders(res.Edges, cluster().Nodes)
	if len(got) != 1 || got[0].Node != "a" || len(got[0].Ports) != 2 || got[0].StandsFor == nil || got[0].Labels["app"] != "web" || len(got[0].Labels) != 1 {
		t.Errorf("got %+v, want one responder with both ports and without the labels of controllers", got)
	}
	other := resolve(t, path("to: {podSelector: {matchLabels: {app: web}}, via: StandIn}, ports: [{port: 1}]"), func(s *Snapshot) {
		s.Pods[1].Spec.NodeName, s.Pods[1].Spec.ServiceAccountName = "a", "other"
	})
	if len(Responders(other.Edges, cluster().Nodes)) != 2 {
		t.Error("pods with different service accounts share a stand-in")
	}
}

// What asks for a stand-in gets it or hears why not; what would have been content with
// one gets the pod.
func TestRefusedStandIns(t *testing.T) {
	owned := func(kind string, labels ...string) func(*Snapshot) {
		return func(s *Snapshot) {
			s.Pods[2].OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: "owner", Controller: ptr.To(true)}}
			for _, l := range labels {
				s.Pods[2].Labels[l] = "1"
			}
		}
	}
	const db = "podSelector: {matchLabels: {app: db}}"
	for name, tc := range map[string]struct {
		to     string
		change func(*Snapshot)
		want   string // empty if it is not refused
	}{
		"a pod of the host network":      {db, func(s *Snapshot) { s.Pods[2].Spec.HostNetwork = true }, "on the host network"},
		"a pod of another namespace":     {"podSelector: {matchLabels: {app: api}}, namespace: other", nil, "in another namespace"},
		"a node that takes no pods":      {db, func(s *Snapshot) { s.Nodes[1].Spec.Unschedulable = true }, "node b of pod ns/db-1 takes no new pods"},
		"a node that is not known":       {db, func(s *Snapshot) { s.Nodes = nil }, ""},
		"a DaemonSet":                    {db, owned("DaemonSet"), "the DaemonSet owner of pod ns/db-1 would adopt"},
		"a bare ReplicaSet":              {db, owned("ReplicaSet"), "the ReplicaSet owner"},
		"the ReplicaSet of a Deployment": {db, owned("ReplicaSet", "pod-template-hash"), ""},
		"a StatefulSet":                  {db, owned("StatefulSet", "controller-revision-hash"), ""},
		"a ReplicationController":        {db, owned("ReplicationController"), "the ReplicationController owner"},
		"a Service that publishes all": {db, func(s *Snapshot) {
			s.Services[1].Spec.PublishNotReadyAddresses, s.Services[1].Spec.Selector = true, map[string]string{"app": "db"}
		}, "Service web publishes"},
		"a Service that publishes others": {db, func(s *Snapshot) {
			s.Services[1].Spec.PublishNotReadyAddresses, s.Services[1].Spec.Selector = true, map[string]string{"app": "web"}
		}, ""},
		"a cluster-wide policy that selects by a hash": {"podSelector: {matchLabels: {app: web}}", withClusterWide(t, "cnp", "{tier: Admin, priority: 1, subject: {pods: {podSelector: {matchLabels: {pod-template-hash: '1'}}}}}"), "labels that only workload controllers set"},
		"policies that select by a hash": {"podSelector: {matchLabels: {app: web}}", func(s *Snapshot) {
			s.NetworkPolicies[0].Spec.PodSelector.MatchLabels["pod-template-hash"] = "1"
		}, "labels that only workload controllers set"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := func(via string) string {
				return path("to: {" + tc.to + via + "}, ports: [{port: 5000, protocol: UDP}]")
			}
			res := resolve(t, spec(", via: StandIn"), tc.change)
			if tc.want == "" {
				if len(res.Obstacles) > 0 || !strings.HasPrefix(ends(res)[0], "stand-in ") {
					t.Fatalf("got %v and %+v", ends(res), res.Obstacles)
				}
				return
			}
			if len(res.Edges) > 0 || len(res.Obstacles) == 0 {
				t.Fatalf("got %v and %+v", ends(res), res.Obstacles)
			}
			o := res.Obstacles[0]
			if o.Reason != StandInRefused || !strings.Contains(o.Message, tc.want) || !strings.Contains(o.Message, "write to.via: Endpoint") || o.Target == "" {
				t.Errorf("got the obstacle %+v", o)
			}
			res = resolve(t, spec(""), tc.change)
			if len(res.Obstacles) > 0 || len(res.Edges) == 0 || !strings.HasPrefix(ends(res)[0], "endpoint ") {
				t.Errorf("as suits, got %v and %+v, want the pod", ends(res), res.Obstacles)
			}
		})
	}
	t.Run("a Service", func(t *testing.T) {
		for _, name := range []string{"web", "headless", "none"} {
			res := resolve(t, path("to: {service: {name: "+name+"}, via: StandIn}, ports: [{port: 80}]"), nil)
			if len(res.Edges) > 0 || len(res.Obstacles) != 1 || res.Obstacles[0].Reason != StandInRefused || !strings.Contains(res.Obstacles[0].Message, "write to.podSelector") {
				t.Errorf("%s: got %v and %+v", name, ends(res), res.Obstacles)
			}
		}
	})
}

// What is to be proved is what policies say of the pod: of its ports by name, too.
func TestStandInsArePredictedAsTheirPods(t *testing.T) {
	byName := func(s *Snapshot) {
		s.NetworkPolicies[0].Spec.Ingress[0].Ports = []networkingv1.NetworkPolicyPort{{Port: ptr.To(intstr.FromString("main"))}}
	}
	for port, want := range map[string]evaluator.Verdict{"8080": evaluator.Allowed, "8081": evaluator.Denied} {
		res := resolve(t, path("to: {podSelector: {matchLabels: {app: db}}, via: StandIn}, ports: [{port: "+port+"}]"), byName)
		if got := res.Edges[0].Prediction; got.Verdict != want {
			t.Errorf("port %s is %s (%s), want %s", port, got.Verdict, got.Reason, want)
		}
	}
}

// Pods that share a stand-in are predicted one by one: policies may tell them apart by what
// the stand-in does not have.
func TestTwinsThatPoliciesTellApart(t *testing.T) {
	twin := func(s *Snapshot) { s.Pods = append(s.Pods, pod("ns", "db-2", "b", "10.0.2.3", "app=db")) }
	toBlock := func(cidr string) func(*Snapshot) {
		return func(s *Snapshot) {
			twin(s)
			s.Profile.IPBlockMatchesPods = evaluator.True
			s.NetworkPolicies = []*networkingv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "out"}, Spec: networkingv1.NetworkPolicySpec{
				PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
				Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: cidr}}}}},
			}}}
		}
	}
	byPort := func(number int32) func(*Snapshot) {
		return func(s *Snapshot) {
			twin(s)
			s.NetworkPolicies[0].Spec.Ingress[0].Ports = []networkingv1.NetworkPolicyPort{{Port: ptr.To(intstr.FromString("main"))}}
			s.Pods[len(s.Pods)-1].Spec.Containers[0].Ports[0].ContainerPort = number
		}
	}
	for name, tc := range map[string]struct {
		change func(*Snapshot)
		want   evaluator.Verdict
	}{
		"all the same":                 {twin, evaluator.Allowed},
		"a block that holds the other": {toBlock("10.0.2.3/32"), evaluator.Undefined},
		"a block that holds the first": {toBlock("10.0.2.2/32"), evaluator.Undefined},
		"a block that holds both":      {toBlock("10.0.2.0/24"), evaluator.Allowed},
		"a block that holds neither":   {toBlock("203.0.113.0/24"), evaluator.Denied},
		"the other has another port":   {byPort(9090), evaluator.Undefined},
		"the other has the same port":  {byPort(8080), evaluator.Allowed},
	} {
		t.Run(name, func(t *testing.T) {
			res := resolve(t, path("to: {podSelector: {matchLabels: {app: db}}, via: StandIn}, ports: [{port: 8080}]"), tc.change)
			if len(res.Edges) != 1 || len(res.Edges[0].Target.Twins) != 1 {
				t.Fatalf("got %d edges, want one with a twin: %+v", len(res.Edges), res.Obstacles)
			}
			d := res.Edges[0].Prediction
			if d.Verdict != tc.want || (d.Verdict == evaluator.Undefined && !strings.Contains(d.Reason, "have one stand-in")) {
				t.Errorf("got %s (%s), want %s", d.Verdict, d.Reason, tc.want)
			}
			before := res.Provenance
			after := resolve(t, path("to: {podSelector: {matchLabels: {app: db}}, via: StandIn}, ports: [{port: 8080}]"), func(s *Snapshot) {
				tc.change(s)
				s.Pods[len(s.Pods)-1].UID = "another"
			}).Provenance
			if before == after {
				t.Error("another pod in the place of the twin leaves the provenance as it was")
			}
		})
	}
}

// Each pod of the source is asked about, also if it is one of those that have the stand-in.
func TestTwinsThatAreSources(t *testing.T) {
	for _, tc := range []struct {
		cidr, probe string
		want        evaluator.Verdict
	}{
		{"10.0.2.0/24", "10.0.2.9", evaluator.Allowed},
		{"10.0.2.3/32", "10.0.2.3", evaluator.Undefined}, // db-1 is not in it
		{"10.0.2.2/32", "10.0.2.2", evaluator.Undefined}, // db-2 is not in it
	} {
		res := resolve(t, "paths: [{name: p, expect: Allow, from: {podSelector: {matchLabels: {app: db}}}, to: {podSelector: {matchLabels: {app: db}}, via: StandIn}, ports: [{port: 8080}]}]", func(s *Snapshot) {
			s.Pods = append(s.Pods, pod("ns", "db-2", "b", "10.0.2.3", "app=db"))
			s.Profile.IPBlockMatchesPods = evaluator.True
			s.NetworkPolicies[0].Spec.Ingress[0].From = []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: tc.cidr}}}
		})
		if d := res.Predictor.Decide(res.Edges[0], netip.MustParseAddr(tc.probe), nil); d.Verdict != tc.want {
			t.Errorf("%s: got %s (%s), want %s", tc.cidr, d.Verdict, d.Reason, tc.want)
		}
	}
}

// A policy may know the pod by its address, which the stand-in does not have.
func TestStandInsThatPoliciesTellFromTheirPods(t *testing.T) {
	standIn, probe := netip.MustParseAddr("10.0.2.99"), netip.MustParseAddr("10.0.1.77")
	toAddress := func(cidr string) func(*Snapshot) {
		return func(s *Snapshot) {
			s.Profile.IPBlockMatchesPods = evaluator.True
			s.NetworkPolicies = []*networkingv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "out"}, Spec: networkingv1.NetworkPolicySpec{
				PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
				Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: cidr}}}}},
			}}}
		}
	}
	deny := func(s *Snapshot) { s.NetworkPolicies = append(s.NetworkPolicies, ingressFrom("db", "db", "nobody")) }
	open := func(s *Snapshot) { s.Profile.IPBlockMatchesPods = evaluator.Unset }
	for name, tc := range map[string]struct {
		cidr   string
		change func(*Snapshot)
		want   bool
	}{
		"denied at the target, too":          {"10.0.2.2/32", deny, true},
		"open for the stand-in":              {"10.0.2.99/32", open, true},
		"open for both":                      {"10.0.2.0/24", open, false},
		"in no block, whatever that matches": {"203.0.113.0/24", open, false},
	} {
		to := toAddress(tc.cidr)
		res := resolve(t, path("to: {podSelector: {matchLabels: {app: db}}, via: StandIn}, ports: [{port: 8080}]"), func(s *Snapshot) {
			to(s)
			tc.change(s)
		})
		res.Edges[0].Target.Addr = standIn
		if _, differs := res.Predictor.StandInDiffers(res.Edges[0], probe); differs != tc.want {
			t.Errorf("%s: the stand-in is told from its pod: %v, want %v", name, differs, tc.want)
		}
	}
	for cidr, want := range map[string]bool{"10.0.2.2/32": true, "10.0.2.99/32": true, "10.0.2.0/24": false, "203.0.113.0/24": false} {
		res := resolve(t, path("to: {podSelector: {matchLabels: {app: db}}, via: StandIn}, ports: [{port: 8080}]"), toAddress(cidr))
		e := res.Edges[0]
		if _, differs := res.Predictor.StandInDiffers(e, probe); differs {
			t.Errorf("%s: a stand-in without an address is told from its pod", cidr)
		}
		e.Target.Addr = standIn
		if _, differs := res.Predictor.StandInDiffers(e, probe); differs != want {
			t.Errorf("%s: the stand-in is told from its pod: %v, want %v", cidr, differs, want)
		}
	}
	res := resolve(t, path("to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 8080}]"), toAddress("10.0.2.2/32"))
	if _, differs := res.Predictor.StandInDiffers(res.Edges[0], probe); differs {
		t.Error("a pod is told from itself")
	}
}

// Who changes the labels of a probe, or of a responder, makes another pod of it. That counts
// where policies tell the two apart.
func TestPodsWhoseLabelsWereChanged(t *testing.T) {
	web, strange := map[string]string{"app": "web"}, map[string]string{"app": "web", "injected": "x"}
	byLabel := func(s *Snapshot) {
		s.NetworkPolicies[0].Spec.Ingress[0].From[0].PodSelector.MatchLabels = map[string]string{"injected": "x"}
	}
	byOther := func(s *Snapshot) { s.NetworkPolicies = append(s.NetworkPolicies, ingressFrom("new", "new", "nobody")) }
	to := func(target string) string { return path("to: {" + target + "}, ports: [{port: 8080}]") }
	db, responder := to("podSelector: {matchLabels: {app: db}}"), to("identity: {labels: {app: new}}")
	for name, tc := range map[string]struct {
		spec              string
		change            func(*Snapshot)
		source, responder map[string]string
		want              string
	}{
		"as they were made":                           {db, byLabel, web, nil, ""},
		"not seen yet":                                {db, byLabel, nil, nil, ""},
		"a label that no policy asks for":             {db, nil, strange, nil, ""},
		"a label that a policy asks for":              {db, byLabel, strange, nil, "the probe pod to app=web,injected=x: with these the path would be Allowed, and with those of ns/{app=web} Denied"},
		"a responder as it was made":                  {responder, byOther, web, map[string]string{"app": "new"}, ""},
		"a responder that no policy selects any more": {responder, byOther, web, map[string]string{"app": "old"}, "the responder to app=old: with these the path would be Allowed"},
		"labels of what is no responder":              {db, byLabel, web, map[string]string{"app": "old"}, ""},
	} {
		res := resolve(t, tc.spec, tc.change)
		got := res.Predictor.Unlike(res.Edges[0], tc.source, tc.responder, netip.MustParseAddr("10.0.1.77"), nil)
		if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

// Nothing else on its node vouches for the path to a stand-in, so that it gets a control
// of its own.
func TestStandInsGetControls(t *testing.T) {
	res := resolve(t, "paths:\n"+
		"- {name: open, expect: Allow, from: {podSelector: {matchLabels: {app: web}}}, to: {podSelector: {matchLabels: {app: web}}, via: Endpoint}, ports: [{port: 8080}]}\n"+
		"- {name: p, expect: Deny, from: {identity: {labels: {app: stranger}}}, to: {podSelector: {matchLabels: {app: db}}}, ports: [{port: 5000, protocol: UDP}]}\n", nil)
	controls := res.Predictor.Controls("ns", res.Edges)
	if len(controls) != 1 || controls[0].Target.StandsFor == nil || controls[0].Source.Labels["app"] != "web" {
		t.Fatalf("got %+v, want one from the web", controls)
	}
	edges := slices.Concat(res.Edges, controls)
	if got := Responders(edges, cluster().Nodes); len(got) != 1 || !slices.Equal(got[0].Ports, []flow.PortRange{{Protocol: flow.UDP, First: 5000, Last: 5000}}) {
		t.Errorf("got the responders %+v", got)
	}
}
