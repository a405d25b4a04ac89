//go:build linux

package probe

import (
	"bytes"
	"net/netip"
	"strings"
)

// The echo protocol proves which process answered. One line each way, over any
// transport:
//
//	request: PATHPROOF/1 NONCE <spaces> LF
//	reply:   PATHPROOF/1 NONCE ADDRESS LF
//
// ADDRESS is the source address that the responder saw. The request is padded
// so that it is never shorter than its reply: over UDP, where a source address
// can be forged, a responder is then no amplifier. A reply is no valid request,
// so that two responders cannot be made to answer each other for ever.
const (
	magic = "PATHPROOF/1 "
	// maxNonce bounds the nonce; the operator's are shorter.
	maxNonce = 64
	// maxAddrText is the longest textual address (RFC 4291, section 2.2, with an
	// embedded IPv4 address: INET6_ADDRSTRLEN without the final NUL).
	maxAddrText = 45
	// maxLine bounds both lines.
	maxLine = len(magic) + maxNonce + 1 + maxAddrText + 1
)

// genericNonce is sent when a check has none: harmless, and it tells whoever
// finds it in a log where it came from.
const genericNonce = "probe"

// request returns the line that asks a responder to echo the nonce.
func request(nonce string) []byte {
	if nonce == "" {
		nonce = genericNonce
	}
	return []byte(magic + nonce + strings.Repeat(" ", 1+maxAddrText) + "\n")
}

// parseRequest returns the nonce of a request.
func parseRequest(b []byte) (nonce string, ok bool) {
	line, ended := bytes.CutSuffix(b, []byte("\n"))
	rest, ours := bytes.CutPrefix(line, []byte(magic))
	nonce = string(bytes.TrimRight(rest, " "))
	return nonce, ended && ours && validNonce(nonce)
}

func validNonce(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return s != "" && len(s) <= maxNonce
}

// reply returns the line that echoes a nonce.
func reply(nonce string, from netip.Addr) []byte {
	return []byte(magic + nonce + " " + from.Unmap().WithZone("").String() + "\n")
}

// parseReply tells whether a line echoes the nonce, and which address its
// sender saw.
func parseReply(b []byte, nonce string) (seen netip.Addr, ok bool) {
	line, ended := strings.CutSuffix(string(b), "\n")
	text, ours := strings.CutPrefix(line, magic+nonce+" ")
	if !ended || !ours {
		return netip.Addr{}, false
	}
	seen, err := netip.ParseAddr(text)
	return seen, err == nil
}
