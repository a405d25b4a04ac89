package agent

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	policylisters "sigs.k8s.io/network-policy-api/pkg/client/listers/apis/v1alpha2"
)

func TestPodOf(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	base := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.244.1.2"}, {IP: "fd00::2"}}},
		}
		change(p)
		return p
	}
	addr, addr6 := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00::2")
	for name, tc := range map[string]struct {
		pod       *corev1.Pod
		early     []netip.Addr
		wantAddrs []netip.Addr
		wantPorts []NamedPort
	}{
		"a running pod has an address of each family": {
			pod: base(func(*corev1.Pod) {}), wantAddrs: []netip.Addr{addr, addr6},
		},
		"a pod on the host's network has none":  {pod: base(func(p *corev1.Pod) { p.Spec.HostNetwork = true })},
		"a pod that succeeded has none":         {pod: base(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })},
		"a pod that failed has none":            {pod: base(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })},
		"a pod that has no address yet is none": {pod: base(func(p *corev1.Pod) { p.Status.PodIPs = nil })},
		"a pod being deleted still counts": {
			pod:       base(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(0, 0)} }),
			wantAddrs: []netip.Addr{addr, addr6},
		},
		"an announced address comes before the reported one": {
			pod: base(func(*corev1.Pod) {}), early: []netip.Addr{addr.Next()}, wantAddrs: []netip.Addr{addr.Next()},
		},
		"ports of sidecars count, of other init containers they do not": {
			pod: base(func(p *corev1.Pod) {
				port := func(name string, n int32) []corev1.ContainerPort {
					return []corev1.ContainerPort{{Name: name, ContainerPort: n}}
				}
				p.Spec.Containers = []corev1.Container{{Ports: port("main", 1)}, {Ports: port("", 2)}}
				p.Spec.InitContainers = []corev1.Container{
					{Ports: port("setup", 3)}, {Ports: port("sidecar", 4), RestartPolicy: &always},
				}
			}),
			wantAddrs: []netip.Addr{addr, addr6},
			wantPorts: []NamedPort{{"main", corev1.ProtocolTCP, 1}, {"sidecar", corev1.ProtocolTCP, 4}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := podOf(tc.pod, tc.early)
			if ok != (tc.wantAddrs != nil) {
				t.Fatalf("counts: %t, want %t", ok, tc.wantAddrs != nil)
			}
			if diff := cmp.Diff(tc.wantAddrs, got.Addrs, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.wantPorts, got.Ports); diff != "" {
				t.Errorf("ports (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseMode(t *testing.T) {
	for given, want := range map[string]Mode{
		"off":          {Name: ModeOff},
		"ingress-only": {Name: ModeEgressIgnored},
		"drop":         {Name: ModeCorrect},
		"slow":         {Name: ModeSlow, Delay: 3 * time.Second},
		"slow=500ms":   {Name: ModeSlow, Delay: 500 * time.Millisecond},
	} {
		if got, err := ParseMode(given); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", given, got, err, want)
		}
	}
	for _, given := range []string{"", "of", "off=1s"} {
		var unknown *UnknownModeError
		if _, err := ParseMode(given); !errors.As(err, &unknown) {
			t.Errorf("%q: %v, want an unknown mode", given, err)
		}
	}
	for _, given := range []string{"slow=", "slow=fast", "slow=-1s"} {
		if _, err := ParseMode(given); err == nil {
			t.Errorf("%q is accepted", given)
		}
	}
	for _, info := range Modes {
		mode, err := ParseMode(info.Name)
		if err != nil || mode.String() != info.Name {
			t.Errorf("%s reads as %v, %v", info.Name, mode, err)
		}
	}
}

func TestOrderSurvivesTheFile(t *testing.T) {
	dir := t.TempDir()
	if o, err := Given(dir); err != nil || o.Mode.Name != ModeCorrect {
		t.Errorf("without a file: %v, %v, want the healthy mode", o, err)
	}
	want := Order{Generation: 7, Mode: Mode{Name: ModeSlow, Delay: time.Second}}
	if err := Give(dir, want); err != nil {
		t.Fatal(err)
	}
	if got, err := Given(dir); err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if got, _ := Confirmed(dir); got == want {
		t.Error("an order that no agent has seen is confirmed")
	}
}

// newEnforcer returns an enforcer whose listers show the given pods.
func newEnforcer(t *testing.T, pods ...*corev1.Pod) (*enforcer, cache.Indexer) {
	t.Helper()
	index := func() cache.Indexer {
		return cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	}
	store := index()
	for _, p := range pods {
		if err := store.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	return &enforcer{
		Options:     Options{Node: "node-a", Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)},
		pods:        corelisters.NewPodLister(store),
		namespaces:  corelisters.NewNamespaceLister(index()),
		policies:    networkinglisters.NewNetworkPolicyLister(index()),
		clusterwide: policylisters.NewClusterNetworkPolicyLister(index()),
		early:       map[types.UID][]netip.Addr{},
	}, store
}

func labelled(app string, addrs ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "1", Labels: map[string]string{"app": app}}}
	for _, a := range addrs {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: a})
	}
	return p
}

