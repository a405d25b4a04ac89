package controllers

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/plan"
	"github.com/pathproof/pathproof/probe/wire"
	"github.com/pathproof/pathproof/verdict"
)

// A name or an address may turn out to be a Service: then the silence of one
// connection says nothing about another endpoint.
func TestCheckKnowsHowManyEndpointsThereAre(t *testing.T) {
	const serviceIP, outside = "10.96.0.20", "203.0.113.1"
	s := plan.Snapshot{
		Services: []*corev1.Service{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}, Spec: corev1.ServiceSpec{
			ClusterIP: serviceIP, ClusterIPs: []string{serviceIP}, Ports: []corev1.ServicePort{{Name: "sql", Port: 5432, Protocol: corev1.ProtocolTCP}},
		}}},
		EndpointSlices: []*discoveryv1.EndpointSlice{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db-1", Labels: map[string]string{discoveryv1.LabelServiceName: "db"}},
			Ports:      []discoveryv1.EndpointPort{{Name: ptr.To("sql"), Port: ptr.To[int32](5432), Protocol: ptr.To(corev1.ProtocolTCP)}},
			Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}, {Addresses: []string{"10.0.0.2"}}},
		}},
	}
	engine, _ := evaluator.Compile(s.Snapshot)
	host := plan.Target{Kind: plan.TargetHost, Host: "db.example.org."}
	address := func(a string) plan.Target {
		return plan.Target{Kind: plan.TargetAddress, Addr: netip.MustParseAddr(a)}
	}
	cases := map[string]struct {
		target        plan.Target
		tried         []string
		wantAddr      string
		wantEndpoints int
	}{
		"a host outside":                 {host, []string{outside}, outside, 1},
		"a host that is a Service":       {host, []string{serviceIP}, serviceIP, 2},
		"a host that was not resolved":   {host, nil, "", 0},
		"an address outside":             {address(outside), nil, outside, 1},
		"an address that is a Service's": {address(serviceIP), nil, serviceIP, 2},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			e := &plan.Edge{Source: &plan.Source{Namespace: "shop"}, Target: tc.target, Transport: wire.TCP, Port: 5432}
			result := wire.Result{Outcomes: wire.Outcomes{wire.TimedOut}}
			for _, a := range tc.tried {
				result.Addresses = append(result.Addresses, wire.AddressResult{Addr: netip.MustParseAddr(a), Outcomes: result.Outcomes})
			}
			r := &run{predictor: plan.NewPredictor(engine, s)}
			p := &probeRun{plan: wire.Plan{Attempts: 1}, report: &wire.Report{Results: []wire.Result{result}}}
			got := r.check(p, 0, e)
			if len(got) != 1 {
				t.Fatalf("got %d checks, want 1", len(got))
			}
			c := got[0]
			var want netip.Addr
			if tc.wantAddr != "" {
				want = netip.MustParseAddr(tc.wantAddr)
			}
			if got := fmt.Sprint(c.Addr, c.Endpoints); got != fmt.Sprint(want, tc.wantEndpoints) {
				t.Errorf("got address and endpoints %s, want %v %d", got, want, tc.wantEndpoints)
			}
		})
	}
}

