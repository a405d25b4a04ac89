//go:build linux

package probe

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/sctp"
	"github.com/pathproof/pathproof/probe/wire"
)

var clientV6 = netip.MustParseAddr("fd91:1::2")

// noReplies lets requests through and drops what answers them, from the ports 1 to 5; the
// port 6 is closed for requests, and from port 7 an answer is rejected in a way that ends a handshake.
const noReplies = `
table inet filter {
	chain forward {
		type filter hook forward priority 0
		meta l4proto { tcp, udp, sctp } th sport 1-5 drop
		meta l4proto { tcp, udp, sctp } th dport 6 drop
		meta l4proto { tcp, udp, sctp } th sport 7 reject with icmpx host-unreachable
	}
}`

// recordOf asks a responder.
func recordOf(t *testing.T, r *Responder, id string, checks map[string][]int) wire.Record {
	t.Helper()
	records, err := r.Records(t.Context(), map[string]wire.RecordRequest{"owner": {Version: wire.Version, ID: id, Checks: checks}})
	if err != nil || len(records) != 1 || records[0].ID != id {
		t.Fatalf("got %v, %v", records, err)
	}
	return records[0]
}

var byAddr = cmpopts.EquateComparable(netip.Addr{})

func TestRecordOfLostReplies(t *testing.T) {
	l := newLab(t)
	l.router.nft(noReplies)
	raw := !haveSCTP(t)
	cfg := Config{Listen: []flow.PortRange{{Protocol: flow.TCP, First: 1, Last: 9}, {Protocol: flow.UDP, First: 1, Last: 9}}, RawSCTP: raw}
	if raw {
		cfg.Listen = append(cfg.Listen, flow.PortRange{Protocol: flow.SCTP, First: 1, Last: 9})
	}
	r := l.server.serve(cfg)
	plan := planOf()
	plan.ID, plan.TimeoutMilliseconds = "run", 300
	var all []int
	add := func(transport wire.Transport, addr netip.Addr, port uint16) {
		n := len(plan.Checks)
		all = append(all, n)
		plan.Checks = append(plan.Checks, wire.Check{Transport: transport, Addr: addr, Port: port, Nonce: wire.Nonce(plan.ID, n)})
	}
	transports := []wire.Transport{wire.TCP, wire.UDP}
	if raw {
		transports = append(transports, wire.SCTP)
	}
	for _, transport := range transports {
		for _, addr := range []netip.Addr{serverV4, serverV6} {
			for _, port := range []uint16{3, 6, 9} {
				add(transport, addr, port)
			}
		}
	}
	results := l.client.runWith(&Runner{RawSCTP: raw}, plan)
	got := recordOf(t, r, "first", map[string][]int{"run": all, "other": {0}})
	want := wire.Record{Version: wire.Version, ID: "first"}
	for i, c := range plan.Checks {
		answered := c.Port == 9
		if results[i].Outcomes.All(func(o wire.Outcome) bool { return o == wire.Replied }) != answered {
			t.Errorf("%s to port %d of %s: got %v", c.Transport, c.Port, c.Addr, results[i].Outcomes)
		}
		if answered || (c.Transport == wire.UDP && c.Port == 3) {
			want.Requests = append(want.Requests, wire.Requests{Plan: "run", Check: i, Round: 1, Count: plan.Attempts})
		}
	}
	for _, p := range []flow.Protocol{flow.SCTP, flow.TCP} {
		for _, from := range []netip.Addr{clientV4, clientV6} {
			if raw || p == flow.TCP {
				want.Handshakes = append(want.Handshakes, wire.Handshakes{Protocol: p, Port: 3, From: from, Count: plan.Attempts})
			}
		}
	}
	if diff := cmp.Diff(want, got, byAddr, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}

	t.Run("is given once, and begins anew", func(t *testing.T) {
		request := wire.RecordRequest{Version: wire.Version, ID: "first"}
		if records, err := r.Records(t.Context(), map[string]wire.RecordRequest{"owner": request}); len(records) != 0 || err != nil {
			t.Errorf("got %v, %v for a request that was answered", records, err)
		}
		if again := recordOf(t, r, "second", nil); len(again.Requests)+len(again.Handshakes) != 0 {
			t.Errorf("got %+v, and nothing had arrived since", again)
		}
	})
	t.Run("another owner gets the same", func(t *testing.T) {
		records, err := r.Records(t.Context(), map[string]wire.RecordRequest{"other": {Version: wire.Version, ID: "first", Checks: map[string][]int{"run": all}}})
		if err != nil || len(records) != 1 || !cmp.Equal(records[0], got, byAddr) {
			t.Errorf("got %+v, %v", records, err)
		}
	})
	t.Run("of another version is refused", func(t *testing.T) {
		records, err := r.Records(t.Context(), map[string]wire.RecordRequest{"owner": {Version: 99, ID: "third"}})
		if len(records) != 0 || err == nil || !strings.Contains(err.Error(), "version 99") {
			t.Errorf("got %v, %v", records, err)
		}
	})
}

