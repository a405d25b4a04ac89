//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pathproof/pathproof/probe/wire"
)

// execute runs the command in this process.
func execute(ctx context.Context, stdin string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	p := program{stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs}
	code = p.main(ctx, args)
	return code, out.String(), errs.String()
}

// loopbackPlan has one check of a TCP port of this machine.
func loopbackPlan(port uint16) wire.Plan {
	return wire.Plan{
		Version: wire.Version, ID: "run-1", TimeoutMilliseconds: 1000, Attempts: 2,
		Checks: []wire.Check{{Transport: wire.TCP, Addr: netip.MustParseAddr("127.0.0.1"), Port: port}},
	}
}

// listener accepts TCP connections on loopback and returns its port.
func listener(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func encodePlan(t testing.TB, p wire.Plan) string {
	t.Helper()
	text, err := wire.EncodePlan(p)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// assertConnected fails unless the report is the one of loopbackPlan.
func assertConnected(t *testing.T, r wire.Report) {
	t.Helper()
	if r.ID != "run-1" || r.Error != "" || len(r.Results) != 1 ||
		!r.Results[0].Outcomes.All(func(o wire.Outcome) bool { return o == wire.Connected }) {
		t.Errorf("got report %+v, want one result of Connected for run-1", r)
	}
}

func TestRunWritesTheReportToAFile(t *testing.T) {
	dir := t.TempDir()
	planFile, reportFile := filepath.Join(dir, "plan"), filepath.Join(dir, "report")
	// The kubelet's file exists before the container starts.
	for path, text := range map[string]string{planFile: encodePlan(t, loopbackPlan(listener(t))), reportFile: "something old and longer than what replaces it"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if code, _, stderr := execute(t.Context(), "", "run", "--plan", planFile, "--report", reportFile); code != exitOK {
		t.Fatalf("got exit code %d: %s", code, stderr)
	}
	text, err := os.ReadFile(reportFile)
	if err != nil {
		t.Fatal(err)
	}
	report, err := wire.DecodeReport(string(text))
	if err != nil {
		t.Fatal(err)
	}
	assertConnected(t, report)
}

// The log is read while the probe still runs. What is cut short must not get there before
// the operator knows that the pod was asked to go.
func TestRunPrintsTheReport(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		ctx     context.Context
		args    []string
		printed bool
	}{
		"asked to":                {t.Context(), []string{"--print-report"}, true},
		"not asked to":            {t.Context(), nil, false},
		"asked to, and cut short": {over, []string{"--print-report"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "report")
			args := append([]string{"run", "--plan", "-", "--report", file}, tc.args...)
			code, stdout, stderr := execute(tc.ctx, encodePlan(t, loopbackPlan(listener(t))), args...)
			text, err := os.ReadFile(file)
			if code != exitOK || err != nil {
				t.Fatalf("got exit code %d, %v: %s", code, err, stderr)
			}
			left, err := wire.DecodeReport(string(text))
			if err != nil {
				t.Fatal(err)
			}
			if !tc.printed {
				if stdout != "" {
					t.Errorf("got %q, want nothing printed", stdout)
				}
				return
			}
			m, err := wire.DecodeMessage(strings.TrimSuffix(stdout, "\n"))
			if err != nil || m.Report == nil {
				t.Fatalf("got %q, %v, want a report", stdout, err)
			}
			assertConnected(t, *m.Report)
			if diff := cmp.Diff(left, *m.Report, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("the two reports differ (-termination message +log):\n%s", diff)
			}
		})
	}
}

func TestRunReadsAndWritesPlainJSON(t *testing.T) {
	plan, err := json.Marshal(loopbackPlan(listener(t)))
	if err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := execute(t.Context(), string(plan), "run", "--json", "--plan", "-", "--report", "-")
	if code != exitOK {
		t.Fatalf("got exit code %d: %s", code, stderr)
	}
	var report wire.Report
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatal(err)
	}
	assertConnected(t, report)
}

