package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// sample is what was counted up to a moment.
type sample struct {
	at time.Time
	// requests are those of the operator that the API server has logged, by what they do.
	requests map[string]int
	// sent are the requests that the operator itself has counted
	// (rest_client_requests_total).
	sent       float64
	reconciles float64
	// reconciling is the time that the canary's reconciles have taken.
	reconciling time.Duration
	cpu         time.Duration
	memory      float64
	sockets     int
}

// scraped are the operator's metrics.
type scraped map[string]*dto.MetricFamily

func (s *simulation) scrape(ctx context.Context) (scraped, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.metrics+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("reading metrics: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("reading metrics: %w", err)
	}
	return families, nil
}

// sum adds up the values of a metric whose labels hold all the values given; of a
// histogram, its sum.
func (m scraped) sum(name string, values ...string) float64 {
	total := 0.0
	for _, metric := range m[name].GetMetric() {
		has := func(value string) bool {
			return slices.ContainsFunc(metric.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == value })
		}
		if slices.ContainsFunc(values, func(v string) bool { return !has(v) }) {
			continue
		}
		total += metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + metric.GetHistogram().GetSampleSum()
	}
	return total
}

// sample counts.
func (s *simulation) sample(ctx context.Context) (*sample, error) {
	m, err := s.scrape(ctx)
	if err != nil {
		return nil, err
	}
	requests, err := s.audited()
	if err != nil {
		return nil, err
	}
	seconds := func(v float64) time.Duration { return time.Duration(v * float64(time.Second)) }
	return &sample{
		at: time.Now(), requests: requests, sent: m.sum("rest_client_requests_total"),
		reconciles:  m.sum("controller_runtime_reconcile_total", "enforcementcanary"),
		reconciling: seconds(m.sum("controller_runtime_reconcile_time_seconds", "enforcementcanary")),
		cpu:         seconds(m.sum("process_cpu_seconds_total")), memory: m.sum("process_resident_memory_bytes"), sockets: s.sockets(),
	}, nil
}

// audited counts the requests of the operator by verb and resource.
func (s *simulation) audited() (map[string]int, error) {
	out := map[string]int{}
	file, err := os.Open(s.auditLog())
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil // no request yet
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Verb      string `json:"verb"`
			ObjectRef struct {
				Resource    string `json:"resource"`
				Subresource string `json:"subresource"`
			} `json:"objectRef"`
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue // the line that is being written
		}
		what := e.Verb
		if r := e.ObjectRef; r.Resource != "" {
			what += " " + strings.TrimSuffix(r.Resource+"/"+r.Subresource, "/")
		}
		out[what]++
	}
	return out, lines.Err()
}

// sockets counts those that the operator has open.
func (s *simulation) sockets() int {
	n := 0
	dir := fmt.Sprintf("/proc/%d/fd", s.manager.Process.Pid)
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		if target, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil && strings.HasPrefix(target, "socket:") {
			n++
		}
	}
	return n
}

func (to *sample) count() (n int) {
	for _, v := range to.requests {
		n += v
	}
	return n
}

func (to *sample) requestRate(from *sample) float64 {
	return float64(to.count()-from.count()) / to.at.Sub(from.at).Seconds()
}

// report prints what was counted since a moment.
func (s *simulation) report(ctx context.Context, what string, from *sample) error {
	to, err := s.sample(ctx)
	if err != nil {
		return err
	}
	s.print(what, from, to)
	return nil
}

func (s *simulation) print(what string, from, to *sample) {
	took := to.at.Sub(from.at).Seconds()
	fmt.Printf("\n%s (%.0f s)\n", what, took)
	fmt.Printf("  requests: %d, %.2f a second (the operator itself counts %.0f)\n", to.count()-from.count(), to.requestRate(from), to.sent-from.sent)
	delta := map[string]int{}
	for what, n := range to.requests {
		if n -= from.requests[what]; n > 0 {
			delta[what] = n
		}
	}
	for _, what := range slices.SortedFunc(maps.Keys(delta), func(a, b string) int { return cmp.Or(cmp.Compare(delta[b], delta[a]), cmp.Compare(a, b)) }) {
		fmt.Printf("    %6d %s\n", delta[what], what)
	}
	n := to.reconciles - from.reconciles
	fmt.Printf("  reconciles of the canary: %.0f, %.2f a second, %.0f ms each\n", n, n/took, 1000*(to.reconciling-from.reconciling).Seconds()/max(1, n))
	fmt.Printf("  operator: %.2f s of processor time (%.1f %% of one), %.0f MiB resident, %d sockets\n",
		(to.cpu - from.cpu).Seconds(), 100*(to.cpu-from.cpu).Seconds()/took, to.memory/(1<<20), to.sockets)
}
