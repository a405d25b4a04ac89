//go:build linux

package probe

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pathproof/pathproof/probe/wire"
)

// listenKubelet answers readiness probes in a namespace until the test ends.
func (n *namespace) listenKubelet(port uint16) *Kubelet {
	n.t.Helper()
	var (
		k   *Kubelet
		err error
	)
	n.do(func() { k, err = ListenKubelet(port) })
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(k.Close)
	return k
}

// The node's probes reach the pod although a policy cuts everything else: the
// report says that the pod's interface works.
func TestReportCountsReadinessProbes(t *testing.T) {
	l := newLab(t)
	l.client.nft(`table inet filter { chain in { type filter hook input priority 0; policy drop; iif lo accept; tcp dport 8099 accept; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; }; }`)
	k := l.client.listenKubelet(8099)
	visit := func() {
		for _, url := range []string{"http://10.91.1.2:8099/ready", "http://[fd91:1::2]:8099/ready"} {
			// From the node, which policies cannot block, and from the pod itself, which
			// says nothing about its interface.
			for _, n := range []*namespace{l.router, l.client} {
				if status, body := n.get(url); status != http.StatusOK || body != "ok\n" {
					t.Errorf("got %d %q, want 200", status, body)
				}
			}
		}
		if status, _ := l.client.get("http://127.0.0.1:8099/ready"); status != http.StatusOK {
			t.Errorf("over loopback: got %d, want 200", status)
		}
	}
	visit() // before the run: these do not count
	var during sync.Once
	r := &Runner{Kubelet: k, socket: func(domain, typ, proto int) (int, error) {
		during.Do(visit)
		return l.client.socket(domain, typ, proto)
	}}
	report := r.Run(t.Context(), planOf(wire.Check{Transport: wire.TCP, Addr: serverV4, Port: 80}))
	if report.KubeletProbes != 2 {
		t.Errorf("got %d probes, want the 2 of the node during the run", report.KubeletProbes)
	}
}

func TestSilentRunWaitsForTheFirstReadinessProbe(t *testing.T) {
	cases := map[string]struct {
		outcome  wire.Outcome
		probed   time.Duration // when the kubelet comes by; 0 for never
		want     time.Duration
		wantSeen int
	}{
		"silence, and the kubelet comes late":       {wire.TimedOut, 2 * time.Second, 2 * time.Second, 1},
		"silence, and the kubelet does not come":    {wire.TimedOut, 0, 500*time.Millisecond + kubeletWait, 0},
		"silence, and the kubelet has come already": {wire.TimedOut, 100 * time.Millisecond, 500 * time.Millisecond, 1},
		"a rejection needs evidence, too":           {wire.Rejected, 2 * time.Second, 2 * time.Second, 1},
		"an answer to any check is evidence enough": {wire.Replied, 0, 500 * time.Millisecond, 0},
		"a local error proves nothing anyway":       {wire.NoRoute, 0, 500 * time.Millisecond, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := &Kubelet{next: make(chan struct{})}
				if tc.probed > 0 {
					time.AfterFunc(tc.probed, func() { k.probed() })
				}
				r := &Runner{Kubelet: k, try: func(context.Context, *wire.Check) attempt { return attempt{outcome: tc.outcome} }}
				start := time.Now()
				report := r.Run(t.Context(), planOf(wire.Check{Transport: wire.TCP, Addr: netip.MustParseAddr("127.0.0.1"), Port: 9}))
				if took := time.Since(start); took != tc.want || report.KubeletProbes != tc.wantSeen {
					t.Errorf("took %v and counted %d probes, want %v and %d", took, report.KubeletProbes, tc.want, tc.wantSeen)
				}
			})
		})
	}
}

func TestListenKubeletOnATakenPort(t *testing.T) {
	n := newNamespace(t)
	n.listenKubelet(8099)
	var err error
	n.do(func() { _, err = ListenKubelet(8099) })
	if err == nil {
		t.Error("a second one took the same port")
	}
}

func TestNeedsEvidence(t *testing.T) {
	cases := map[string]struct {
		outcomes []string // one text a check
		want     bool
	}{
		"silence everywhere":                     {[]string{"TT", "TT"}, true},
		"one silent attempt among local errors":  {[]string{"NN", "ET"}, true},
		"a refusal may come from a filter":       {[]string{"FF"}, true},
		"silence, but another check had answers": {[]string{"TT", "RR"}, false},
		"one answer of many attempts is enough":  {[]string{"TT", "TC"}, false},
		"a name that is not found, and silence":  {[]string{"XX", "TT"}, true},
		"nothing but local errors":               {[]string{"NN", "PP", "AA", "EE"}, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			results := make([]wire.Result, len(tc.outcomes))
			for i, text := range tc.outcomes {
				if err := results[i].Outcomes.UnmarshalText([]byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			checks := slices.Repeat([]wire.Check{{Transport: wire.TCP, Host: "a.test."}}, len(results))
			if got := needsEvidence(checks, results); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// Of a run without an answer, the report says what is wrong with the pod's own network.
func TestTroubleIsLookedForWhenNothingAnswered(t *testing.T) {
	for outcome, want := range map[wire.Outcome]string{
		wire.TimedOut: "eth0 is down", wire.NoRoute: "eth0 is down", wire.Rejected: "eth0 is down", wire.Replied: "",
		wire.NameNotFound: "eth0 is down", // of a host, which was not tried
	} {
		r := &Runner{
			try:  func(context.Context, *wire.Check) attempt { return attempt{outcome: outcome} },
			look: func() string { return "eth0 is down" },
		}
		report := r.Run(t.Context(), planOf(wire.Check{Transport: wire.TCP, Addr: netip.MustParseAddr("127.0.0.1"), Port: 9}))
		if report.Trouble != want {
			t.Errorf("%s: got trouble %q, want %q", outcome, report.Trouble, want)
		}
	}
}
