package sctp

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"net/netip"
	"time"
)

const (
	// cookieLife is how long a cookie is good for. Section 15 suggests 60 s; ours are
	// echoed within one attempt.
	cookieLife = 10 * time.Second
	// associationLife is how long an association may last, since nothing is ever
	// retransmitted that would find out that its peer is gone.
	associationLife = 10 * time.Second
	// maxAssociations bounds the associations at the same time: as many as there are
	// attempts in flight in a probe pod. Only peers that can be answered get one.
	maxAssociations = 1 << 12
)

// Host answers for some ports of an address family. It keeps no state for a peer that
// has not proved, by a cookie, that it gets what is sent to it. It is not safe for
// concurrent use.
type Host struct {
	// Began is told of every INIT for a port that is listened on, and Completed of every
	// peer that has proved that it got the answer. nil ignores it.
	Began, Completed func(port uint16, peer netip.AddrPort)
	// Silent says that another host answers: then a peer has got the answer when it echoes
	// any cookie, since this host cannot read that of the other.
	Silent bool

	// respond returns the answer to a message, or nil.
	respond func(port uint16, from netip.Addr, message []byte) []byte

	ports map[uint16]bool
	key   [32]byte
	// associations by their addresses and ports.
	associations map[pair]*association
	// swept is when associations whose time is up were last removed.
	swept time.Time
}

// pair is the addresses and ports of an association.
type pair struct{ peer, local netip.AddrPort }

type association struct {
	// tag is ours, peerTag the peer's.
	tag, peerTag uint32
	tsn          uint32
	sent         uint16
	in           receiver
	until        time.Time
}

// NewHost returns a host that listens on no port yet. respond returns the answer to a
// message from an address, or nil.
func NewHost(respond func(port uint16, from netip.Addr, message []byte) []byte) *Host {
	h := &Host{respond: respond, ports: map[uint16]bool{}, associations: map[pair]*association{}}
	_, _ = rand.Read(h.key[:]) // never fails
	return h
}

// Listen opens a port.
func (h *Host) Listen(port uint16) { h.ports[port] = true }

// Receive takes a packet that went from one address to another and returns the
// answer to it, or nil. All answers to it are in one packet.
func (h *Host) Receive(now time.Time, from, to netip.Addr, packet []byte) []byte {
	header, chunks, err := Parse(packet)
	// "If the OOTB packet is to or from a non-unicast address, a receiver SHOULD
	// silently discard" it (section 8.4). So is all that has no chunk that we know.
	if err != nil || len(chunks) == 0 || !unicast(from) || !unicast(to) {
		return nil
	}
	p := pair{peer: netip.AddrPortFrom(from, header.Source), local: netip.AddrPortFrom(to, header.Destination)}
	switch first := chunks[0]; {
	case h.Silent:
		h.watch(p, header, first)
		return nil
	case first.Type == Init:
		return h.init(now, p, header, first)
	case first.Type == CookieEcho:
		return h.cookieEcho(now, p, header, chunks)
	}
	a := h.alive(now, p)
	if a == nil {
		// The packets that we send over loopback come back here, too: who answered
		// them with ABORT would end the associations of the other end.
		return nil
	}
	return answer(header, a.peerTag, h.run(p, a, header, chunks))
}

// watch tells of what another host answers.
func (h *Host) watch(p pair, header Header, first Chunk) {
	switch {
	case !h.ports[header.Destination]:
	case first.Type == Init && h.Began != nil:
		if _, ok := parseInitiation(first.Value); ok && header.Tag == 0 {
			h.Began(header.Destination, p.peer)
		}
	case first.Type == CookieEcho && h.Completed != nil:
		h.Completed(header.Destination, p.peer)
	}
}

