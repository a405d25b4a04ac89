package sctp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var (
	epoch  = time.Unix(1_700_000_000, 0)
	peer   = netip.MustParseAddr("10.0.0.1")
	local  = netip.MustParseAddr("10.0.0.2")
	others = netip.MustParseAddr("10.0.0.3")
)

// echoHost listens on port 9000 and answers a message with where it came from.
func echoHost() *Host {
	h := NewHost(func(port uint16, from netip.Addr, message []byte) []byte {
		return fmt.Appendf(nil, "%s on %d from %s", message, port, from)
	})
	h.Listen(9000)
	return h
}

// establish sets up an association.
func establish(t *testing.T, h *Host) *Client {
	t.Helper()
	c := NewClient(40000, 9000)
	echo := c.Receive(h.Receive(epoch, peer, local, c.Init()))
	if c.State() != CookieEchoed {
		t.Fatalf("after INIT ACK: got state %d, want %d", c.State(), CookieEchoed)
	}
	if out := c.Receive(h.Receive(epoch, peer, local, echo)); out != nil || c.State() != Established {
		t.Fatalf("after COOKIE ACK: got state %d and an answer of %d bytes", c.State(), len(out))
	}
	return c
}

func TestAssociation(t *testing.T) {
	h := echoHost()
	c := establish(t, h)
	for _, message := range []string{"one", "two"} {
		got := len(c.Received())
		sack := c.Receive(h.Receive(epoch, peer, local, c.Send([]byte(message))))
		if want := message + " on 9000 from 10.0.0.1"; string(c.Received()[got:]) != want {
			t.Errorf("got %q, want %q", c.Received()[got:], want)
		}
		if h.Receive(epoch, peer, local, sack) != nil {
			t.Error("the host answers an acknowledgement")
		}
	}
	complete := c.Receive(h.Receive(epoch, peer, local, c.Shutdown()))
	if c.State() != Ended || complete == nil {
		t.Errorf("after SHUTDOWN ACK: got state %d, want %d", c.State(), Ended)
	}
	if out := h.Receive(epoch, peer, local, complete); out != nil || len(h.associations) != 0 {
		t.Errorf("after SHUTDOWN COMPLETE: got an answer of %d bytes and %d associations", len(out), len(h.associations))
	}
}

// COOKIE ECHO may carry the first message (section 5.1), and any packet may come twice.
func TestHostTakesBundlesAndDuplicates(t *testing.T) {
	h := echoHost()
	c := NewClient(40000, 9000)
	echo := c.Receive(h.Receive(epoch, peer, local, c.Init()))
	_, chunks, err := Parse(echo)
	if err != nil {
		t.Fatal(err)
	}
	bundle := Packet(c.header, append(chunks, dataChunk(c.tsn, 0, []byte("early")))...)
	first := h.Receive(epoch, peer, local, bundle)
	second := h.Receive(epoch, peer, local, bundle)
	c.Receive(first)
	c.Receive(second)
	if want := "early on 9000 from 10.0.0.1"; c.State() != Established || string(c.Received()) != want {
		t.Errorf("got state %d and %q, want %q once", c.State(), c.Received(), want)
	}
}

func TestClosedPortAborts(t *testing.T) {
	h := echoHost()
	c := NewClient(40000, 9001)
	abort := h.Receive(epoch, peer, local, c.Init())
	stranger := NewClient(40000, 9001)
	if stranger.Receive(abort); stranger.State() != CookieWait {
		t.Error("an ABORT with another tag refuses")
	}
	if out := c.Receive(abort); c.State() != Refused || out != nil {
		t.Errorf("got state %d and an answer of %d bytes, want %d", c.State(), len(out), Refused)
	}
	if h.Receive(epoch, peer, local, abort) != nil {
		t.Error("an ABORT was answered")
	}
}

