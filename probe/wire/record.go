package wire

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/pathproof/pathproof/flow"
)

// A responder notes what arrives. When a run is over, the operator asks it, in an
// annotation, about the checks that got no answer, and the record says which of their
// requests had arrived: then the way there is open, and it is the reply that was lost.
//
// RecordKeyPrefix and the UID of an expectation are the key of that annotation. The
// downward API projects all annotations into the file AnnotationsPath. A responder of one
// run answers with its termination message and ends; one that stays logs a line.
const RecordKeyPrefix = "record.pathproof.dev/"

// RecordRequest asks a responder what it has noted.
type RecordRequest struct {
	Version int `json:"v"`
	// ID names the request; the record repeats it. A responder answers an ID once.
	ID string `json:"id"`
	// Checks are those to tell of: positions in the checks of a plan, by its ID.
	Checks map[string][]int `json:"c,omitempty"`
}

// Record is what a responder has noted, as far as it was asked for.
type Record struct {
	Version int    `json:"v"`
	ID      string `json:"id"`
	// Requests are those of the checks asked for. A check that is not listed had none that
	// arrived.
	Requests []Requests `json:"r,omitempty"`
	// Handshakes are those that have begun since the owner of the request last asked, and
	// were never completed.
	Handshakes []Handshakes `json:"h,omitempty"`
	// Unseen are the protocols of which more may have arrived than was noted, and why.
	Unseen map[flow.Protocol]string `json:"u,omitempty"`
	// Trimmed says that requests or handshakes were left out so that the record fits.
	Trimmed bool `json:"x,omitempty"`
}

// Requests are what arrived of one check in the last round of which something did.
type Requests struct {
	Plan  string `json:"p"`
	Check int    `json:"c"`
	// Round is the number of the round, from 1; Count that of its attempts that arrived.
	Round int `json:"n"`
	Count int `json:"k"`
}

// Handshakes are what one address has begun with a port, from a source port each. They say
// nothing of the check that they were made for.
type Handshakes struct {
	Protocol flow.Protocol `json:"t"`
	Port     uint16        `json:"p"`
	From     netip.Addr    `json:"a"`
	Count    int           `json:"k"`
}

// Nonce is what the attempts of a check carry to a responder of ours, followed by their
// round.
func Nonce(plan string, check int) string { return plan + "." + strconv.Itoa(check) }

// RoundNonce is the nonce of an attempt.
func RoundNonce(nonce string, round int) string { return nonce + "." + strconv.Itoa(round) }

// ParseRoundNonce tells which check and which round a nonce is of. ok is false for any
// other, such as that of a watch.
func ParseRoundNonce(nonce string) (plan string, check, round int, ok bool) {
	parts := strings.Split(nonce, ".")
	if len(parts) != 3 || parts[0] == "" {
		return "", 0, 0, false
	}
	check, err1 := strconv.Atoi(parts[1])
	round, err2 := strconv.Atoi(parts[2])
	return parts[0], check, round, err1 == nil && err2 == nil && check >= 0 && check < MaxChecks && round >= 1
}

// EncodeRecordRequest encodes a request for its annotation.
func EncodeRecordRequest(r RecordRequest) (string, error) { return encode(r) }

// DecodeRecordRequests decodes the requests in annotations that the downward API has
// projected, by owner. One that cannot be decoded is left out, and told of in the error.
func DecodeRecordRequests(annotations string) (map[string]RecordRequest, error) {
	return decodeProjected[RecordRequest](annotations, RecordKeyPrefix, "record request")
}

// EncodeRecord encodes a record into at most MaxReportBytes. What does not fit is left out
// and told of in Trimmed.
func EncodeRecord(r Record) (string, error) {
	for {
		s, err := encode(r)
		if err != nil || len(s) <= MaxReportBytes {
			return s, err
		}
		if len(r.Requests)+len(r.Handshakes) == 0 {
			return "", fmt.Errorf("a record without entries does not fit into %d bytes", MaxReportBytes)
		}
		r.Requests, r.Handshakes = r.Requests[:len(r.Requests)/2], r.Handshakes[:len(r.Handshakes)/2]
		r.Trimmed = true
	}
}

// DecodeRecord decodes a record. A text that is no encoded message gives ErrNotEncoded.
func DecodeRecord(s string) (Record, error) {
	var r Record
	if err := decode(s, &r); err != nil {
		return Record{}, fmt.Errorf("decoding record: %w", err)
	}
	if r.Version != Version {
		return Record{}, fmt.Errorf("record version %d is not understood, want %d: use operator and probe images of the same release", r.Version, Version)
	}
	return r, nil
}
