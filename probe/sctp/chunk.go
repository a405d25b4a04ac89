package sctp

import (
	"encoding/binary"
)

// Window is the receive window that both sides announce: plenty for a message of a
// few dozen bytes, and not below the least that is allowed (1500, section 5.1).
const window = 1 << 14

// streams is the number of streams in each direction. Everything is sent on the first.
const streams = 1

// stateCookie is the type of the parameter that INIT ACK carries the cookie in
// (section 3.3.3.1).
const stateCookie = 7

// initiation is the body that INIT and INIT ACK have in common (section 3.3.2).
type initiation struct {
	// tag is what the peer has to put into the headers of its packets. It is never 0.
	tag uint32
	tsn uint32
	// cookie is empty in INIT.
	cookie []byte
}

func (i initiation) chunk(t ChunkType) Chunk {
	v := binary.BigEndian.AppendUint32(nil, i.tag)
	v = binary.BigEndian.AppendUint32(v, window)
	v = binary.BigEndian.AppendUint16(v, streams)
	v = binary.BigEndian.AppendUint16(v, streams)
	v = binary.BigEndian.AppendUint32(v, i.tsn)
	if len(i.cookie) > 0 {
		v = binary.BigEndian.AppendUint16(v, stateCookie)
		v = binary.BigEndian.AppendUint16(v, uint16(4+len(i.cookie)))
		v = append(v, i.cookie...)
	}
	return Chunk{Type: t, Value: v}
}

// parseInitiation decodes the body of INIT or INIT ACK. It refuses what section 3.3.2
// calls an error: a tag of 0, no stream in a direction. Other parameters than the
// cookie are passed over.
func parseInitiation(v []byte) (initiation, bool) {
	if len(v) < 16 {
		return initiation{}, false
	}
	i := initiation{tag: binary.BigEndian.Uint32(v), tsn: binary.BigEndian.Uint32(v[12:])}
	if i.tag == 0 || binary.BigEndian.Uint16(v[8:]) == 0 || binary.BigEndian.Uint16(v[10:]) == 0 {
		return initiation{}, false
	}
	// Every step takes four bytes at least off a packet of maxPacketBytes.
	for v = v[16:]; len(v) >= 4; {
		n := int(binary.BigEndian.Uint16(v[2:]))
		if n < 4 || n > len(v) {
			return initiation{}, false
		}
		if binary.BigEndian.Uint16(v) == stateCookie && i.cookie == nil {
			i.cookie = v[4:n]
		}
		v = v[min((n+3)&^3, len(v)):]
	}
	return i, true
}

// The flags of DATA (section 3.3.1).
const (
	lastFragment  = 1
	firstFragment = 2
	wholeMessage  = firstFragment | lastFragment
)

// dataChunk is a whole message on stream 0, the n-th there.
func dataChunk(tsn uint32, n uint16, message []byte) Chunk {
	v := binary.BigEndian.AppendUint32(nil, tsn)
	v = binary.BigEndian.AppendUint16(v, 0)
	v = binary.BigEndian.AppendUint16(v, n)
	v = binary.BigEndian.AppendUint32(v, 0) // payload protocol: unspecified
	return Chunk{Type: Data, Flags: wholeMessage, Value: append(v, message...)}
}

// receiver is what one side knows of the data of the other one.
type receiver struct {
	// cumulative is the last TSN up to which all data has arrived.
	cumulative uint32
}

// take returns the user data of a DATA chunk if it is the next in order. Data that
// arrived before or ahead of its turn is dropped; the acknowledgement tells its sender.
func (r *receiver) take(c Chunk) (data []byte, ok bool) {
	const fields = 12
	if len(c.Value) <= fields || binary.BigEndian.Uint32(c.Value) != r.cumulative+1 {
		return nil, false
	}
	r.cumulative++
	return c.Value[fields:], true
}

// sack acknowledges what has arrived: no gaps, no duplicates (section 3.3.4).
func (r *receiver) sack() Chunk {
	v := binary.BigEndian.AppendUint32(nil, r.cumulative)
	v = binary.BigEndian.AppendUint32(v, window)
	return Chunk{Type: Sack, Value: append(v, 0, 0, 0, 0)}
}

// shutdown says that nothing more will be sent (section 3.3.8).
func (r *receiver) shutdown() Chunk {
	return Chunk{Type: Shutdown, Value: binary.BigEndian.AppendUint32(nil, r.cumulative)}
}