// The kernel forgets a handshake at once when the host that it answers is said to be
// unreachable. It counts it, though.
func TestRecordSaysWhatItCannotTell(t *testing.T) {
	l := newLab(t)
	l.router.nft(noReplies)
	r := l.server.serve(Config{Listen: []flow.PortRange{{Protocol: flow.TCP, First: 6, Last: 9}}})
	plan := planOf(wire.Check{Transport: wire.TCP, Addr: serverV4, Port: 6, Nonce: "run.0"})
	plan.TimeoutMilliseconds = 300
	l.client.run(plan)
	if got := recordOf(t, r, "closed", nil); len(got.Unseen)+len(got.Handshakes) != 0 {
		t.Errorf("got %+v, though nothing arrived", got)
	}
	plan.Checks[0].Port = 7
	l.client.run(plan)
	dropped := fmt.Sprintf("dropped %[1]d packets or handshakes without a trace (ListenDrops: %[1]d)", plan.Attempts)
	if got := recordOf(t, r, "rejected", nil); !strings.Contains(got.Unseen[flow.TCP], dropped) {
		t.Errorf("got %+v, though handshakes were given up", got)
	}
	if got := recordOf(t, r, "later", nil); len(got.Unseen) != 0 {
		t.Errorf("got %+v, though nothing has happened since", got)
	}
	t.Run("where the table is another's", func(t *testing.T) {
		k := kernelTable{dir: "/proc/self/net"}
		if err := k.shows([]uint16{6}); err == nil {
			t.Error("the table of another namespace passes for that of the responder")
		}
		if err := r.record.kernel.shows([]uint16{6, 9}); err != nil {
			t.Error(err)
		}
	})
}

// The kernel repeats its answer. When one gets through at last, the client has given up and
// resets what it knows nothing of: that is no handshake that was never noted.
func TestRecordKnowsHandshakesThatEndLate(t *testing.T) {
	l := newLab(t)
	l.router.nft(noReplies)
	r := l.server.serve(Config{Listen: []flow.PortRange{{Protocol: flow.TCP, First: 3, Last: 9}}})
	plan := planOf(wire.Check{Transport: wire.TCP, Addr: serverV4, Port: 3, Nonce: "run.0"}, wire.Check{Transport: wire.TCP, Addr: serverV6, Port: 3, Nonce: "run.1"})
	plan.TimeoutMilliseconds = 300
	l.client.run(plan)
	if got := recordOf(t, r, "lost", nil); len(got.Handshakes) != 2 || len(got.Unseen) != 0 {
		t.Fatalf("got %+v, want the handshakes of two addresses", got)
	}
	ends := func() (n uint64) {
		counters, err := r.record.kernel.dropped(flow.TCP)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range counters {
			n += c
		}
		return n
	}
	before := ends()
	l.router.nft("flush ruleset")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if ends() == before+4 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the kernel has not repeated its answers")
		}
	}
	if got := recordOf(t, r, "healed", nil); len(got.Unseen)+len(got.Handshakes) != 0 {
		t.Errorf("got %+v, though nothing new has happened", got)
	}
}

// A client that lives long uses its ports again, and a look at the table can miss a line.
func TestRecordOfAPortUsedAgain(t *testing.T) {
	peer := netip.AddrPortFrom(clientV4, 40000)
	start := time.Now()
	for _, c := range []struct {
		name     string
		protocol flow.Protocol
		// missed and counted are so before the second time.
		missed  int
		counted bool
		after   time.Duration
		want    int
	}{
		{"TCP, after the first has expired", flow.TCP, 1000, false, 72 * time.Hour, 1},
		{"TCP, after the first was reset", flow.TCP, 2, true, 10 * time.Second, 1},
		{"TCP, still listed", flow.TCP, 0, false, 60 * time.Second, 0},
		{"TCP, missed by one look", flow.TCP, 1, true, 4 * time.Second, 0},
		{"SCTP, after days", flow.SCTP, 0, false, 72 * time.Hour, 1},
		{"SCTP, repeated", flow.SCTP, 0, false, 4 * time.Second, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRecorder(t.Logf)
			h := handshake{c.protocol, 80, peer}
			r.note(h, start)
			r.handshakes[h].missed = c.missed
			if r.handshakes[h].counted = c.counted; c.counted {
				r.ended = 1
			}
			again := start.Add(c.after)
			r.note(h, again)
			got := 0
			for _, h := range r.since(start, again) {
				got += h.Count
			}
			if got != c.want {
				t.Errorf("got %d handshakes that began later, want %d", got, c.want)
			}
			// What ended once has ended; what had only been missed has not.
			if wantEnded := c.counted && c.want == 1; (r.ended == 1) != wantEnded {
				t.Errorf("got %d that ended", r.ended)
			}
		})
	}
}

