package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
)

func resources(groupVersion string, list ...metav1.APIResource) *metav1.APIResourceList {
	return &metav1.APIResourceList{GroupVersion: groupVersion, APIResources: list}
}

func resource(name, kind string) metav1.APIResource {
	return metav1.APIResource{Name: name, Kind: kind, Verbs: metav1.Verbs{"get", "list"}}
}

func TestFindPicksPoliciesAndTheirVersions(t *testing.T) {
	preferred := func(groupVersion string) *metav1.APIGroup {
		return &metav1.APIGroup{PreferredVersion: metav1.GroupVersionForDiscovery{GroupVersion: groupVersion}}
	}
	silent := resource("rules", "GlobalNetworkPolicy")
	silent.Verbs = metav1.Verbs{"create"}
	got := find([]*metav1.APIGroup{preferred("cilium.io/v2"), preferred("policy.networking.k8s.io/v1beta1")}, []*metav1.APIResourceList{
		resources("v1", resource("pods", "Pod")),
		resources("networking.k8s.io/v1", resource("networkpolicies", "NetworkPolicy"), resource("networkpolicies/status", "NetworkPolicy")),
		resources("cilium.io/v2alpha1", resource("ciliumnetworkpolicies", "CiliumNetworkPolicy")),
		resources("cilium.io/v2", resource("ciliumnetworkpolicies", "CiliumNetworkPolicy"), resource("ciliumnetworkpolicies/status", "CiliumNetworkPolicy")),
		resources("policy.networking.k8s.io/v1beta1", resource("adminnetworkpolicies", "AdminNetworkPolicy"), resource("clusternetworkpolicies", "ClusterNetworkPolicy")),
		resources("policy.networking.k8s.io/v1alpha1", resource("adminnetworkpolicies", "AdminNetworkPolicy")),
		resources("example.com/v1", resource("stagednetworkpolicies", "StagedNetworkPolicy"), resource("ournetworkpolicies", "OurNetworkPolicy")),
		resources("projectcalico.org/v3", silent),
		resources("pathproof.dev/v1alpha1", resource("connectivityexpectations", "ConnectivityExpectation")),
		resources("a/b/c", resource("x", "XNetworkPolicy")),
	})
	var kinds []string
	for _, k := range got.policies {
		kinds = append(kinds, fmt.Sprintf("%s %s evaluated=%v unread=%v", k.Kind, k.resource.GroupVersion(), k.Modelled && k.resource.GroupVersion() == evaluated[k.Kind], k.unread != ""))
	}
	want := []string{
		"AdminNetworkPolicy policy.networking.k8s.io/v1alpha1 evaluated=true unread=false",
		"CiliumNetworkPolicy cilium.io/v2 evaluated=false unread=false",
		"ClusterNetworkPolicy policy.networking.k8s.io/v1beta1 evaluated=false unread=false",
		"GlobalNetworkPolicy projectcalico.org/v3 evaluated=false unread=true",
		"OurNetworkPolicy example.com/v1 evaluated=false unread=false",
	}
	if !slices.Equal(kinds, want) || !got.expectations {
		t.Errorf("got %s and expectations %v, want %s", strings.Join(kinds, "\n"), got.expectations, strings.Join(want, "\n"))
	}
}

// An aggregated API server that is down may serve any policy of its group.
func TestGroupsThatDoNotAnswerCloud(t *testing.T) {
	got := unanswered(&discovery.ErrGroupDiscoveryFailed{Groups: map[schema.GroupVersion]error{
		{Group: "metrics.k8s.io", Version: "v1"}: errors.New("down"), {Group: "projectcalico.org", Version: "v3"}: errors.New("down"),
	}})
	if len(got) != 2 || got[0].Group != "projectcalico.org" || got[0].unread != "down" {
		t.Errorf("got %+v", got)
	}
}

func TestMirroredPoliciesOfCalicoAreNotTwo(t *testing.T) {
	for _, k := range find(nil, []*metav1.APIResourceList{resources("projectcalico.org/v3", resource("networkpolicies", "NetworkPolicy")), resources("crd.projectcalico.org/v1", resource("networkpolicies", "NetworkPolicy"))}).policies {
		if got, want := k.mirrors("knp.default.web"), k.Group == "projectcalico.org"; got != want || k.mirrors("default.web") {
			t.Errorf("%s: got %v, want %v", k, got, want)
		}
	}
}