// Only who proves to see the packets of the client can answer it.
func TestClientIgnoresForeignPackets(t *testing.T) {
	ack := initiation{tag: 7, tsn: 1, cookie: []byte("c")}
	header := func(c *Client, tag uint32) Header { return c.header.reply(tag) }
	cases := map[string]func(c *Client) []byte{
		"INIT ACK with another tag": func(c *Client) []byte { return Packet(header(c, c.tag+1), ack.chunk(InitAck)) },
		"INIT ACK without a cookie": func(c *Client) []byte { return Packet(header(c, c.tag), initiation{tag: 7}.chunk(InitAck)) },
		"INIT ACK with tag 0 inside": func(c *Client) []byte {
			return Packet(header(c, c.tag), initiation{cookie: []byte("c")}.chunk(InitAck))
		},
		"INIT ACK from another port":    func(c *Client) []byte { return Packet(Header{9001, 40000, c.tag}, ack.chunk(InitAck)) },
		"INIT ACK to another port":      func(c *Client) []byte { return Packet(Header{9000, 40001, c.tag}, ack.chunk(InitAck)) },
		"COOKIE ACK before its time":    func(c *Client) []byte { return Packet(header(c, c.tag), Chunk{Type: CookieAck}) },
		"data before its time":          func(c *Client) []byte { return Packet(header(c, c.tag), dataChunk(1, 0, []byte("x"))) },
		"ABORT with another tag":        func(c *Client) []byte { return Packet(header(c, c.tag+1), Chunk{Type: Abort}) },
		"ABORT with the reflected 0":    func(c *Client) []byte { return Packet(header(c, 0), Chunk{Type: Abort, Flags: tagReflected}) },
		"the client's own INIT":         func(c *Client) []byte { return c.Init() },
		"something that is not SCTP":    func(*Client) []byte { return []byte("GET / HTTP/1.1\r\n\r\n") },
		"an answer with a bad checksum": func(c *Client) []byte { b := Packet(header(c, c.tag), ack.chunk(InitAck)); b[9]++; return b },
	}
	for name, packet := range cases {
		t.Run(name, func(t *testing.T) {
			c := NewClient(40000, 9000)
			if out := c.Receive(packet(c)); out != nil || c.State() != CookieWait {
				t.Errorf("got state %d and an answer of %d bytes, want none", c.State(), len(out))
			}
		})
	}
}

// Where the peer has shown that it is there, an ABORT is no refusal any more.
func TestAbortAfterTheFirstAnswer(t *testing.T) {
	for name, flags := range map[string]uint8{"with the client's tag": 0, "with the reflected tag": tagReflected} {
		t.Run(name, func(t *testing.T) {
			abort := func(c *Client) []byte {
				tag := c.tag
				if flags == tagReflected {
					tag = c.header.Tag
				}
				return Packet(c.header.reply(tag), Chunk{Type: Abort, Flags: flags})
			}
			h := echoHost()
			c := NewClient(40000, 9000)
			c.Receive(h.Receive(epoch, peer, local, c.Init()))
			if c.Receive(abort(c)); c.State() != Dropped {
				t.Errorf("before COOKIE ACK: got state %d, want %d", c.State(), Dropped)
			}
			c = establish(t, echoHost())
			if c.Receive(abort(c)); c.State() != Ended {
				t.Errorf("after COOKIE ACK: got state %d, want %d", c.State(), Ended)
			}
		})
	}
}