func TestStaleKeepsTheFirstLabels(t *testing.T) {
	e, store := newEnforcer(t, labelled("old", "10.244.1.2"))
	label := func() string { return e.snapshot().Pods[0].Labels["app"] }
	e.setOrder(Order{Mode: Mode{Name: ModeStale}})
	if got := label(); got != "old" {
		t.Fatalf("first sight: %s", got)
	}
	if err := store.Update(labelled("new", "10.244.1.2")); err != nil {
		t.Fatal(err)
	}
	if got := label(); got != "old" {
		t.Errorf("stale agent sees %s, want old", got)
	}
	e.setOrder(Order{Mode: Mode{Name: ModeCorrect}})
	if got := label(); got != "new" {
		t.Errorf("healed agent sees %s, want new", got)
	}
}

func TestSlowQueuesTextsInOrder(t *testing.T) {
	e, store := newEnforcer(t)
	e.setOrder(Order{Mode: Mode{Name: ModeSlow, Delay: time.Hour}})
	for _, p := range []*corev1.Pod{labelled("a", "10.244.1.2"), labelled("a", "10.244.1.2")} {
		if err := store.Add(p); err != nil {
			t.Fatal(err)
		}
		if err := e.enforce(t.Context(), "test"); err != nil {
			t.Fatal(err)
		}
	}
	if len(e.late) != 1 {
		t.Errorf("%d texts wait, want 1: the second is the same", len(e.late))
	}
	if e.applied != "" {
		t.Error("a slow agent applied at once")
	}
}

func TestGateAdmitsAPodOnceTheWatchShowsIt(t *testing.T) {
	e, store := newEnforcer(t)
	done := make(chan struct{})
	r := request{expires: time.Now().Add(time.Hour), done: done}
	r.Addrs = []netip.Addr{netip.MustParseAddr("10.244.1.9"), netip.MustParseAddr("fd00::9")}
	r.Namespace, r.Name, r.UID = "shop", "web", "1"
	e.waiting = []request{r}

	e.admit()
	e.release()
	if len(e.waiting) != 1 {
		t.Fatal("a pod that the watch has not shown was admitted")
	}
	if err := store.Add(labelled("a")); err != nil {
		t.Fatal(err)
	}
	e.admit()
	e.release()
	select {
	case <-done:
	default:
		t.Fatal("the pod still waits")
	}
	// Until the kubelet has reported both addresses, the announcement is what counts.
	for _, reported := range [][]string{nil, {"10.244.1.9"}} {
		if err := store.Update(labelled("a", reported...)); err != nil {
			t.Fatal(err)
		}
		if got := e.snapshot().Pods[0].Addrs; !slices.Equal(got, r.Addrs) {
			t.Errorf("with %v reported, addresses %s, want the announced %s", reported, got, r.Addrs)
		}
	}
	if err := store.Update(labelled("a", "10.244.1.9", "fd00::9")); err != nil {
		t.Fatal(err)
	}
	e.snapshot()
	if len(e.early) != 0 {
		t.Error("the announcement is kept")
	}
}

func TestConfirmIsReadBack(t *testing.T) {
	dir := t.TempDir()
	want := Order{Generation: 3, Mode: Mode{Name: ModeOff}}
	if err := confirm(dir, want); err != nil {
		t.Fatal(err)
	}
	if got, err := Confirmed(dir); err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("%d files, want one: nothing temporary stays", len(entries))
	}
}

// An agent's log names the policies that are new, changed or gone since it last put rules
// into the kernel.
func TestChangedPolicies(t *testing.T) {
	policy := func(name, uid string, generation int64) *networkingv1.NetworkPolicy {
		return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(uid), Generation: generation}}
	}
	before := versionsOf([]*networkingv1.NetworkPolicy{policy("same", "1", 1), policy("edited", "2", 1), policy("gone", "3", 1), policy("again", "4", 1)})
	now := versionsOf([]*networkingv1.NetworkPolicy{policy("again", "5", 1), policy("new", "6", 1), policy("edited", "2", 2), policy("same", "1", 1)})
	if got, want := before.changed(now), []string{"ns/again", "ns/edited", "ns/gone", "ns/new"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := now.changed(now); len(got) > 0 {
		t.Errorf("got %q without a change", got)
	}
}