// A handshake leaves the table when it is complete, and the responder may get to know later.
// One that was reset a minute ago from the same port has ended all the same.
func TestRecordTakesBackWhatIsCompleted(t *testing.T) {
	h := handshake{flow.TCP, 80, netip.AddrPortFrom(clientV4, 40000)}
	for ago, want := range map[time.Duration]uint64{0: 0, time.Minute: 1} {
		r := newRecorder(t.Logf)
		r.note(h, time.Now().Add(-ago))
		r.handshakes[h].missed, r.handshakes[h].counted, r.ended = 1, true, 1
		r.completed(h.protocol, h.port, h.peer)
		if len(r.handshakes) != 0 || r.ended != want {
			t.Errorf("listed %s ago: got %d handshakes and %d that ended, want none and %d", ago, len(r.handshakes), r.ended, want)
		}
	}
}

// Only the last round counts: what came through before the network had settled says
// nothing about what it does now.
func TestRecordCountsTheLastRound(t *testing.T) {
	r := newRecorder(t.Logf)
	for _, nonce := range []string{"p.0.1", "p.0.1", "p.0.2", "p.0.1", "p.1.3", "p.2", "p", "p.x.1", "p.500.1", ".1.1", "p.1.0", "a.b.c.d"} {
		r.request(flow.UDP, nonce)
	}
	got := r.requestsOf(wire.RecordRequest{Checks: map[string][]int{"p": {0, 1, 2, 499}}})
	want := []wire.Requests{{Plan: "p", Check: 0, Round: 2, Count: 1}, {Plan: "p", Check: 1, Round: 3, Count: 1}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestRecordIsBounded(t *testing.T) {
	r := newRecorder(t.Logf)
	for i := range maxRecorded + 5 {
		r.request(flow.UDP, fmt.Sprintf("plan%d.0.1", i))
		r.began(flow.TCP, 80, netip.AddrPortFrom(clientV4, uint16(i)))
	}
	r.began(flow.TCP, 80, netip.MustParseAddrPort("[::1]:9"))
	if len(r.requests) != maxRecorded || len(r.handshakes) != maxRecorded || r.lost[flow.UDP] != 5 || r.lost[flow.TCP] != 5 {
		t.Errorf("got %d requests, %d handshakes, lost %v", len(r.requests), len(r.handshakes), r.lost)
	}
	if got := recordOf(t, &Responder{record: r}, "full", nil); !strings.HasSuffix(got.Unseen[flow.UDP], "without a trace (no room: 5)") {
		t.Errorf("got %v", got.Unseen)
	}
	r.completed(flow.TCP, 80, netip.AddrPortFrom(netip.AddrFrom16(clientV4.As16()), 7))
	if len(r.handshakes) != maxRecorded-1 {
		t.Error("a completed handshake is still there")
	}
}

func TestParseKernelAddr(t *testing.T) {
	for text, want := range map[string]string{
		"0100007F:1F90":                         "127.0.0.1:8080",
		"00000000000000000000000001000000:0050": "[::1]:80",
		"B80D01200000000067452301EFCDAB89:FFFF": "[2001:db8::123:4567:89ab:cdef]:65535",
		"0000000000000000FFFF00000200000A:0001": "10.0.0.2:1",
	} {
		if got, err := parseKernelAddr(text); err != nil || got.String() != want {
			t.Errorf("%s: got %v, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", ":", "0100007F", "0100007F:x", "01:1F90", "010000:1F90", "0100007F0100007F:1"} {
		if got, err := parseKernelAddr(text); err == nil {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
}

// A raw socket without room drops what arrives, and so its record has a hole.
func TestRecordCountsWhatRawSocketsDrop(t *testing.T) {
	n := newNamespace(t)
	var (
		conn *net.IPConn
		err  error
	)
	n.do(func() { conn, err = listenRaw(false) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetReadBuffer(1); err != nil { // the kernel's least
		t.Fatal(err)
	}
	drops := func() (got uint64) {
		n.do(func() { got, err = kernelTable{dir: "/proc/thread-self/net"}.rawDrops(sctp.Protocol) })
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := drops(); got != 0 {
		t.Fatalf("got %d drops before anything was sent", got)
	}
	const sent = 100
	n.do(func() {
		var from net.PacketConn
		if from, err = net.ListenPacket("ip4:132", "127.0.0.1"); err != nil {
			return
		}
		defer func() { _ = from.Close() }()
		for range sent {
			if _, err = from.WriteTo(sctp.NewClient(40000, 9000).Init(), &net.IPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	read, in := 0, make([]byte, maxDatagram)
	if err := conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for {
		if _, _, err := conn.ReadFrom(in); err != nil {
			break
		}
		read++
	}
	if got := drops(); got == 0 || int(got)+read != sent {
		t.Errorf("got %d drops, want those of %d packets that %d reads did not get", got, sent, read)
	}
}
