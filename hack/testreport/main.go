// Command testreport runs `go test -json` stage by stage and ends with one line
// that counts what passed, failed and was skipped:
//
//	testreport NAME: [-C DIR] ARGS... [-- NAME: [-C DIR] ARGS...]
//
// Each stage is a name and the arguments of go test, which runs in a folder if that is
// given: that of another module. Failures are shown with
// their output, skips with their reason. A stage that runs no test fails: a suite
// that tests nothing must not look green.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// event is a line of `go test -json` (cmd/test2json).
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

// result collects the events of one test, or of one package (Test is empty).
type result struct {
	output []string
	action string
}

type key struct{ pkg, test string }

// counts adds up all stages.
type counts struct{ passed, failed, skipped int }

func main() {
	var total counts
	for _, stage := range stages(os.Args[1:]) {
		c, err := run(stage)
		if err != nil {
			fmt.Fprintf(os.Stderr, "testreport: %s: %v\n", stage[0], err)
			c.failed++
		}
		fmt.Printf("=== %s %d passed, %d failed, %d skipped\n", stage[0], c.passed, c.failed, c.skipped)
		total = counts{total.passed + c.passed, total.failed + c.failed, total.skipped + c.skipped}
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", total.passed, total.failed, total.skipped)
	if total.failed > 0 || total.passed == 0 {
		os.Exit(1)
	}
}

// stages splits the arguments at "--".
func stages(args []string) [][]string {
	var out [][]string
	for _, a := range args {
		if a == "--" || len(out) == 0 {
			out = append(out, nil)
		}
		if a != "--" {
			out[len(out)-1] = append(out[len(out)-1], a)
		}
	}
	return slices.DeleteFunc(out, func(s []string) bool { return len(s) < 2 })
}

func run(stage []string) (counts, error) {
	fmt.Printf("=== %s go test %s\n", stage[0], strings.Join(stage[1:], " "))
	args := stage[1:]
	dir := ""
	if len(args) > 2 && args[0] == "-C" {
		dir, args = args[1], args[2:]
	}
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return counts{}, err
	}
	if err := cmd.Start(); err != nil {
		return counts{}, err
	}
	c := read(stdout)
	err = cmd.Wait()
	switch {
	case err != nil && c.failed > 0:
		// The failures have been counted.
		return c, nil
	case err != nil:
		return c, fmt.Errorf("running go test: %w", err)
	case c.passed == 0 && c.failed == 0 && c.skipped == 0:
		return c, fmt.Errorf("no test ran")
	}
	return c, nil
}

// read shows and counts the results. Subtests count, the tests that only group
// them do not.
func read(r io.Reader) counts {
	var c counts
	results := map[key]*result{}
	parents := map[key]bool{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Println(lines.Text())
			continue
		}
		k := key{e.Package, e.Test}
		res := results[k]
		if res == nil {
			res = &result{}
			results[k] = res
		}
		switch e.Action {
		case "output":
			res.output = append(res.output, e.Output)
			progress(e)
		case "build-output":
			fmt.Print(e.Output)
		case "pass", "fail", "skip":
			res.action = e.Action
			for i := strings.LastIndex(e.Test, "/"); i > 0; i = strings.LastIndex(e.Test[:i], "/") {
				parents[key{e.Package, e.Test[:i]}] = true
			}
			if e.Test == "" {
				fmt.Printf("%s\t%s\t%.1fs\n", e.Action, e.Package, e.Elapsed)
			}
		}
	}
	for k, res := range results {
		c.add(k, res, parents[k])
	}
	report(results)
	return c
}

// ginkgo suites print what they do when their package is long; the lines that
// begin with these marks are their progress, and what they have measured.
func progress(e event) {
	line := strings.TrimSpace(colour.ReplaceAllString(e.Output, ""))
	for _, mark := range []string{"•", "S [SKIPPED]", "[FAILED]", "Ran ", "measured: "} {
		if strings.HasPrefix(line, mark) {
			fmt.Println(line)
			return
		}
	}
}

// add counts one result. Of a package only a failure without a failed test (a
// crash, a build error) counts.
func (c *counts) add(k key, res *result, parent bool) {
	if k.test == "" || parent {
		return
	}
	if p, f, s, ok := ginkgo(res.output); ok {
		c.passed, c.failed, c.skipped = c.passed+p, c.failed+f, c.skipped+s
		return
	}
	switch res.action {
	case "pass":
		c.passed++
	case "skip":
		c.skipped++
	default:
		// A test without a result was under way when its binary died.
		c.failed++
	}
}

// closing is the last line of a ginkgo suite, once its colours are gone.
var (
	closing = regexp.MustCompile(`! -- (\d+) Passed \| (\d+) Failed \| (\d+) Pending \| (\d+) Skipped`)
	colour  = regexp.MustCompile("\x1b\\[[0-9;]*m")
)

// ginkgo reads the closing line of a suite, which stands for many specs.
func ginkgo(output []string) (passed, failed, skipped int, ok bool) {
	m := closing.FindStringSubmatch(colour.ReplaceAllString(strings.Join(output, ""), ""))
	if m == nil {
		return 0, 0, 0, false
	}
	var n [4]int
	for i := range n {
		// The expression admits digits only.
		n[i], _ = strconv.Atoi(m[i+1])
	}
	return n[0], n[1], n[2] + n[3], true
}

// report prints the output of failures and the reasons of skips.
func report(results map[key]*result) {
	keys := make([]key, 0, len(results))
	for k := range results {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b key) int { return cmp.Or(cmp.Compare(a.pkg, b.pkg), cmp.Compare(a.test, b.test)) })
	for _, k := range keys {
		res := results[k]
		switch {
		case res.action == "fail" || (res.action == "" && k.test != ""):
			fmt.Printf("--- FAIL %s %s\n%s", k.pkg, k.test, strings.Join(res.output, ""))
		case res.action == "skip" && k.test != "":
			fmt.Printf("--- SKIP %s %s: %s\n", k.pkg, k.test, reason(res.output))
		}
	}
}

// reason is what a skipped test said.
func reason(output []string) string {
	for _, line := range output {
		s := strings.TrimSpace(line)
		if s != "" && !strings.HasPrefix(s, "===") && !strings.HasPrefix(s, "---") {
			return s
		}
	}
	return "no reason given"
}