// A host is closed when all of its addresses are: what is found at one says nothing about
// another, and nothing is green for addresses that nobody tried.
func TestEachAddressOfAHostIsJudgedByItself(t *testing.T) {
	four, other, six := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("2001:db8::1")
	open := []wire.Outcome{wire.Connected, wire.Connected}
	silent := []wire.Outcome{wire.TimedOut, wire.TimedOut}
	at := func(a netip.Addr, os []wire.Outcome) wire.AddressResult {
		return wire.AddressResult{Addr: a, Outcomes: os}
	}
	for name, tc := range map[string]struct {
		declared v1alpha1.Expect
		result   wire.Result
		// want are the causes and observations, in any order.
		want []string
	}{
		"IPv6 is open, IPv4 is not": {
			v1alpha1.ExpectDeny, wire.Result{Addresses: []wire.AddressResult{at(four, silent), at(six, open)}},
			[]string{"PolicyDrift Inconclusive", "PolicyDrift Open"},
		},
		"both are open": {
			v1alpha1.ExpectAllow, wire.Result{Addresses: []wire.AddressResult{at(four, open), at(six, open)}},
			[]string{"None Open", "None Open"},
		},
		"one attempt was without an answer of the resolver": {
			v1alpha1.ExpectAllow, wire.Result{Outcomes: wire.Outcomes{wire.DNSTimedOut}, Addresses: []wire.AddressResult{at(four, open[:1])}},
			[]string{"NameNotResolved Inconclusive", "None Open"},
		},
		"the resolver rotates what it answers": {
			v1alpha1.ExpectAllow, wire.Result{Addresses: []wire.AddressResult{at(four, open[:1]), at(other, open[:1])}},
			[]string{"None Open", "None Open"},
		},
		"it has more addresses than are tried": {
			v1alpha1.ExpectAllow, wire.Result{Untried: 3, Addresses: []wire.AddressResult{at(four, open)}},
			[]string{"TooManyChecks Inconclusive", "None Open"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := plan.Snapshot{Snapshot: evaluator.Snapshot{Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}}}}
			engine, _ := evaluator.Compile(s.Snapshot)
			e := &plan.Edge{
				Source: &plan.Source{Namespace: "shop"}, Target: plan.Target{Kind: plan.TargetHost, Host: "db.example.org.", Ready: true},
				Transport: wire.TCP, Port: 5432, Declared: tc.declared,
			}
			for _, a := range tc.result.Addresses {
				tc.result.Outcomes = append(tc.result.Outcomes, a.Outcomes...)
			}
			p := &probeRun{
				podRun: podRun{addrs: []netip.Addr{netip.MustParseAddr("10.0.9.9"), netip.MustParseAddr("fd00::9")}},
				plan:   wire.Plan{Attempts: 2}, report: &wire.Report{KubeletProbes: 1, Results: []wire.Result{tc.result}},
			}
			checks := (&run{predictor: plan.NewPredictor(engine, s)}).check(p, 0, e)
			var got []string
			for _, v := range verdict.Judge(checks) {
				got = append(got, fmt.Sprintf("%s %s", v.Cause, v.Observed))
			}
			slices.Sort(tc.want)
			slices.Sort(got)
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// A probe pod that lacks the family of its target could send nothing: that is known, and
// says nothing about the path.
func TestAProbeWithoutTheFamilyOfItsTarget(t *testing.T) {
	s := plan.Snapshot{Snapshot: evaluator.Snapshot{Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}}}}
	engine, _ := evaluator.Compile(s.Snapshot)
	four, six := netip.MustParseAddr("10.0.9.9"), netip.MustParseAddr("fd00::9")
	for name, tc := range map[string]struct {
		addrs  []netip.Addr
		target string
		want   verdict.Cause
	}{
		"IPv4 to IPv4":            {[]netip.Addr{four}, "203.0.113.1", ""},
		"IPv4 to IPv6":            {[]netip.Addr{four}, "2001:db8::1", verdict.NoSharedFamily},
		"IPv6 to IPv4":            {[]netip.Addr{six}, "203.0.113.1", verdict.NoSharedFamily},
		"both to IPv6":            {[]netip.Addr{four, six}, "2001:db8::1", ""},
		"not known, as seen late": {nil, "2001:db8::1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			addr := netip.MustParseAddr(tc.target)
			e := &plan.Edge{
				Source: &plan.Source{Namespace: "shop"}, Target: plan.Target{Kind: plan.TargetAddress, Key: "t", Addr: addr, Name: tc.target},
				Transport: wire.TCP, Port: 443,
			}
			p := &probeRun{podRun: podRun{addrs: tc.addrs}, report: &wire.Report{Results: []wire.Result{{Outcomes: wire.Outcomes{wire.NoRoute}}}}}
			got := (&run{predictor: plan.NewPredictor(engine, s)}).check(p, 0, e)
			if len(got) != 1 || got[0].Obstacle != tc.want {
				t.Errorf("got %+v, want one check with the obstacle %q", got, tc.want)
			}
		})
	}
}

// Both addresses of a pod have one name: what was found of one is not known of the other.
func TestFindingsOfEachFamilyHaveTheirOwnTime(t *testing.T) {
	s := newScope(&v1alpha1.ConnectivityExpectation{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "x"}}, &tracked{}, epoch)
	open := func(addr string) verdict.Verdict {
		return verdict.Verdict{Cause: verdict.EnforcementMissing, Check: verdict.Check{Path: "p", Source: "a", Target: "b", Addr: netip.MustParseAddr(addr), Port: 80}}
	}
	s.verdicts = []verdict.Verdict{open("10.0.0.1")}
	s.prior.Findings = findings(s)
	s.now = epoch.Add(time.Minute)
	s.verdicts = []verdict.Verdict{open("10.0.0.1"), open("fd00::1")}
	got := map[string]time.Duration{}
	for _, f := range findings(s) {
		got[f.Family] = f.Since.Sub(epoch)
	}
	if got["IPv4"] != 0 || got["IPv6"] != time.Minute {
		t.Errorf("found since %v, want IPv4 from the first run on, and IPv6 from the second", got)
	}
}

