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
)

var allOutcomes = Outcomes{
	Replied, Connected, Refused, Rejected, TimedOut, Delivered, NoRoute, AddressUnavailable,
	NameNotFound, ServerFailure, DNSRefused, DNSTimedOut, Truncated, AnswerDiffers, Unanswered, Unsupported, ProbeError,
}

func validPlan() Plan {
	return Plan{
		Version: Version, ID: "run-1", TimeoutMilliseconds: 1000, Attempts: 3,
		Checks: []Check{{Transport: TCP, Addr: netip.MustParseAddr("10.0.0.1"), Port: 80, Goal: GoalOpen}},
	}
}

func dnsCheck() Check {
	return Check{Transport: DNSUDP, Nameserver: 1, Port: 53, QueryName: "a.", QueryType: "A"}
}

func TestPlanRoundTrip(t *testing.T) {
	want := validPlan()
	want.Checks = append(want.Checks,
		Check{Transport: DNSUDP, Addr: netip.MustParseAddr("fd00::1"), Port: 53, QueryName: "a.b.", QueryType: "A"},
		Check{Transport: UDP, Host: "example.org.", Port: 9, Nonce: "abc"},
		Check{
			Transport: DNSTCP, Nameserver: 2, Port: 53, QueryName: "a", QueryType: "A", Search: true,
			Answer: Answer{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")}},
		},
		Check{Transport: DNSUDP, Nameserver: 1, Port: 53, QueryName: "a.", QueryType: "A", Answer: Answer{CNAME: "b."}},
		Check{Transport: DNSUDP, Nameserver: 1, Port: 53, QueryName: "a.", QueryType: "A", Answer: Answer{NotFound: true}})
	s, err := EncodePlan(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodePlan(s)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("plan changed on the way (-want +got):\n%s", diff)
	}
}

func TestPlanValidate(t *testing.T) {
	cases := map[string]struct {
		change  func(*Plan)
		wantErr string
	}{
		"another version is refused":      {func(p *Plan) { p.Version = 2 }, "version 2"},
		"a plan without an id":            {func(p *Plan) { p.ID = "" }, "no id"},
		"no checks":                       {func(p *Plan) { p.Checks = nil }, "0 checks"},
		"too many checks":                 {func(p *Plan) { p.Checks = make([]Check, MaxChecks+1) }, "501 checks"},
		"no attempts":                     {func(p *Plan) { p.Attempts = 0 }, "0 attempts"},
		"a timeout that nothing can meet": {func(p *Plan) { p.TimeoutMilliseconds = 1 }, "timeout of 1 ms"},
		"a negative warm-up":              {func(p *Plan) { p.WarmUpMilliseconds = -1 }, "warm-up of -1"},
		"an endless settle window":        {func(p *Plan) { p.SettleMilliseconds = 1 << 30 }, "settle window"},
		"a phase without an interval":     {func(p *Plan) { p.PhaseSeconds = 1 }, "every 0 s with a phase of 1 s"},
		"a phase beyond the interval":     {func(p *Plan) { p.EverySeconds, p.PhaseSeconds = 30, 30 }, "every 30 s with a phase of 30 s"},
		"an endless interval":             {func(p *Plan) { p.EverySeconds = MaxEverySeconds + 1 }, "want 0 to 86400"},
		"an unknown transport":            {func(p *Plan) { p.Checks[0].Transport = "ICMP" }, `unknown transport "ICMP"`},
		"neither address nor host":        {func(p *Plan) { p.Checks[0].Addr = netip.Addr{} }, "exactly one of address, host and nameserver"},
		"both address and host":           {func(p *Plan) { p.Checks[0].Host = "a." }, "exactly one of address, host and nameserver"},
		"both address and nameserver": {func(p *Plan) { p.Checks[0] = dnsCheck(); p.Checks[0].Addr = netip.MustParseAddr("10.0.0.1") },
			"exactly one of address, host and nameserver"},
		"a nameserver beyond the last":      {func(p *Plan) { p.Checks[0] = dnsCheck(); p.Checks[0].Nameserver = 4 }, "nameserver 4"},
		"a nameserver before the first":     {func(p *Plan) { p.Checks[0] = dnsCheck(); p.Checks[0].Nameserver = -1 }, "nameserver -1"},
		"a nameserver of another check":     {func(p *Plan) { p.Checks[0] = dnsCheck(); p.Checks[0].QueryName, p.Checks[0].Transport = "", TCP }, "or a nameserver"},
		"an answer on a transport check":    {func(p *Plan) { p.Checks[0].Answer.NotFound = true }, "use DNS/UDP or DNS/TCP"},
		"port 0":                            {func(p *Plan) { p.Checks[0].Port = 0 }, "port 0"},
		"a query without a type":            {func(p *Plan) { p.Checks[0].Transport = DNSTCP; p.Checks[0].QueryName = "a." }, "name and type"},
		"a query name on a transport check": {func(p *Plan) { p.Checks[0].QueryName = "a." }, "has a query name"},
		"an unknown goal":                   {func(p *Plan) { p.Checks[0].Goal = "Ajar" }, `unknown goal "Ajar"`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := validPlan()
			tc.change(&p)
			if _, err := EncodePlan(p); err == nil || !strings.Contains(err.Error(), tc.wantErr) {
				t.Errorf("got error %v, want one with %q", err, tc.wantErr)
			}
		})
	}
}

