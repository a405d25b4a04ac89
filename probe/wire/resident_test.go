package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMessageRoundTrip(t *testing.T) {
	for name, m := range map[string]Message{
		"report": {Report: &Report{Version: Version, ID: "run-1", Results: []Result{{Outcomes: Outcomes{Replied, TimedOut}, Rounds: 2}}}},
		"flip":   {Flip: &Flip{Version: Version, Owner: "uid", Check: "key", Open: true, AtMicroseconds: 1_700_000_000_000_001, GapMicroseconds: 20_000}},
		"taken":  {Taken: "run-1"},
		"lines":  {Taken: "run-1\nreport pp1:"},
	} {
		line, err := EncodeMessage(m)
		if err != nil || strings.ContainsAny(line, "\n\r") {
			t.Fatalf("%s: got %q, %v, want one line", name, line, err)
		}
		got, err := DecodeMessage(line)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(m, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestDecodeMessageRefuses(t *testing.T) {
	other, err := encode(Flip{Version: Version + 1})
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"":                            ErrNotEncoded.Error(),
		"probe: words for people":     ErrNotEncoded.Error(),
		"report words":                ErrNotEncoded.Error(),
		"taken words":                 ErrNotEncoded.Error(),
		`taken ""`:                    ErrNotEncoded.Error(),
		"flip pp1:!!":                 "decoding flip",
		flipWord + other:              "use operator and probe images of the same release",
		"report " + "pp1:" + "AAAA!!": "decoding report",
	} {
		if _, err := DecodeMessage(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", line, err, want)
		}
	}
	if _, err := DecodeMessage("anything"); !errors.Is(err, ErrNotEncoded) {
		t.Errorf("got %v, want ErrNotEncoded", err)
	}
}

// The file is what the kubelet writes: key="value" in Go's quoting, one a line.
func TestDecodePlans(t *testing.T) {
	plan := Plan{Version: Version, ID: "run-1", TimeoutMilliseconds: 100, Attempts: 2, Checks: []Check{{Transport: TCP, Addr: netip.MustParseAddr("10.0.0.1"), Port: 80}}}
	text, err := EncodePlan(plan)
	if err != nil {
		t.Fatal(err)
	}
	file := fmt.Sprintf("example.com/other=%q\n%sabc=%q\n%sbad=%q\n%sunquoted=x\n%sgone", "a\nplan.pathproof.dev/x=\"y\"", PlanKeyPrefix, text, PlanKeyPrefix, "pp1:?", PlanKeyPrefix, PlanKeyPrefix)
	plans, err := DecodePlans(file)
	if len(plans) != 1 || plans["abc"].ID != "run-1" {
		t.Errorf("got %v, want the one plan that can be decoded", plans)
	}
	for _, want := range []string{"plan of bad", "plan of unquoted"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want %q in it", err, want)
		}
	}
}

func TestCheckKey(t *testing.T) {
	base := Check{Transport: UDP, Addr: netip.MustParseAddr("10.0.0.1"), Port: 53}
	same := base
	same.Nonce, same.Goal = "n", GoalOpen
	if base.Key() != same.Key() {
		t.Error("nonce or goal is part of the key")
	}
	for _, change := range []func(*Check){
		func(c *Check) { c.Transport = TCP }, func(c *Check) { c.Addr = netip.MustParseAddr("10.0.0.2") }, func(c *Check) { c.Port = 54 },
		func(c *Check) { c.Addr, c.Host = netip.Addr{}, "a." }, func(c *Check) { c.QueryName = "a." }, func(c *Check) { c.QueryType = "A" },
	} {
		other := base
		if change(&other); other.Key() == base.Key() {
			t.Errorf("%+v has the key of %+v", other, base)
		}
	}
}
