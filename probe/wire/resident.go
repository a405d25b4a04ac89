package wire

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pathproof/pathproof/flow"
)

// A resident probe pod runs the plans of several expectations, again and again. Each
// plan comes in an annotation of its own, PlanKeyPrefix and the UID of its owner; the
// downward API projects all annotations into the file AnnotationsPath. Reports and flips
// leave as lines of the pod's log.
const (
	PlanKeyPrefix   = "plan.pathproof.dev/"
	AnnotationsPath = "/etc/pathproof/annotations"
)

// Bounds of Plan.WatchMilliseconds.
const (
	MinWatchMilliseconds = 20
	MaxWatchMilliseconds = 10_000
)

// MaxEverySeconds is the bound of Plan.EverySeconds: a day.
const MaxEverySeconds = 86_400

// Flip is a moment at which a watched path opened or closed.
type Flip struct {
	Version int `json:"v"`
	// Owner is the UID in the key of the plan.
	Owner string `json:"w"`
	// Check is the Key of the check.
	Check string `json:"c"`
	// Open says what the path is from then on.
	Open bool `json:"o,omitempty"`
	// AtMicroseconds is when the path had flipped at the latest, since 1970, by the clock of
	// the pod's node: the first attempt without an answer had been sent, or the first answer
	// had arrived.
	AtMicroseconds int64 `json:"t"`
	// GapMicroseconds is the time from the start of the last attempt before the flip until
	// then: the flip may have been that much earlier.
	GapMicroseconds int64 `json:"g,omitempty"`
}

// Message is one line of a resident pod's log. Exactly one field is set.
type Message struct {
	Report *Report
	Flip   *Flip
	Record *Record
	// Taken is the ID of a plan that the probe has read, and begins to run.
	Taken string
}

// The words that begin a line of a resident pod's log.
const (
	reportWord = "report "
	flipWord   = "flip "
	recordWord = "record "
	takenWord  = "taken "
)

// EncodeMessage encodes a message as one line, without its end. A report is trimmed as
// EncodeReport does, a record as EncodeRecord does.
func EncodeMessage(m Message) (string, error) {
	switch {
	case m.Flip != nil:
		text, err := encode(m.Flip)
		return flipWord + text, err
	case m.Record != nil:
		text, err := EncodeRecord(*m.Record)
		return recordWord + text, err
	case m.Taken != "":
		// Quoted, so that it stays one line whatever it is.
		return takenWord + strconv.Quote(m.Taken), nil
	}
	text, err := EncodeReport(*m.Report)
	return reportWord + text, err
}

// DecodeMessage decodes a line of a resident pod's log. A line that is none of ours gives
// ErrNotEncoded: the log holds words for people, too.
func DecodeMessage(line string) (Message, error) {
	if text, ok := strings.CutPrefix(line, reportWord); ok {
		report, err := DecodeReport(text)
		return Message{Report: &report}, err
	}
	if text, ok := strings.CutPrefix(line, recordWord); ok {
		record, err := DecodeRecord(text)
		return Message{Record: &record}, err
	}
	if quoted, ok := strings.CutPrefix(line, takenWord); ok {
		id, err := strconv.Unquote(quoted)
		if err != nil || id == "" {
			return Message{}, ErrNotEncoded
		}
		return Message{Taken: id}, nil
	}
	text, ok := strings.CutPrefix(line, flipWord)
	if !ok {
		return Message{}, ErrNotEncoded
	}
	var f Flip
	if err := decode(text, &f); err != nil {
		return Message{}, fmt.Errorf("decoding flip: %w", err)
	}
	if f.Version != Version {
		return Message{}, fmt.Errorf("flip of version %d is not understood, want %d: use operator and probe images of the same release", f.Version, Version)
	}
	return Message{Flip: &f}, nil
}

// Key identifies what a check asks for, over plans. Checks that differ in their nonce or
// in their goal have the same.
func (c Check) Key() string {
	return flow.ID(string(c.Transport), c.Addr.String(), c.Host, strconv.Itoa(c.Nameserver), strconv.Itoa(int(c.Port)),
		c.QueryName, c.QueryType, strconv.FormatBool(c.Search), fmt.Sprint(c.Answer))
}

// DecodePlans decodes the plans in annotations that the downward API has projected, by
// owner. One that cannot be decoded is left out, and told of in the error. They are not
// validated: what runs a plan reports what is wrong with it.
func DecodePlans(annotations string) (map[string]Plan, error) {
	return decodeProjected[Plan](annotations, PlanKeyPrefix, "plan")
}

// decodeProjected decodes the messages in annotations whose keys have a prefix, by the
// rest of their keys. what names them in the error.
func decodeProjected[T any](annotations, prefix, what string) (map[string]T, error) {
	out := map[string]T{}
	var errs []error
	for line := range strings.Lines(annotations) {
		owner, quoted, ok := strings.Cut(strings.TrimPrefix(strings.TrimSuffix(line, "\n"), prefix), "=")
		if !ok || !strings.HasPrefix(line, prefix) {
			continue
		}
		var message T
		text, err := strconv.Unquote(quoted)
		if err == nil {
			err = decode(text, &message)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("decoding %s of %s: %w", what, owner, err))
			continue
		}
		out[owner] = message
	}
	return out, errors.Join(errs...)
}
