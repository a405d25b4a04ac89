// Package sctp speaks as much of SCTP (RFC 9260) as a probe needs, on kernels that
// do not: one side sets up an association, sends one message, reads the answer and
// shuts down; the other one answers. Both are machines that take packets and give
// packets. Sockets, addresses and clocks are the caller's.
//
// Left out is what an exchange of two short messages does without: further streams
// and addresses, fragmentation, congestion control, and retransmission. A packet that
// is lost stays lost, so that silence is reported as silence; whoever asks makes
// another attempt.
package sctp

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// Protocol is the number of SCTP in IP headers.
const Protocol = 132

// HeaderBytes is the size of the common header (section 3.1).
const HeaderBytes = 12

// Limits of a packet that is read. No association of ours needs more: what exceeds
// them is nobody's answer to us.
const (
	maxPacketBytes = 1 << 11
	maxChunks      = 32
)

// ChunkType is the type of a chunk.
type ChunkType uint8

// The chunk types of section 3.2.
const (
	Data             ChunkType = 0
	Init             ChunkType = 1
	InitAck          ChunkType = 2
	Sack             ChunkType = 3
	Heartbeat        ChunkType = 4
	HeartbeatAck     ChunkType = 5
	Abort            ChunkType = 6
	Shutdown         ChunkType = 7
	ShutdownAck      ChunkType = 8
	Error            ChunkType = 9
	CookieEcho       ChunkType = 10
	CookieAck        ChunkType = 11
	ShutdownComplete ChunkType = 14
)

// tagReflected is the T bit of ABORT and SHUTDOWN COMPLETE: the sender had no
// association, and the tag is the receiver's peer's (section 8.5.1).
const tagReflected = 1

// Header is the common header without its checksum.
type Header struct {
	Source, Destination uint16
	// Tag is the verification tag: the one that the receiver chose.
	Tag uint32
}

// reply is the header of a packet the other way.
func (h Header) reply(tag uint32) Header {
	return Header{Source: h.Destination, Destination: h.Source, Tag: tag}
}

// Chunk is one chunk of a packet.
type Chunk struct {
	Type  ChunkType
	Flags uint8
	Value []byte
}

// What is wrong with a packet.
var (
	errShort    = errors.New("packet is too short for its header or a chunk")
	errLong     = errors.New("packet is longer than any of an exchange of ours")
	errChecksum = errors.New("checksum is wrong")
	errPort     = errors.New("port 0 is no port")
	errBundled  = errors.New("chunk must be alone in its packet")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum computes the CRC32c of a packet, with the field itself taken as zero. The
// CRC register is transmitted with its least significant byte first (appendix A),
// unlike every other field.
func checksum(packet []byte) uint32 {
	sum := crc32.Update(0, castagnoli, packet[:8])
	sum = crc32.Update(sum, castagnoli, []byte{0, 0, 0, 0})
	return crc32.Update(sum, castagnoli, packet[HeaderBytes:])
}

// Packet encodes a packet.
func Packet(h Header, chunks ...Chunk) []byte {
	b := binary.BigEndian.AppendUint16(nil, h.Source)
	b = binary.BigEndian.AppendUint16(b, h.Destination)
	b = binary.BigEndian.AppendUint32(b, h.Tag)
	b = append(b, 0, 0, 0, 0)
	for _, c := range chunks {
		b = append(b, byte(c.Type), c.Flags)
		b = binary.BigEndian.AppendUint16(b, uint16(4+len(c.Value)))
		b = pad(append(b, c.Value...))
	}
	binary.LittleEndian.PutUint32(b[8:], checksum(b))
	return b
}

// pad appends what makes a multiple of four bytes. Chunks and parameters are padded,
// their lengths are not (section 3.2).
func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// Parse decodes a packet whose checksum is right. The chunks share its memory. A chunk
// of an unknown type ends the packet or is skipped, as its two highest bits say; none
// is reported to its sender (section 3.2).
func Parse(packet []byte) (Header, []Chunk, error) {
	switch {
	case len(packet) < HeaderBytes+4:
		return Header{}, nil, errShort
	case len(packet) > maxPacketBytes:
		return Header{}, nil, errLong
	case checksum(packet) != binary.LittleEndian.Uint32(packet[8:]):
		return Header{}, nil, errChecksum
	}
	h := ports(packet)
	if h.Source == 0 || h.Destination == 0 {
		return Header{}, nil, errPort
	}
	chunks, err := parseChunks(packet[HeaderBytes:])
	if err != nil {
		return Header{}, nil, err
	}
	for _, c := range chunks {
		// "The receiver MUST silently discard" such a packet (section 8.5.1).
		if alone := c.Type == Init || c.Type == InitAck || c.Type == ShutdownComplete; alone && len(chunks) > 1 {
			return Header{}, nil, errBundled
		}
	}
	return h, chunks, nil
}

// Quoted decodes the header of the packet that an ICMP error quotes. Of it, no more
// than these eight bytes have to be there (RFC 792), so that nothing is known of its
// checksum.
func Quoted(packet []byte) (Header, bool) {
	if len(packet) < 8 {
		return Header{}, false
	}
	return ports(packet), true
}

func ports(packet []byte) Header {
	return Header{
		Source:      binary.BigEndian.Uint16(packet),
		Destination: binary.BigEndian.Uint16(packet[2:]),
		Tag:         binary.BigEndian.Uint32(packet[4:]),
	}
}

func parseChunks(b []byte) ([]Chunk, error) {
	var chunks []Chunk
	for len(b) > 0 {
		c, rest, err := cut(b)
		switch {
		case err != nil:
			return nil, err
		case len(chunks) == maxChunks:
			return nil, errLong
		case known(c.Type):
			chunks = append(chunks, c)
		case c.Type&0x80 == 0:
			return chunks, nil
		}
		b = rest
	}
	return chunks, nil
}

// cut takes the first chunk off.
func cut(b []byte) (c Chunk, rest []byte, err error) {
	if len(b) < 4 {
		return Chunk{}, nil, errShort
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n < 4 || n > len(b) {
		return Chunk{}, nil, errShort
	}
	// The padding of the last chunk may be missing in what careless senders send.
	padded := min((n+3)&^3, len(b))
	return Chunk{Type: ChunkType(b[0]), Flags: b[1], Value: b[4:n]}, b[padded:], nil
}

func known(t ChunkType) bool {
	switch t {
	case Data, Init, InitAck, Sack, Heartbeat, HeartbeatAck, Abort, Shutdown, ShutdownAck, Error, CookieEcho, CookieAck, ShutdownComplete:
		return true
	}
	return false
}