// apiServer answers lists of pods in pages, and lets a test say how.
type apiServer struct {
	mu sync.Mutex
	// asked are the requests, by path and query.
	asked  []string
	answer func(r *http.Request) (int, any)
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, r.Method+" "+r.URL.String())
	s.mu.Unlock()
	code, body := s.answer(r)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

func status(err *apierrors.StatusError) (int, any) {
	s := err.ErrStatus
	s.Kind, s.APIVersion = "Status", "v1"
	return int(s.Code), s
}

func podPage(names []string, next string) (int, any) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{Continue: next}}
	for _, n := range names {
		list.Items = append(list.Items, corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: n, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}}}})
	}
	return http.StatusOK, list
}

func (s *apiServer) pods(t *testing.T) ([]string, error) {
	t.Helper()
	server := httptest.NewServer(s)
	defer server.Close()
	r, err := newReader(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	pods, err := all[*corev1.Pod](t.Context(), r, corev1.SchemeGroupVersion.WithResource("pods"), &corev1.PodList{})
	var names []string
	for _, p := range pods {
		names = append(names, p.Name)
		if p.ManagedFields != nil {
			t.Errorf("%s holds its managed fields in memory", p.Name)
		}
	}
	return names, err
}

func TestListsArePaged(t *testing.T) {
	s := &apiServer{answer: func(r *http.Request) (int, any) {
		if r.URL.Query().Get("continue") == "" {
			return podPage([]string{"a", "b"}, "more")
		}
		return podPage([]string{"c"}, "")
	}}
	names, err := s.pods(t)
	if err != nil || !slices.Equal(names, []string{"a", "b", "c"}) {
		t.Errorf("got %v, %v", names, err)
	}
	if want := []string{"GET /api/v1/pods?limit=500", "GET /api/v1/pods?continue=more&limit=500"}; !slices.Equal(s.asked, want) {
		t.Errorf("asked %q, want %q", s.asked, want)
	}
}

// What was read of a list that is begun again must not be there twice.
func TestListsThatExpireAreBegunAgain(t *testing.T) {
	s := &apiServer{answer: func(r *http.Request) (int, any) {
		switch q := r.URL.Query(); {
		case q.Get("continue") != "":
			return status(apierrors.NewResourceExpired("too old"))
		case q.Get("limit") != "":
			return podPage([]string{"a", "b"}, "more")
		}
		return podPage([]string{"b", "c"}, "")
	}}
	if names, err := s.pods(t); err != nil || !slices.Equal(names, []string{"b", "c"}) {
		t.Errorf("got %v, %v", names, err)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	refused := httptest.NewServer(&apiServer{answer: func(*http.Request) (int, any) { return status(apierrors.NewUnauthorized("who?")) }})
	defer refused.Close()
	secret := httptest.NewTLSServer(http.NotFoundHandler())
	defer secret.Close()
	forbidden := httptest.NewServer(&apiServer{answer: func(*http.Request) (int, any) {
		return status(apierrors.NewForbidden(schema.GroupResource{Resource: "users"}, "x", errors.New("cannot impersonate")))
	}})
	defer forbidden.Close()
	closed := httptest.NewServer(nil)
	closed.Close()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	cases := map[string]struct {
		ctx  context.Context
		host string
		want string
	}{
		"nobody answers":              {t.Context(), closed.URL, "cannot be reached"},
		"a certificate of nobody":     {t.Context(), secret.URL, "cannot be reached: tls: failed to verify certificate"},
		"the credentials are refused": {t.Context(), refused.URL, "does not accept the credentials"},
		"the user is refused":         {t.Context(), forbidden.URL, "cannot impersonate"},
		"the user gives up":           {cancelled, closed.URL, "interrupted"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Read(tc.ctx, &rest.Config{Host: tc.host, TLSClientConfig: rest.TLSClientConfig{NextProtos: []string{"http/1.1"}}}, Options{})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