// A cookie is good for the addresses, ports, tag and time that it was made for, and
// nobody can make one.
func TestHostRefusesCookies(t *testing.T) {
	cases := map[string]func(h *Host, c *Client, value []byte) []byte{
		"of another address": func(h *Host, c *Client, v []byte) []byte {
			return h.Receive(epoch, others, local, Packet(c.header, Chunk{Type: CookieEcho, Value: v}))
		},
		"for another address": func(h *Host, c *Client, v []byte) []byte {
			return h.Receive(epoch, peer, others, Packet(c.header, Chunk{Type: CookieEcho, Value: v}))
		},
		"of another port": func(h *Host, c *Client, v []byte) []byte {
			return h.Receive(epoch, peer, local, Packet(Header{40001, 9000, c.header.Tag}, Chunk{Type: CookieEcho, Value: v}))
		},
		"with another tag": func(h *Host, c *Client, v []byte) []byte {
			return h.Receive(epoch, peer, local, Packet(Header{40000, 9000, c.header.Tag + 1}, Chunk{Type: CookieEcho, Value: v}))
		},
		"that is too old": func(h *Host, c *Client, v []byte) []byte {
			return h.Receive(epoch.Add(cookieLife+1), peer, local, Packet(c.header, Chunk{Type: CookieEcho, Value: v}))
		},
		"of the future": func(h *Host, c *Client, v []byte) []byte {
			return h.Receive(epoch.Add(-1), peer, local, Packet(c.header, Chunk{Type: CookieEcho, Value: v}))
		},
		"that was changed": func(h *Host, c *Client, v []byte) []byte {
			v[0]++
			return h.Receive(epoch, peer, local, Packet(c.header, Chunk{Type: CookieEcho, Value: v}))
		},
		"that was cut": func(h *Host, c *Client, v []byte) []byte {
			return h.Receive(epoch, peer, local, Packet(c.header, Chunk{Type: CookieEcho, Value: v[:8]}))
		},
		"of another host": func(_ *Host, c *Client, v []byte) []byte {
			return echoHost().Receive(epoch, peer, local, Packet(c.header, Chunk{Type: CookieEcho, Value: v}))
		},
	}
	for name, send := range cases {
		t.Run(name, func(t *testing.T) {
			h := echoHost()
			c := NewClient(40000, 9000)
			_, chunks, err := Parse(c.Receive(h.Receive(epoch, peer, local, c.Init())))
			if err != nil {
				t.Fatal(err)
			}
			if out := send(h, c, chunks[0].Value); out != nil || len(h.associations) != 0 {
				t.Errorf("got an answer of %d bytes and %d associations, want none", len(out), len(h.associations))
			}
		})
	}
}

func TestHostIgnoresForeignPackets(t *testing.T) {
	cases := map[string]func(h *Host, c *Client) []byte{
		"data with another tag": func(h *Host, c *Client) []byte {
			return h.Receive(epoch, peer, local, Packet(Header{40000, 9000, c.header.Tag + 1}, dataChunk(c.tsn, 0, []byte("x"))))
		},
		"data of nobody": func(h *Host, c *Client) []byte { return h.Receive(epoch, others, local, c.Send([]byte("x"))) },
		"INIT with a tag": func(h *Host, c *Client) []byte {
			return h.Receive(epoch, peer, local, Packet(c.header, initiation{tag: 1}.chunk(Init)))
		},
		"INIT without a tag inside": func(h *Host, c *Client) []byte {
			return h.Receive(epoch, peer, local, Packet(Header{40000, 9000, 0}, initiation{}.chunk(Init)))
		},
		"INIT from a multicast address": func(h *Host, c *Client) []byte {
			return h.Receive(epoch, netip.MustParseAddr("224.0.0.1"), local, c.Init())
		},
		"INIT to the broadcast address": func(h *Host, c *Client) []byte {
			return h.Receive(epoch, peer, netip.MustParseAddr("255.255.255.255"), c.Init())
		},
		"data after the end of its time": func(h *Host, c *Client) []byte {
			return h.Receive(epoch.Add(associationLife), peer, local, c.Send([]byte("x")))
		},
		"a chunk of the future": func(h *Host, c *Client) []byte {
			return h.Receive(epoch, peer, local, Packet(c.header, Chunk{Type: 0x3f}))
		},
	}
	for name, send := range cases {
		t.Run(name, func(t *testing.T) {
			h := echoHost()
			if out := send(h, establish(t, h)); out != nil {
				t.Errorf("got an answer of %d bytes, want none", len(out))
			}
		})
	}
}

func TestHostAnswersHeartbeats(t *testing.T) {
	h := echoHost()
	c := establish(t, h)
	_, chunks, err := Parse(h.Receive(epoch, peer, local, Packet(c.header, Chunk{Type: Heartbeat, Value: []byte("path")})))
	if err != nil || len(chunks) != 1 || chunks[0].Type != HeartbeatAck || string(chunks[0].Value) != "path" {
		t.Errorf("got %+v, %v, want the heartbeat back", chunks, err)
	}
}

func TestHostAbortFreesTheAssociation(t *testing.T) {
	h := echoHost()
	c := establish(t, h)
	if out := h.Receive(epoch, peer, local, c.Abort()); out != nil || len(h.associations) != 0 {
		t.Errorf("got an answer of %d bytes and %d associations", len(out), len(h.associations))
	}
}

