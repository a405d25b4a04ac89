package sctp

import (
	"crypto/rand"
	"encoding/binary"
)

// State says how far an association of a Client has come.
type State uint8

// The states of a Client. Those of section 4 that the active side passes through,
// and Refused.
const (
	// CookieWait: nothing has come back.
	CookieWait State = iota
	// CookieEchoed: the peer answered with INIT ACK.
	CookieEchoed
	// Established: the peer took the cookie.
	Established
	// Ended: the peer aborted the association, or it was shut down, after it was
	// established.
	Ended
	// Refused: the peer aborted instead of answering with INIT ACK.
	Refused
	// Dropped: the peer aborted after its INIT ACK.
	Dropped
)

// aborted returns the state that an ABORT of the peer leads to.
func (s State) aborted() State {
	switch s {
	case CookieWait:
		return Refused
	case CookieEchoed:
		return Dropped
	case Established, Ended, Refused, Dropped:
	}
	return max(s, Ended)
}

// maxReceived bounds what a Client keeps of what its peer says.
const maxReceived = 1 << 10

// Client is the side of an association that sets it up. It is not safe for concurrent
// use.
type Client struct {
	header Header
	state  State
	// tag is what the peer has to put into its headers; header.Tag is the peer's.
	tag      uint32
	tsn      uint32
	sent     uint16
	in       receiver
	received []byte
	// closing is set once Shutdown was called.
	closing bool
}

// NewClient returns a client between two ports. The tag is random: whoever does not
// see the packets cannot answer them (section 5.3.1).
func NewClient(source, destination uint16) *Client {
	return &Client{header: Header{Source: source, Destination: destination}, tag: randomTag(), tsn: random32()}
}

func random32() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint32(b[:])
}

// randomTag returns a tag, which must not be 0.
func randomTag() uint32 {
	for {
		if tag := random32(); tag != 0 {
			return tag
		}
	}
}

// State returns how far the association has come.
func (c *Client) State() State { return c.state }

// Received returns what the peer has sent, the first maxReceived bytes of it.
func (c *Client) Received() []byte { return c.received }

// Init returns the packet that asks for an association. Its header has no tag yet.
func (c *Client) Init() []byte {
	return Packet(c.header, initiation{tag: c.tag, tsn: c.tsn}.chunk(Init))
}

// Send returns the packet with a message. The association has to be established.
func (c *Client) Send(message []byte) []byte {
	data := dataChunk(c.tsn, c.sent, message)
	c.tsn++
	c.sent++
	return Packet(c.header, data)
}

// Shutdown returns the packet that ends an established association the way that no
// peer takes for a failure.
func (c *Client) Shutdown() []byte {
	c.closing = true
	return Packet(c.header, c.in.shutdown())
}

// Abort returns the packet that makes the peer forget the association.
func (c *Client) Abort() []byte {
	return Packet(c.header, Chunk{Type: Abort})
}

// Owns tells whether a packet of the client's has this header. It is how ICMP errors
// are told from those that other packets provoked: the tag of INIT is 0.
func (c *Client) Owns(h Header) bool {
	return h.Source == c.header.Source && h.Destination == c.header.Destination && (h.Tag == 0 || h.Tag == c.header.Tag)
}

// Receive takes a packet and returns the answer to it, or nil. Whatever is not of this
// association is ignored.
func (c *Client) Receive(packet []byte) []byte {
	h, chunks, err := Parse(packet)
	if err != nil || h.Source != c.header.Destination || h.Destination != c.header.Source {
		return nil
	}
	var out []Chunk
	for _, chunk := range chunks {
		if !c.over() && c.verified(h, chunk) {
			out = append(out, c.chunk(chunk)...)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return Packet(c.header, out...)
}

// over tells whether nothing more can come of the association.
func (c *Client) over() bool { return c.state >= Ended }

// verified checks the verification tag (section 8.5). One of the peer's own is good
// only where the T bit says so, and only once it is known.
func (c *Client) verified(h Header, chunk Chunk) bool {
	if chunk.Type == Abort || chunk.Type == ShutdownComplete {
		if chunk.Flags&tagReflected != 0 {
			return c.state != CookieWait && h.Tag == c.header.Tag
		}
	}
	return h.Tag == c.tag
}

// chunk takes one chunk and returns the answer to it.
func (c *Client) chunk(in Chunk) []Chunk {
	switch {
	case in.Type == Abort:
		c.state = c.state.aborted()
	case in.Type == InitAck && c.state == CookieWait:
		// An INIT ACK in any other state is discarded (section 5.2.3).
		i, ok := parseInitiation(in.Value)
		if !ok || len(i.cookie) == 0 {
			return nil
		}
		c.state, c.header.Tag = CookieEchoed, i.tag
		c.in.cumulative = i.tsn - 1
		return []Chunk{{Type: CookieEcho, Value: i.cookie}}
	case in.Type == CookieAck && c.state == CookieEchoed:
		c.state = Established
	case in.Type == Heartbeat && c.state != CookieWait:
		return []Chunk{{Type: HeartbeatAck, Value: in.Value}}
	case c.state == Established:
		return c.established(in)
	}
	return nil
}

func (c *Client) established(in Chunk) []Chunk {
	switch in.Type {
	case Data:
		if data, ok := c.in.take(in); ok {
			c.received = append(c.received, data[:min(len(data), maxReceived-len(c.received))]...)
		}
		if c.closing {
			// The peer may not have seen the SHUTDOWN yet (section 9.2).
			return []Chunk{c.in.shutdown()}
		}
		return []Chunk{c.in.sack()}
	case Shutdown:
		// The peer goes first, and waits for the answer to it.
		return []Chunk{{Type: ShutdownAck}}
	case ShutdownAck:
		if c.closing {
			c.state = Ended
			return []Chunk{{Type: ShutdownComplete}}
		}
	case ShutdownComplete:
		c.state = Ended
	case Init, InitAck, Sack, Heartbeat, HeartbeatAck, Abort, Error, CookieEcho, CookieAck:
		// Taken care of by chunk, or of no use to a side that sends one message.
	}
	return nil
}