func unicast(a netip.Addr) bool {
	return a.IsValid() && !a.IsMulticast() && !a.IsUnspecified() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// answer makes a packet of the answers.
func answer(to Header, tag uint32, chunks []Chunk) []byte {
	if len(chunks) == 0 {
		return nil
	}
	return Packet(to.reply(tag), chunks...)
}

// init answers INIT: with a cookie that holds all that is to be known, or, on a port
// that nobody listens on, with ABORT (section 5.1). Both carry the tag of the INIT.
func (h *Host) init(now time.Time, p pair, header Header, c Chunk) []byte {
	// "The INIT chunk is the only chunk that is sent with a Verification Tag of 0"
	// (section 8.5.1).
	i, ok := parseInitiation(c.Value)
	if !ok || header.Tag != 0 {
		return nil
	}
	if !h.ports[header.Destination] {
		return Packet(header.reply(i.tag), Chunk{Type: Abort})
	}
	if h.Began != nil {
		h.Began(header.Destination, p.peer)
	}
	offer := cookie{issued: now, tag: randomTag(), peerTag: i.tag, tsn: random32(), peerTSN: i.tsn}
	ack := initiation{tag: offer.tag, tsn: offer.tsn, cookie: h.seal(offer, p)}
	return Packet(header.reply(i.tag), ack.chunk(InitAck))
}

// cookieEcho makes an association if the cookie is one of ours, for these addresses
// and ports and this tag, and not too old (section 5.1.5). Otherwise there is no
// answer.
func (h *Host) cookieEcho(now time.Time, p pair, header Header, chunks []Chunk) []byte {
	c, ok := h.unseal(chunks[0].Value, p)
	if age := now.Sub(c.issued); !ok || c.tag != header.Tag || age < 0 || age > cookieLife {
		return nil
	}
	a := h.alive(now, p)
	if h.Completed != nil {
		h.Completed(header.Destination, p.peer)
	}
	// A second copy of the same packet finds its association (section 5.2.4, D); one
	// with other tags is of a peer that began anew.
	if a == nil || a.tag != c.tag || a.peerTag != c.peerTag {
		if h.full(now) {
			return nil
		}
		a = &association{tag: c.tag, peerTag: c.peerTag, tsn: c.tsn, in: receiver{c.peerTSN - 1}, until: now.Add(associationLife)}
		h.associations[p] = a
	}
	out := append([]Chunk{{Type: CookieAck}}, h.run(p, a, header, chunks[1:])...)
	return answer(header, a.peerTag, out)
}

// run takes the chunks of an association and returns the answers.
func (h *Host) run(p pair, a *association, header Header, chunks []Chunk) []Chunk {
	var out []Chunk
	for _, c := range chunks {
		if reflected := (c.Type == Abort || c.Type == ShutdownComplete) && c.Flags&tagReflected != 0; reflected {
			if header.Tag != a.peerTag {
				continue
			}
		} else if header.Tag != a.tag {
			continue
		}
		switch c.Type {
		case Data:
			out = append(out, h.data(p, a, c)...)
		case Heartbeat:
			out = append(out, Chunk{Type: HeartbeatAck, Value: c.Value})
		case Shutdown:
			out = append(out, Chunk{Type: ShutdownAck})
		case ShutdownAck:
			out = append(out, Chunk{Type: ShutdownComplete})
			delete(h.associations, p)
		case Abort, ShutdownComplete:
			delete(h.associations, p)
			return nil
		case Init, InitAck, Sack, HeartbeatAck, Error, CookieEcho, CookieAck:
			// Of no use to a side that answers one message with another.
		}
	}
	return out
}

// data acknowledges a DATA chunk and answers the message in it, if it is whole.
func (h *Host) data(p pair, a *association, c Chunk) []Chunk {
	message, ok := a.in.take(c)
	out := []Chunk{a.in.sack()}
	if !ok || c.Flags&wholeMessage != wholeMessage {
		return out
	}
	reply := h.respond(p.local.Port(), p.peer.Addr(), message)
	if len(reply) == 0 {
		return out
	}
	out = append(out, dataChunk(a.tsn, a.sent, reply))
	a.tsn++
	a.sent++
	return out
}

// alive returns an association unless there is none or its time is up.
func (h *Host) alive(now time.Time, p pair) *association {
	if a := h.associations[p]; a != nil && now.Before(a.until) {
		return a
	}
	return nil
}

// sweepInterval separates two searches for associations whose time is up, so that a
// flood costs one a second.
const sweepInterval = time.Second

// full tells whether there is no room for one more association.
func (h *Host) full(now time.Time) bool {
	if len(h.associations) < maxAssociations {
		return false
	}
	if now.Sub(h.swept) >= sweepInterval {
		h.swept = now
		maps.DeleteFunc(h.associations, func(_ pair, a *association) bool { return !now.Before(a.until) })
	}
	return len(h.associations) >= maxAssociations
}

// cookie is what a host has to remember of an INIT and its answer to it. The peer does
// so for it.
type cookie struct {
	issued       time.Time
	tag, peerTag uint32
	tsn, peerTSN uint32
}

const cookieFields = 24

// seal encodes a cookie and authenticates it, together with the addresses and ports
// that it is good for.
func (h *Host) seal(c cookie, p pair) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(c.issued.UnixNano()))
	for _, v := range []uint32{c.tag, c.peerTag, c.tsn, c.peerTSN} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return append(b, h.mac(b, p)...)
}

func (h *Host) unseal(b []byte, p pair) (cookie, bool) {
	if len(b) != cookieFields+sha256.Size || !hmac.Equal(b[cookieFields:], h.mac(b[:cookieFields], p)) {
		return cookie{}, false
	}
	u32 := binary.BigEndian.Uint32
	return cookie{
		issued: time.Unix(0, int64(binary.BigEndian.Uint64(b))),
		tag:    u32(b[8:]), peerTag: u32(b[12:]), tsn: u32(b[16:]), peerTSN: u32(b[20:]),
	}, true
}

func (h *Host) mac(b []byte, p pair) []byte {
	m := hmac.New(sha256.New, h.key[:])
	m.Write(b)
	for _, ap := range []netip.AddrPort{p.peer, p.local} {
		addr := ap.Addr().As16()
		m.Write(addr[:])
		m.Write(binary.BigEndian.AppendUint16(nil, ap.Port()))
	}
	return m.Sum(nil)
}
