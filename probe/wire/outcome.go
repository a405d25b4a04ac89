package wire

import (
	"fmt"
)

// Outcome is the wire fact that one attempt ended with. Each attempt has
// exactly one.
type Outcome byte

// The outcomes. Their values are the letters of the compact encoding: never
// reuse one.
const (
	// Replied: our responder echoed the nonce. Open, both directions.
	Replied Outcome = 'R'
	// Connected: a TCP or SCTP handshake was completed, or a datagram came back,
	// from a peer that did not prove to be ours. For DNS: the resolver answered
	// with NOERROR and records.
	Connected Outcome = 'C'
	// Refused: a TCP RST or an SCTP ABORT ended the handshake.
	Refused Outcome = 'F'
	// Rejected: an ICMP or ICMPv6 error, or the local stack on behalf of one.
	Rejected Outcome = 'J'
	// TimedOut: silence until the timeout.
	TimedOut Outcome = 'T'
	// Delivered: the request reached the responder, but its reply did not come back. The
	// probe cannot know; the responder's Record does.
	Delivered Outcome = 'D'
	// NoRoute: the local stack has no route; no packet was sent.
	NoRoute Outcome = 'N'
	// AddressUnavailable: no local address or source port could be had; no packet
	// was sent.
	AddressUnavailable Outcome = 'A'
	// NameNotFound: NXDOMAIN, or NOERROR without a record of the type asked for.
	NameNotFound Outcome = 'X'
	// ServerFailure: the resolver answered SERVFAIL.
	ServerFailure Outcome = 'S'
	// DNSRefused: the resolver answered REFUSED, or any other error code.
	DNSRefused Outcome = 'Q'
	// DNSTimedOut: the resolver of a Host check did not answer, so that the target
	// was never tried. A DNS check that gets no answer is TimedOut.
	DNSTimedOut Outcome = 'O'
	// Truncated: the answer over UDP was truncated and the retry over TCP got no
	// answer.
	Truncated Outcome = 'U'
	// AnswerDiffers: the resolver answered with records, and they are not those that
	// the check asks for.
	AnswerDiffers Outcome = 'M'
	// Unanswered: the resolver completed a TCP handshake and gave no answer, or answered
	// with what cannot be read, or not all names of a search list. The path
	// is open.
	Unanswered Outcome = 'H'
	// Unsupported: the kernel has no such protocol (EPROTONOSUPPORT), and the probe may
	// not do without it.
	Unsupported Outcome = 'P'
	// ProbeError: the probe itself failed.
	ProbeError Outcome = 'E'
)

// String returns the name that is used in status and reports.
func (o Outcome) String() string {
	switch o {
	case Replied:
		return "Replied"
	case Connected:
		return "Connected"
	case Refused:
		return "Refused"
	case Rejected:
		return "Rejected"
	case TimedOut:
		return "TimedOut"
	case Delivered:
		return "Delivered"
	case NoRoute:
		return "NoRoute"
	case AddressUnavailable:
		return "AddressUnavailable"
	case NameNotFound:
		return "NameNotFound"
	case ServerFailure:
		return "ServerFailure"
	case DNSRefused:
		return "DNSRefused"
	case DNSTimedOut:
		return "DNSTimedOut"
	case Truncated:
		return "Truncated"
	case AnswerDiffers:
		return "AnswerDiffers"
	case Unanswered:
		return "Unanswered"
	case Unsupported:
		return "Unsupported"
	case ProbeError:
		return "ProbeError"
	}
	return fmt.Sprintf("Outcome(%q)", byte(o))
}

// Answered tells whether the target itself, or something that speaks for it,
// answered at the level the check asked for.
func (o Outcome) Answered() bool {
	switch o {
	case Replied, Connected, NameNotFound, ServerFailure, DNSRefused, Truncated, AnswerDiffers, Unanswered:
		return true
	case Delivered, Refused, Rejected, TimedOut, NoRoute, AddressUnavailable, DNSTimedOut, Unsupported, ProbeError:
		return false
	}
	return false
}

// OfName tells whether the outcome is about a name: of a check by host, it says that the
// target was never tried.
func (o Outcome) OfName() bool {
	switch o {
	case NameNotFound, ServerFailure, DNSRefused, DNSTimedOut, Truncated, AnswerDiffers, Unanswered:
		return true
	case Replied, Connected, Refused, Rejected, TimedOut, Delivered, NoRoute, AddressUnavailable, Unsupported, ProbeError:
		return false
	}
	return false
}

// AnsweredOver tells whether the target of a check over a transport answered: that of
// one by host did not if its name was all that was asked for.
func (o Outcome) AnsweredOver(t Transport) bool { return o.Answered() && (t.IsDNS() || !o.OfName()) }

// Closed tells whether the outcome is one that a policy can cause: silence or a
// refusal by a filter. A refusal is ambiguous (a filter may send RST, too) and
// counts as closed here; verdict decides with evidence.
func (o Outcome) Closed() bool {
	switch o {
	case Refused, Rejected, TimedOut, DNSTimedOut:
		return true
	case Replied, Connected, Delivered, NameNotFound, ServerFailure, DNSRefused, Truncated, AnswerDiffers, Unanswered,
		NoRoute, AddressUnavailable, Unsupported, ProbeError:
		return false
	}
	return false
}

// Outcomes are the outcomes of the attempts of one round. It is encoded as a
// string of one letter each.
type Outcomes []Outcome

// All tells whether there is at least one outcome and the predicate holds for all.
func (os Outcomes) All(is func(Outcome) bool) bool {
	for _, o := range os {
		if !is(o) {
			return false
		}
	}
	return len(os) > 0
}

// Any tells whether the predicate holds for at least one outcome.
func (os Outcomes) Any(is func(Outcome) bool) bool {
	for _, o := range os {
		if is(o) {
			return true
		}
	}
	return false
}

// MarshalText implements encoding.TextMarshaler.
func (os Outcomes) MarshalText() ([]byte, error) {
	b := make([]byte, len(os))
	for i, o := range os {
		b[i] = byte(o)
	}
	return b, nil
}

// UnmarshalText implements encoding.TextUnmarshaler. A letter that this version
// does not know is an error: an unknown outcome must not pass for a known one.
func (os *Outcomes) UnmarshalText(b []byte) error {
	out := make(Outcomes, len(b))
	for i, c := range b {
		switch o := Outcome(c); o {
		case Replied, Connected, Refused, Rejected, TimedOut, Delivered, NoRoute, AddressUnavailable,
			NameNotFound, ServerFailure, DNSRefused, DNSTimedOut, Truncated, AnswerDiffers, Unanswered, Unsupported, ProbeError:
			out[i] = o
		default:
			return fmt.Errorf("unknown outcome %q", c)
		}
	}
	*os = out
	return nil
}