// What a host resolves to is known when its probes report: from then on a change there
// is a change, and one that came before spoils the result.
func TestHostsRestOnWhatIsAtTheirAddresses(t *testing.T) {
	snapshot := func(endpoint string) plan.Snapshot {
		return plan.Snapshot{
			Snapshot: evaluator.Snapshot{Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}}},
			Services: []*corev1.Service{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}, Spec: corev1.ServiceSpec{
				ClusterIP: "10.96.0.20", ClusterIPs: []string{"10.96.0.20"}, Ports: []corev1.ServicePort{{Name: "sql", Port: 5432, Protocol: corev1.ProtocolTCP}},
			}}},
			EndpointSlices: []*discoveryv1.EndpointSlice{{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db-1", Labels: map[string]string{discoveryv1.LabelServiceName: "db"}},
				Ports:      []discoveryv1.EndpointPort{{Name: ptr.To("sql"), Port: ptr.To[int32](5432), Protocol: ptr.To(corev1.ProtocolTCP)}},
				Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{endpoint}}},
			}},
		}
	}
	exp := &v1alpha1.ConnectivityExpectation{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "x", UID: "1"},
		Spec: v1alpha1.ConnectivityExpectationSpec{Paths: []v1alpha1.Path{{
			Name: "p", Expect: v1alpha1.ExpectAllow, From: v1alpha1.Source{Identity: &v1alpha1.Identity{Labels: map[string]v1alpha1.LabelValue{"app": "web"}}},
			To: &v1alpha1.Target{Host: "db.example.org"}, Ports: []v1alpha1.Port{{Port: intstr.FromInt32(5432)}},
		}}},
	}
	input := func(endpoint string, learned map[string][]netip.Addr) plan.Input {
		in := plan.Input{Expectation: exp, Snapshot: snapshot(endpoint), Learned: learned}
		in.Engine, _ = evaluator.Compile(in.Snapshot.Snapshot)
		return in
	}
	for name, tc := range map[string]struct {
		// endpoint is what is behind the Service when the run is judged.
		endpoint  string
		wantCause verdict.Cause
		// wantChange tells whether the run's provenance differs from the one after it.
		wantChange bool
	}{
		"nothing changed":                      {"10.0.0.1", verdict.None, false},
		"the endpoint changed while it ran":    {"10.0.0.2", verdict.ChangedDuringProbe, true},
		"the endpoint has no address any more": {"", verdict.ChangedDuringProbe, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScope(exp.DeepCopy(), &tracked{}, epoch)
			s.input = input("10.0.0.1", nil)
			s.resolution = plan.Resolve(s.input)
			current := newRun(s, triggerInterval, nil)
			current.probes = []*probeRun{{
				Pod:    plan.Pod{Source: s.resolution.Edges[0].Source, Node: "a", Edges: s.resolution.Edges},
				podRun: podRun{addrs: []netip.Addr{netip.MustParseAddr("10.0.9.9")}, done: true},
				report: &wire.Report{KubeletProbes: 1, Results: []wire.Result{{
					Outcomes:  wire.Outcomes{wire.Connected},
					Addresses: []wire.AddressResult{{Addr: netip.MustParseAddr("10.96.0.20"), Outcomes: wire.Outcomes{wire.Connected}}},
				}}},
			}}
			s.track.run = current
			s.input = input(tc.endpoint, nil)
			s.resolution = plan.Resolve(s.input)
			if _, err := (&ExpectationReconciler{logs: newPodLogs(nil, nil), ways: NewCanaryWays()}).judge(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if len(s.verdicts) != 1 || s.verdicts[0].Cause != tc.wantCause {
				t.Errorf("got %+v, want the cause %s", s.verdicts, tc.wantCause)
			}
			after := plan.Resolve(input(tc.endpoint, s.track.learned)).Provenance
			if got := s.track.last.provenance != after; got != tc.wantChange {
				t.Errorf("the next reconcile sees a change: %t, want %t", got, tc.wantChange)
			}
			if s.exp.Status.LastRun.Provenance != s.track.last.provenance {
				t.Error("the status has another provenance than the operator")
			}
			if later := plan.Resolve(input("10.0.0.7", s.track.learned)).Provenance; later == after {
				t.Error("a later change behind the host's address is not in the provenance")
			}
		})
	}
}
