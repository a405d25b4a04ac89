package controllers

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/plan"
)

// What was resolved once counts until anything that it depends on changes, and not a moment
// longer.
func TestRunsAreResolvedAnewWhenSomethingChanges(t *testing.T) {
	meta := func(name, version string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "uid-1", ResourceVersion: version}
	}
	for name, tc := range map[string]struct {
		change func(*scope)
		want   bool
	}{
		"nothing": {func(*scope) {}, false},
		"the same objects, read again": {func(s *scope) {
			s.input.Snapshot.Services = []*corev1.Service{s.input.Snapshot.Services[0].DeepCopy()}
		}, false},
		"the spec": {func(s *scope) { s.input.Expectation.Generation++ }, true},
		"an object that the evaluator knows": {func(s *scope) {
			s.input.Engine, _ = s.input.Engine.With(evaluator.Snapshot{Pods: s.input.Snapshot.Pods[:1]}, nil)
		}, true},
		"a Service": {func(s *scope) { s.input.Snapshot.Services[0].ResourceVersion = "2" }, true},
		"a Service that is made anew": {func(s *scope) {
			s.input.Snapshot.Services[0].UID = "uid-2"
		}, true},
		"a new Service": {func(s *scope) {
			s.input.Snapshot.Services = append(s.input.Snapshot.Services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{UID: "uid-3", ResourceVersion: "1"}})
		}, true},
		"a Service that is gone": {func(s *scope) { s.input.Snapshot.Services = nil }, true},
		"an endpoint": {func(s *scope) {
			s.input.Snapshot.EndpointSlices = []*discoveryv1.EndpointSlice{{ObjectMeta: meta("slice", "1")}}
			s.input.Snapshot.EndpointSlices[0].UID = "uid-4"
		}, true},
		"what hosts resolve to": {func(s *scope) {
			s.input.Learned = map[string][]netip.Addr{"db.example.": {netip.MustParseAddr("10.9.9.9")}}
		}, true},
		"a port at which nothing listens": {func(s *scope) { s.input.Refusing = map[string]bool{"listener": true} }, true},
		"whose turn it is":                {func(s *scope) { s.input.Sampling.Round++ }, true},
		"whose turn it is, where all have theirs": {func(s *scope) {
			s.foreseen.resolution.Rotates = false
			s.input.Sampling.Round++
		}, false},
		"what stays in the choice": {func(s *scope) { s.input.Sampling.Keep = []plan.Pair{{Path: "p"}} }, true},
		"a node": {func(s *scope) {
			s.input.Snapshot.Nodes = []*corev1.Node{{ObjectMeta: meta("node-0", "1")}}
			s.input.Snapshot.Nodes[0].UID = "uid-5"
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := crowd(t, 3)
			s.input.Snapshot.Services = []*corev1.Service{{ObjectMeta: meta("db", "1")}}
			s.resolve()
			if _, err := (&ExpectationReconciler{ways: NewCanaryWays()}).schedule(t.Context(), s); err != nil || s.track.run == nil {
				t.Fatalf("no run was started: %v", err)
			}
			before := s.resolution
			tc.change(s)
			s.track.outlook.Store(nil)
			s.resolve()
			if got := s.resolution != before; got != tc.want {
				t.Errorf("resolved anew: %v, want %v", got, tc.want)
			}
			if o := s.track.outlook.Load(); o == nil || o.engine != s.input.Engine || len(o.flows) == 0 {
				t.Errorf("the outlook is %+v", o)
			}
			// What was resolved last is what counts from then on.
			again := s.resolution
			if s.resolve(); s.resolution != again {
				t.Error("nothing changed, and it was resolved anew")
			}
			// Between runs, too. Here, what was resolved is kept by the variable.
			s.track.run = nil
			if s.resolve(); s.resolution != again {
				t.Error("nothing changed after the run, and it was resolved anew")
			}
		})
	}
}

// What a Service leads to may be anywhere, unless its endpoints are pods that it selects.
func TestReachOfServices(t *testing.T) {
	service := func(spec corev1.ServiceSpec) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "s", UID: "u"}, Spec: spec}
	}
	for name, tc := range map[string]struct {
		service *corev1.Service
		want    bool
	}{
		"one that selects pods":   {service(corev1.ServiceSpec{Selector: map[string]string{"app": "a"}}), false},
		"one without a selector":  {service(corev1.ServiceSpec{}), true},
		"an alias":                {service(corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.org"}), true},
		"one that does not exist": {nil, false},
	} {
		b := fake.NewClientBuilder()
		if tc.service != nil {
			b = b.WithObjects(tc.service)
		}
		exp := podExpectation()
		exp.Spec.Paths = []v1alpha1.Path{{Name: "p", To: &v1alpha1.Target{Service: &v1alpha1.ServiceReference{Name: "s"}}}}
		got, err := (&ExpectationReconciler{client: b.Build()}).reachOf(t.Context(), exp)
		if err != nil || got.everywhere != tc.want || !got.namespaces["shop"] {
			t.Errorf("%s: got %+v, %v, want everywhere: %v", name, got, err, tc.want)
		}
	}
}