// Whatever is wrong with the plan, there is a report that says so, and exit code
// 0: the operator reads the one, and a restart would not help.
func TestBadPlanGivesAReport(t *testing.T) {
	old := loopbackPlan(80)
	old.Version = 9
	plain, err := json.Marshal(old)
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		stdin   string
		args    []string
		wantErr string
		wantID  string
	}{
		"no plan at all":          {"hello", nil, "not an encoded message", ""},
		"an empty plan":           {"", nil, "not an encoded message", ""},
		"no file":                 {"", []string{"--plan", "/nonexistent/plan", "--plan-wait", "1ms"}, "reading plan: open /nonexistent/plan", ""},
		"a file that is a folder": {"", []string{"--plan", "/"}, "reading plan: read /", ""},
		"an empty file":           {"", []string{"--plan", os.DevNull, "--plan-wait", "1ms"}, "reading plan: /dev/null is still empty after 1ms", ""},
		"another version":         {string(plain), []string{"--json"}, "plan version 9", "run-1"},
		"an unknown field":        {`{"v":1,"surprise":1}`, []string{"--json"}, `unknown field "surprise"`, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"run", "--plan", "-", "--report", "-", "--json=false"}, tc.args...)
			code, stdout, stderr := execute(t.Context(), tc.stdin, args...)
			if code != exitOK {
				t.Errorf("got exit code %d: %s", code, stderr)
			}
			report, err := wire.DecodeReport(stdout)
			if err != nil {
				err = json.Unmarshal([]byte(stdout), &report)
			}
			if err != nil || report.Version != wire.Version || report.ID != tc.wantID || !strings.Contains(report.Error, tc.wantErr) {
				t.Errorf("got report %+v (%v), want an error with %q", report, err, tc.wantErr)
			}
		})
	}
}

// The annotation may reach the volume after the container has started.
func TestRunWaitsForThePlan(t *testing.T) {
	path := filepath.Join(t.TempDir(), "plan")
	type result struct {
		code   int
		stdout string
	}
	done := make(chan result)
	go func() {
		var out bytes.Buffer
		p := program{stdout: &out, stderr: new(bytes.Buffer)}
		code := p.main(t.Context(), []string{"run", "--plan", path, "--plan-wait", (10 * planWait).String(), "--report", "-"})
		done <- result{code, out.String()}
	}()
	// First an empty file, as for a pod without the annotation, then the plan, by
	// rename, as the kubelet does it.
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte(encodePlan(t, loopbackPlan(listener(t)))), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	r := <-done
	report, err := wire.DecodeReport(r.stdout)
	if r.code != exitOK || err != nil {
		t.Fatalf("got exit code %d, report %q (%v)", r.code, r.stdout, err)
	}
	assertConnected(t, report)
}

// A pod that is deleted in the middle of a run still reports.
func TestTerminationLeavesAReport(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	code, stdout, _ := execute(ctx, encodePlan(t, loopbackPlan(9)), "run", "--plan", "-", "--report", "-")
	report, err := wire.DecodeReport(stdout)
	if code != exitOK || err != nil || len(report.Results) != 1 ||
		!report.Results[0].Outcomes.All(func(o wire.Outcome) bool { return o == wire.ProbeError }) {
		t.Errorf("got exit code %d and report %+v (%v), want one result of ProbeError", code, report, err)
	}
}

func TestReportThatDoesNotFitSaysSo(t *testing.T) {
	r := wire.Report{Version: wire.Version, ID: "run-1", Results: make([]wire.Result, wire.MaxChecks)}
	for i := range r.Results {
		r.Results[i].Outcomes = make(wire.Outcomes, wire.MaxAttempts)
		for j := range r.Results[i].Outcomes {
			r.Results[i].Outcomes[j] = []wire.Outcome{wire.TimedOut, wire.Rejected, wire.Connected, wire.Replied}[(i*i*7+j*j*i+i>>2*j)%4]
		}
		r.Results[i].SeenAs = netip.AddrFrom4([4]byte{10, byte(i * 7), byte(i * i), byte(i * 31)})
	}
	var out bytes.Buffer
	if err := (program{stdout: &out}).writeReport("-", false, r); err != nil {
		t.Fatal(err)
	}
	got, err := wire.DecodeReport(out.String())
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != "run-1" || out.Len() > wire.MaxReportBytes || got.Error == "" && len(got.Results) != wire.MaxChecks {
		t.Errorf("got %d bytes, %d results, error %q: want all results or an error", out.Len(), len(got.Results), got.Error)
	}
}

func TestUsage(t *testing.T) {
	cases := map[string]struct {
		args       []string
		code       int
		wantStderr string
		wantStdout string
	}{
		"no command":               {nil, exitUsage, "usage: probe COMMAND", ""},
		"an unknown command":       {[]string{"dance"}, exitUsage, `unknown command "dance"`, ""},
		"an unknown flag":          {[]string{"run", "--fast"}, exitUsage, "flag provided but not defined: -fast", ""},
		"an argument too many":     {[]string{"run", "now"}, exitUsage, `unexpected argument "now"`, ""},
		"help":                     {[]string{"help"}, exitOK, "", "usage: probe COMMAND"},
		"help for a command":       {[]string{"serve", "-h"}, exitOK, "-health-port", ""},
		"version":                  {[]string{"version"}, exitOK, "", "(wire version 1)"},
		"serve without ports":      {[]string{"serve"}, exitUsage, `parsing ""`, ""},
		"serve with a bad port":    {[]string{"serve", "--listen", "TCP/0"}, exitUsage, `parsing "TCP/0"`, ""},
		"serve with a bad health":  {[]string{"serve", "--listen", "TCP/80", "--health-port", "70000"}, exitUsage, "above 65535", ""},
		"run with no place to log": {[]string{"run", "--plan", "-", "--report", "/nonexistent/report"}, exitFailed, "writing report: open /nonexistent/report", ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := execute(t.Context(), "", tc.args...)
			if code != tc.code || !strings.Contains(stderr, tc.wantStderr) || !strings.Contains(stdout, tc.wantStdout) {
				t.Errorf("got exit code %d, stdout %q, stderr %q, want %d, %q and %q", code, stdout, stderr, tc.code, tc.wantStdout, tc.wantStderr)
			}
		})
	}
}

