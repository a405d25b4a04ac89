package sctp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The vectors of RFC 3720, appendix B.4, which uses the same CRC32c and sends it in the
// same order.
func TestChecksumVectors(t *testing.T) {
	count := func(first, step byte) []byte {
		b := make([]byte, 32)
		for i := range b {
			b[i] = first + byte(i)*step
		}
		return b
	}
	cases := map[string]struct {
		data []byte
		want string
	}{
		"32 bytes of zeroes":  {count(0, 0), "aa36918a"},
		"32 bytes of ones":    {count(0xff, 0), "43aba862"},
		"32 bytes ascending":  {count(0, 1), "4e79dd46"},
		"32 bytes descending": {count(31, 0xff), "5cdb3f11"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := hex.EncodeToString(binary.LittleEndian.AppendUint32(nil, crc32.Checksum(tc.data, castagnoli))); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
	// In a packet, the field counts as zeroes, whatever is there.
	zeroes := count(0, 0)
	if got := hex.EncodeToString(binary.LittleEndian.AppendUint32(nil, checksum(zeroes))); got != "aa36918a" {
		t.Errorf("a packet of zeroes: got %s", got)
	}
	filled := count(0, 0)
	copy(filled[8:], "abcd")
	if checksum(filled) != checksum(zeroes) {
		t.Error("the checksum depends on what is in its own field")
	}
}

// An INIT as it has to look on the wire, field by field (section 3.3.2).
func TestInitOnTheWire(t *testing.T) {
	c := NewClient(0x9c40, 0x2328)
	c.tag, c.tsn = 0x01020304, 0x0a0b0c0d
	want := "9c40" + "2328" + "00000000" + "CHECKSUM" + // ports, tag 0
		"01" + "00" + "0014" + // INIT, no flags, 20 bytes
		"01020304" + "00004000" + "0001" + "0001" + "0a0b0c0d"
	got := hex.EncodeToString(c.Init())
	if want = strings.Replace(want, "CHECKSUM", got[16:24], 1); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestParseRefuses(t *testing.T) {
	h := Header{Source: 1, Destination: 2, Tag: 3}
	change := func(b []byte, at int, v byte) []byte {
		b[at] = v
		return b
	}
	summed := func(b []byte) []byte {
		binary.LittleEndian.PutUint32(b[8:], checksum(b))
		return b
	}
	many := make([]Chunk, maxChunks+1)
	for i := range many {
		many[i].Type = CookieAck
	}
	cases := map[string]struct {
		packet []byte
		want   error
	}{
		"nothing":                           {nil, errShort},
		"a header alone":                    {Packet(h), errShort},
		"a wrong checksum":                  {change(Packet(h, Chunk{Type: CookieAck}), 0, 9), errChecksum},
		"no source port":                    {Packet(Header{Destination: 2}, Chunk{Type: CookieAck}), errPort},
		"no destination port":               {Packet(Header{Source: 2}, Chunk{Type: CookieAck}), errPort},
		"a chunk that is longer than it is": {summed(change(Packet(h, Chunk{Type: CookieAck}), 15, 9)), errShort},
		"a chunk without a length":          {summed(change(Packet(h, Chunk{Type: CookieAck}), 15, 0)), errShort},
		"half of a chunk":                   {summed(append(Packet(h, Chunk{Type: CookieAck}), 0, 0)), errShort},
		"INIT with company":                 {Packet(h, Chunk{Type: CookieAck}, Chunk{Type: Init}), errBundled},
		"too many chunks":                   {Packet(h, many...), errLong},
		"a packet of no exchange of ours":   {Packet(h, Chunk{Type: Data, Value: make([]byte, maxPacketBytes)}), errLong},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if _, chunks, err := Parse(tc.packet); !errors.Is(err, tc.want) || chunks != nil {
				t.Errorf("got %v and error %v, want %v", chunks, err, tc.want)
			}
		})
	}
}

// The two highest bits of an unknown type say what to do (section 3.2).
func TestParseUnknownChunks(t *testing.T) {
	cases := map[string]struct {
		unknown ChunkType
		want    []ChunkType
	}{
		"stop":            {0x3f, []ChunkType{Sack}},
		"stop and report": {0x7f, []ChunkType{Sack}},
		"skip":            {0xbf, []ChunkType{Sack, Data}},
		"skip and report": {0xff, []ChunkType{Sack, Data}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, chunks, err := Parse(Packet(Header{Source: 1, Destination: 2}, Chunk{Type: Sack}, Chunk{Type: tc.unknown, Value: []byte("x")}, Chunk{Type: Data}))
			var got []ChunkType
			for _, c := range chunks {
				got = append(got, c.Type)
			}
			if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
				t.Errorf("error %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestParseInitiationRefuses(t *testing.T) {
	good := initiation{tag: 1, tsn: 2, cookie: []byte("cookie")}.chunk(InitAck).Value
	if i, ok := parseInitiation(append(bytes.Clone(good), 0, 0)); !ok || string(i.cookie) != "cookie" {
		t.Fatalf("got %+v, %v for a good one", i, ok)
	}
	cases := map[string]func([]byte) []byte{
		"a short body":                          func(b []byte) []byte { return b[:15] },
		"tag 0":                                 func(b []byte) []byte { b[3] = 0; return b },
		"no outbound stream":                    func(b []byte) []byte { b[9] = 0; return b },
		"no inbound stream":                     func(b []byte) []byte { b[11] = 0; return b },
		"a parameter without a length":          func(b []byte) []byte { b[19] = 0; return b },
		"a parameter that is longer than it is": func(b []byte) []byte { b[19] = 99; return b },
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			if i, ok := parseInitiation(change(bytes.Clone(good))); ok {
				t.Errorf("got %+v, want none", i)
			}
		})
	}
}

// What Parse accepts can be written again, and means the same.
func FuzzParse(f *testing.F) {
	f.Add(NewClient(1, 2).Init())
	f.Add(Packet(Header{Source: 1, Destination: 2, Tag: 3}, Chunk{Type: CookieEcho, Value: []byte("abc")}, dataChunk(1, 0, []byte("hello"))))
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) >= HeaderBytes {
			// Otherwise the checksum would hide everything behind it.
			binary.LittleEndian.PutUint32(packet[8:], checksum(packet))
		}
		h, chunks, err := Parse(packet)
		if err != nil || len(chunks) == 0 {
			return
		}
		again, got, err := Parse(Packet(h, chunks...))
		if diff := cmp.Diff(chunks, got); err != nil || again != h || diff != "" {
			t.Errorf("error %v, header %+v, want %+v (-want +got):\n%s", err, again, h, diff)
		}
	})
}
