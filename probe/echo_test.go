//go:build linux

package probe

import (
	"net/netip"
	"strings"
	"testing"
)

func TestEchoRoundTrip(t *testing.T) {
	for _, addr := range []string{"10.0.0.1", "::1", "fe80::1%eth0", "::ffff:10.0.0.1", "2001:db8:1111:2222:3333:4444:5555:6666"} {
		for _, nonce := range []string{"a", strings.Repeat("Z", maxNonce), "A-b_c.9"} {
			from := netip.MustParseAddr(addr)
			q := request(nonce)
			got, ok := parseRequest(q)
			if !ok || got != nonce {
				t.Errorf("request for %q was read as %q, %v", nonce, got, ok)
			}
			r := reply(nonce, from)
			seen, ok := parseReply(r, nonce)
			if want := from.Unmap().WithZone(""); !ok || seen != want {
				t.Errorf("reply to %q from %s was read as %v, %v", nonce, addr, seen, ok)
			}
			if len(r) > len(q) {
				t.Errorf("reply of %d bytes is longer than its request of %d: an amplifier", len(r), len(q))
			}
			if len(q) > maxLine {
				t.Errorf("request of %d bytes is longer than %d", len(q), maxLine)
			}
		}
	}
}

func TestParseRequestRefuses(t *testing.T) {
	cases := map[string]string{
		"nothing":                      "",
		"another protocol":             "GET / HTTP/1.1\r\n",
		"another version":              "PATHPROOF/2 abc\n",
		"no nonce":                     "PATHPROOF/1 \n",
		"a nonce of spaces":            "PATHPROOF/1      \n",
		"a line that has not ended":    "PATHPROOF/1 abc",
		"a reply":                      "PATHPROOF/1 abc 10.0.0.1\n",
		"a nonce with a line break":    "PATHPROOF/1 a\nb\n",
		"a nonce that is no plain":     "PATHPROOF/1 a\x00b\n",
		"a nonce above the bound":      "PATHPROOF/1 " + strings.Repeat("a", maxNonce+1) + "\n",
		"something before the request": " PATHPROOF/1 abc\n",
	}
	for name, text := range cases {
		t.Run(name, func(t *testing.T) {
			if nonce, ok := parseRequest([]byte(text)); ok {
				t.Errorf("%q was read as a request for %q", text, nonce)
			}
		})
	}
}

func TestParseReplyRefuses(t *testing.T) {
	cases := map[string]string{
		"another nonce":           "PATHPROOF/1 abd 10.0.0.1\n",
		"a longer nonce":          "PATHPROOF/1 abcd 10.0.0.1\n",
		"no address":              "PATHPROOF/1 abc \n",
		"the request sent back":   string(request("abc")),
		"an address and a port":   "PATHPROOF/1 abc 10.0.0.1:80\n",
		"a line without its end":  "PATHPROOF/1 abc 10.0.0.1",
		"an answer with trailers": "PATHPROOF/1 abc 10.0.0.1\nx\n",
	}
	for name, text := range cases {
		t.Run(name, func(t *testing.T) {
			if seen, ok := parseReply([]byte(text), "abc"); ok {
				t.Errorf("%q was read as an echo from %v", text, seen)
			}
		})
	}
}

// No reply is a request: otherwise one forged datagram would make two responders
// talk to each other until one of them is stopped.
func FuzzReplyIsNoRequest(f *testing.F) {
	f.Add("abc", []byte{10, 0, 0, 1})
	f.Fuzz(func(t *testing.T, nonce string, raw []byte) {
		addr, ok := netip.AddrFromSlice(raw)
		if !ok || !validNonce(nonce) {
			return
		}
		if again, ok := parseRequest(reply(nonce, addr)); ok {
			t.Errorf("reply to %q is a request for %q", nonce, again)
		}
	})
}