func TestServeFailsOnATakenPort(t *testing.T) {
	port := listener(t)
	code, _, stderr := execute(t.Context(), "", "serve", "--listen", fmt.Sprintf("TCP/%d", port), "--health-port", "0")
	if code != exitFailed || !strings.Contains(stderr, "address already in use") {
		t.Errorf("got exit code %d: %s", code, stderr)
	}
}

func TestServeIsReadyAndEndsOnASignal(t *testing.T) {
	// Ports that were free a moment ago; the kernel does not offer them again soon.
	free := func() uint16 {
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		return l.Addr().(*net.TCPAddr).AddrPort().Port()
	}
	port, health := free(), free()
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	code := make(chan int)
	go func() {
		p := program{stdout: new(bytes.Buffer), stderr: writerFunc(func(b []byte) {
			if strings.Contains(string(b), "answering on") {
				close(started)
			} else {
				t.Logf("%s", b)
			}
		})}
		code <- p.main(ctx, []string{"serve", "--listen", fmt.Sprintf("TCP/%d,UDP/%d", port, port), "--health-port", fmt.Sprint(health)})
	}()
	select {
	case <-started:
	case c := <-code:
		t.Fatalf("serve ended with exit code %d", c)
	}
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/ready", health))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("got status %d, want 200", resp.StatusCode)
	}
	cancel()
	if c := <-code; c != exitOK {
		t.Errorf("got exit code %d, want 0", c)
	}
}

// writerFunc is a writer that calls a function.
type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) {
	f(b)
	return len(b), nil
}

// projected writes annotations with plans.
func projected(t *testing.T, path string, plans map[string]wire.Plan) {
	t.Helper()
	values := map[string]string{}
	for owner, plan := range plans {
		values[wire.PlanKeyPrefix+owner] = encodePlan(t, plan)
	}
	annotate(t, path, values)
}

// A resident reports every new plan that appears in its annotations, until it is told to
// end.
func TestStayReportsEveryPlan(t *testing.T) {
	path := filepath.Join(t.TempDir(), "annotations")
	port := listener(t)
	first, second := loopbackPlan(port), loopbackPlan(port)
	second.ID = "run-2"
	projected(t, path, map[string]wire.Plan{"a": first})
	out, in := io.Pipe()
	done := make(chan int, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		p := program{stdout: in, stderr: io.Discard}
		done <- p.main(ctx, []string{"stay", "--annotations=" + path})
		_ = in.Close()
	}()
	var taken, ids []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		m, err := wire.DecodeMessage(lines.Text())
		if err == nil && m.Taken != "" {
			taken = append(taken, m.Taken)
			continue
		}
		if err != nil || m.Report == nil {
			t.Fatalf("got %q, %v, want a report", lines.Text(), err)
		}
		if len(taken) == 0 || taken[len(taken)-1] != m.Report.ID {
			t.Errorf("it had said that it has %q when it reported on %s", taken, m.Report.ID)
		}
		if o := m.Report.Results[0].Outcomes; !o.All(func(o wire.Outcome) bool { return o == wire.Connected }) {
			t.Errorf("got outcomes %v of %s", o, m.Report.ID)
		}
		switch ids = append(ids, m.Report.ID); len(ids) {
		case 1:
			projected(t, path, map[string]wire.Plan{"a": first, "b": second})
		case 2:
			stop()
		}
	}
	if code := <-done; code != exitOK || !slices.Equal(ids, []string{"run-1", "run-2"}) {
		t.Errorf("got code %d and reports of %v, want %d and those of run-1 and run-2", code, ids, exitOK)
	}
}

func TestStayRefusesWrongUsage(t *testing.T) {
	if code, _, stderr := execute(t.Context(), "", "stay", "--health-port=70000"); code != exitUsage || !strings.Contains(stderr, "above 65535") {
		t.Errorf("got %d, %q", code, stderr)
	}
}