// Peers that leave their associations behind keep nobody out for longer than these
// live.
func TestHostIsFullForAWhileOnly(t *testing.T) {
	h := echoHost()
	connect := func(now time.Time, source uint16, from netip.Addr) State {
		c := NewClient(source, 9000)
		c.Receive(h.Receive(now, from, local, c.Receive(h.Receive(now, from, local, c.Init()))))
		return c.State()
	}
	for i := range maxAssociations {
		if got := connect(epoch, uint16(i+1), peer); got != Established {
			t.Fatalf("association %d: got state %d", i, got)
		}
	}
	if got := connect(epoch.Add(time.Second), 1, others); got != CookieEchoed {
		t.Errorf("one too many: got state %d, want %d", got, CookieEchoed)
	}
	if got := connect(epoch.Add(associationLife), 1, others); got != Established {
		t.Errorf("when their time is up: got state %d, want %d", got, Established)
	}
	if len(h.associations) != 1 {
		t.Errorf("got %d associations, want 1", len(h.associations))
	}
}

// Two hosts that hear each other's packets fall silent.
func TestHostsDoNotAnswerEachOther(t *testing.T) {
	a, b := echoHost(), echoHost()
	a.Listen(40000)
	packet := NewClient(40000, 9000).Init()
	for range 3 {
		if packet = b.Receive(epoch, peer, local, packet); packet == nil {
			return
		}
		if packet = a.Receive(epoch, local, peer, packet); packet == nil {
			return
		}
	}
	t.Error("the hosts go on and on")
}

// Neither side panics, answers more than it was asked, or ends up established by bytes
// of somebody who does not know its tag.
func FuzzReceive(f *testing.F) {
	c := NewClient(40000, 9000)
	f.Add(c.Init())
	f.Add(Packet(Header{9000, 40000, 1}, initiation{tag: 7, tsn: 1, cookie: []byte("c")}.chunk(InitAck)))
	f.Add(Packet(Header{40000, 9000, 1}, Chunk{Type: CookieEcho, Value: make([]byte, 56)}, dataChunk(1, 0, []byte("x"))))
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) >= HeaderBytes {
			binary.LittleEndian.PutUint32(packet[8:], checksum(packet))
		}
		h := echoHost()
		out := h.Receive(epoch, peer, local, packet)
		if len(out) > maxPacketBytes || len(h.associations) != 0 {
			t.Errorf("got an answer of %d bytes and %d associations", len(out), len(h.associations))
		}
		c := NewClient(40000, 9000)
		// A tag that the corpus can know, but that no fuzzer finds twice.
		if c.Receive(packet); c.State() != CookieWait && binary.BigEndian.Uint32(packet[4:]) != c.tag {
			t.Errorf("got state %d for a packet with another tag", c.State())
		}
		established := establish(t, h)
		h.Receive(epoch, peer, local, packet)
		established.Receive(packet)
		if len(established.Received()) > maxReceived {
			t.Errorf("kept %d bytes", len(established.Received()))
		}
	})
}

// Where another host answers, what is seen of a handshake is its first packet, and that its
// answer was echoed: by the order of the two, and with any cookie.
func TestSilentHostsWatch(t *testing.T) {
	now := time.Now()
	from, to := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	answering, watching := NewHost(func(uint16, netip.Addr, []byte) []byte { return nil }), NewHost(nil)
	var got []string
	note := func(what string) func(uint16, netip.AddrPort) {
		return func(port uint16, peer netip.AddrPort) { got = append(got, fmt.Sprint(what, " ", port, " ", peer)) }
	}
	watching.Silent, watching.Began, watching.Completed = true, note("began"), note("completed")
	answering.Listen(9000)
	answering.Listen(9001)
	watching.Listen(9000)
	for _, port := range []uint16{9000, 9001} {
		c := NewClient(40000, port)
		packet := c.Init()
		for packet != nil {
			if out := watching.Receive(now, from, to, packet); out != nil {
				t.Fatalf("it answers with %x", out)
			}
			answer := answering.Receive(now, from, to, packet)
			if answer == nil {
				break
			}
			packet = c.Receive(answer)
		}
		if c.State() != Established {
			t.Fatalf("port %d: the handshake ended in state %v", port, c.State())
		}
	}
	if want := []string{"began 9000 10.0.0.1:40000", "completed 9000 10.0.0.1:40000"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
