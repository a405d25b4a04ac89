package wire

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pathproof/pathproof/flow"
)

func TestRecordRoundTrip(t *testing.T) {
	want := Record{
		Version: Version, ID: "r", Requests: []Requests{{Plan: "p", Check: 3, Round: 2, Count: 1}},
		Handshakes: []Handshakes{{Protocol: flow.TCP, Port: 80, From: netip.MustParseAddr("fd00::1"), Count: 3}},
		Unseen:     map[flow.Protocol]string{flow.SCTP: "why"},
	}
	line, err := EncodeMessage(Message{Record: &want})
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeMessage(line)
	if err != nil || got.Record == nil {
		t.Fatalf("got %+v, %v", got, err)
	}
	if diff := cmp.Diff(want, *got.Record, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	other := want
	other.Version = 9
	if line, err = EncodeMessage(Message{Record: &other}); err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeMessage(line); err == nil || !strings.Contains(err.Error(), "version 9") {
		t.Errorf("got error %v for a record of another version", err)
	}
	if _, err := DecodeRecord("panic: something"); !errors.Is(err, ErrNotEncoded) {
		t.Errorf("got %v for a text that is no message", err)
	}
}

// What is left out of a record must not pass for something that did not arrive.
func TestRecordThatDoesNotFitSaysSo(t *testing.T) {
	r := Record{Version: Version, ID: "r"}
	for range 2000 {
		r.Requests = append(r.Requests, Requests{Plan: fmt.Sprintf("%016x", rand.Uint64()), Check: rand.IntN(500), Round: 1, Count: 3})
	}
	text, err := EncodeRecord(r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeRecord(text)
	if err != nil || !got.Trimmed || len(text) > MaxReportBytes || len(got.Requests) == 0 || len(got.Requests) >= 2000 {
		t.Errorf("got %d bytes, trimmed %v, %d requests, %v", len(text), got.Trimmed, len(got.Requests), err)
	}
	r.Requests, r.ID = nil, strings.Repeat("x", 1<<20)
	for i := range 1 << 14 {
		r.ID += fmt.Sprint(i)
	}
	if _, err := EncodeRecord(r); err == nil {
		t.Error("a record fits that cannot")
	}
}

func TestDecodeRecordRequests(t *testing.T) {
	text, err := EncodeRecordRequest(RecordRequest{Version: Version, ID: "r", Checks: map[string][]int{"p": {1, 2}}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeRecordRequests(fmt.Sprintf("%sabc=%q\n%sbad=%q\n%splan=%q", RecordKeyPrefix, text, RecordKeyPrefix, "x", PlanKeyPrefix, text))
	want := map[string]RecordRequest{"abc": {Version: Version, ID: "r", Checks: map[string][]int{"p": {1, 2}}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if err == nil || !strings.Contains(err.Error(), "record request of bad") {
		t.Errorf("got error %v", err)
	}
}

func TestRoundNonce(t *testing.T) {
	plan, check, round, ok := ParseRoundNonce(RoundNonce(Nonce("abc", 499), 7))
	if plan != "abc" || check != 499 || round != 7 || !ok {
		t.Errorf("got %q, %d, %d, %v", plan, check, round, ok)
	}
	for _, other := range []string{"", "abc", Nonce("abc", 1), "abc.1.0", "abc.-1.1", "abc.500.1", ".1.1", "a.b.1", "a.1.b", "a.1.1.1"} {
		if _, _, _, ok := ParseRoundNonce(other); ok {
			t.Errorf("%q passes for the nonce of a round", other)
		}
	}
}