// The largest plan must be reportable in the worst case: outcomes that do not
// compress. Otherwise a run could end with a result that nobody can read.
func TestFullReportFits(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	r := Report{Version: Version, ID: strings.Repeat("x", 40)}
	for range MaxChecks {
		var os Outcomes
		for range 3 {
			os = append(os, allOutcomes[rng.IntN(len(allOutcomes))])
		}
		r.Results = append(r.Results, Result{
			Outcomes: os, Rounds: 1 + rng.IntN(9), RTTMicroseconds: rng.IntN(1e6), Detail: strings.Repeat("d", rng.IntN(120)),
		})
	}
	s, err := EncodeReport(r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeReport(s)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Trimmed {
		t.Error("report says that nothing was left out, want Trimmed")
	}
	for i := range r.Results {
		if !cmp.Equal(r.Results[i].Outcomes, got.Results[i].Outcomes) || r.Results[i].Rounds != got.Results[i].Rounds {
			t.Fatalf("result %d lost its outcomes: got %v, want %v", i, got.Results[i], r.Results[i])
		}
	}
}

func TestSmallReportIsNotTrimmed(t *testing.T) {
	want := Report{Version: Version, ID: "a", Results: []Result{{
		Outcomes: Outcomes{Rejected}, Rounds: 1, Detail: "icmp 3/13 from 10.0.0.9", SeenAs: netip.MustParseAddr("10.1.1.1"),
	}}}
	s, err := EncodeReport(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeReport(s)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("report changed on the way (-want +got):\n%s", diff)
	}
}

func TestDecodeReportRefuses(t *testing.T) {
	other, err := encode(Report{Version: 7, ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	bomb, err := encode(strings.Repeat("a", maxDecodedBytes*2))
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := encode(map[string]any{"v": 1, "r": []map[string]string{{"o": "CZ"}}})
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct{ text, wantErr string }{
		"a stack trace":            {"panic: runtime error", "not an encoded message"},
		"nothing":                  {"", "not an encoded message"},
		"broken base64":            {"pp1:%%%", "illegal base64"},
		"another version":          {other, "version 7"},
		"a decompression bomb":     {bomb, "larger than"},
		"an outcome of the future": {unknown, "unknown outcome 'Z'"},
	}
	// Wherever it is cut, behind its prefix: no part of a message passes for a whole one.
	for n := len(prefix); n < len(other); n++ {
		cases[fmt.Sprintf("a message of %d bytes cut to %d", len(other), n)] = struct{ text, wantErr string }{other[:n], fmt.Sprintf("decoding report: the message was cut off after %d bytes", n)}
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := DecodeReport(tc.text); err == nil || !strings.Contains(err.Error(), tc.wantErr) {
				t.Errorf("got error %v, want one with %q", err, tc.wantErr)
			}
		})
	}
	if _, err := DecodeReport("x"); !errors.Is(err, ErrNotEncoded) {
		t.Errorf("got %v, want ErrNotEncoded", err)
	}
}

// Every outcome is exactly one of: answered, closed, open one way, or nothing learned.
func TestOutcomeClasses(t *testing.T) {
	nothingLearned := map[Outcome]bool{NoRoute: true, AddressUnavailable: true, Unsupported: true, ProbeError: true}
	for _, o := range allOutcomes {
		n := 0
		for _, is := range []bool{o.Answered(), o.Closed(), o == Delivered, nothingLearned[o]} {
			if is {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%v belongs to %d classes, want 1", o, n)
		}
		if strings.HasPrefix(o.String(), "Outcome(") {
			t.Errorf("%q has no name", byte(o))
		}
	}
}

func FuzzDecodeReport(f *testing.F) {
	s, err := EncodeReport(Report{Version: Version, ID: "a", Results: []Result{{Outcomes: Outcomes{Connected}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s)
	f.Add("pp1:")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := DecodeReport(s)
		if err == nil && r.Version != Version {
			t.Errorf("a report of version %d was accepted", r.Version)
		}
	})
}

func FuzzDecodePlan(f *testing.F) {
	s, err := EncodePlan(validPlan())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s)
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := DecodePlan(s)
		if err != nil {
			return
		}
		// What was accepted can be carried out, and survives being sent on.
		if err := p.Validate(); err != nil {
			t.Errorf("a plan was accepted that is not valid: %v", err)
		}
		if _, err := EncodePlan(p); err != nil {
			t.Errorf("a plan was accepted that cannot be written: %v", err)
		}
	})
}
