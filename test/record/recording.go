package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pathproof/pathproof/test/testbed"
)

// stepTimeout bounds the wait for one condition.
const stepTimeout = 4 * time.Minute

// recorder makes recordings.
type recorder struct {
	bed *testbed.Bed
	now func() time.Time
	// broken is the node on which enforcement is broken, other the one whose canary is.
	broken, other string

	start time.Time
	marks []mark

	mu sync.Mutex
	// views are what the scrapes have shown, one for each time at which one is due; nil if the
	// one before took too long.
	views []view
}

// mark is what was done at a moment of a recording.
type mark struct {
	// At is the time since the first scrape, in whole seconds.
	At   string `yaml:"at"`
	What string `yaml:"what"`
}

// step is one of a script. What it has is done in this order: it waits until a condition
// holds, notes the mark, acts, and holds the state for a time.
type step struct {
	until func(view) bool
	mark  string
	do    func(context.Context) error
	hold  time.Duration
}

// record plays a script while metrics are scraped, and returns the recording.
func (r *recorder) record(ctx context.Context, p part) ([]byte, error) {
	s, err := r.newScraper(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.marks, r.views = nil, nil
	r.start = r.now()
	r.take(s.scrape(ctx))
	var scraping sync.WaitGroup
	scraping.Go(func() {
		defer s.close()
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				r.take(s.scrape(ctx))
			}
		}
	})
	err = p.script(ctx, r)
	views := r.taken()
	cancel()
	scraping.Wait()
	if err != nil {
		return nil, err
	}
	return r.write(p, views)
}

// take keeps what a scrape has shown that has just ended.
func (r *recorder) take(v view) {
	due := int(r.now().Sub(r.start) / every)
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.views) < due {
		r.views = append(r.views, nil)
	}
	r.views = append(r.views, v)
}

func (r *recorder) taken() []view {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.views)
}

func (r *recorder) play(ctx context.Context, steps []step) error {
	for i, s := range steps {
		if s.until != nil {
			if err := r.await(ctx, s.until); err != nil {
				return fmt.Errorf("step %d, after %q: %w", i, r.marks, err)
			}
		}
		if s.mark != "" {
			at := r.now().Sub(r.start).Round(time.Second)
			fmt.Printf("%s %s\n", at, s.mark)
			r.marks = append(r.marks, mark{at.String(), s.mark})
		}
		if s.do != nil {
			if err := s.do(ctx); err != nil {
				return fmt.Errorf("step %d, %s: %w", i, s.mark, err)
			}
		}
		if err := r.pause(ctx, s.hold); err != nil {
			return err
		}
	}
	return nil
}

// await waits until a scrape shows what is waited for.
func (r *recorder) await(ctx context.Context, done func(view) bool) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	for {
		views := r.taken()
		if done(views[len(views)-1]) {
			return nil
		}
		if err := r.pause(ctx, every/5); err != nil {
			return fmt.Errorf("waiting for the metrics to show it: %w", err)
		}
	}
}

func (r *recorder) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(max(0, d)):
		return nil
	}
}

// recording is the file that is written. Interval and InputSeries are as in the tests of
// promtool.
type recording struct {
	Broken      string   `yaml:"broken"`
	Other       string   `yaml:"other"`
	Marks       []mark   `yaml:"marks"`
	Interval    string   `yaml:"interval"`
	InputSeries []series `yaml:"input_series"`
}

type series struct {
	Series string `yaml:"series"`
	Values string `yaml:"values"`
}

func (r *recorder) write(p part, views []view) ([]byte, error) {
	rec := recording{Broken: r.broken, Other: r.other, Marks: r.marks, Interval: every.String()}
	names := map[string]bool{}
	for _, v := range views {
		for name := range v {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		rec.InputSeries = append(rec.InputSeries, series{name, notation(name, views)})
	}
	text, err := yaml.Marshal(rec)
	if err != nil {
		return nil, fmt.Errorf("encoding the recording: %w", err)
	}
	return append([]byte(fmt.Sprintf("# What an operator in the lab exposed, made by `go run ./test/record -part=%s`. Not to be edited.\n", p.name)), text...), nil
}

// notation writes the values of a series as Prometheus' tests do: a+bxn is a followed by n
// values of which each is b more than the one before. A series that a scrape does not have
// is stale, as Prometheus notes it, and then missing; where no scrape was made, it is missing
// at once.
func notation(name string, views []view) string {
	var out []string
	there := false // in the scrape before
	for i := 0; i < len(views); {
		if views[i] == nil {
			out = append(out, "_")
			i++
			continue
		}
		value, ok := views[i][name]
		if !ok {
			n := 0
			for i+n < len(views) && views[i+n] != nil && !has(views[i+n], name) {
				n++
			}
			i += n
			if there {
				out = append(out, "stale")
				n--
			}
			if n > 0 {
				out = append(out, fmt.Sprintf("_x%d", n))
			}
			there = false
			continue
		}
		there = true
		n, by := 0, 0.0
		for i+n+1 < len(views) && has(views[i+n+1], name) {
			diff := views[i+n+1][name] - views[i+n][name]
			if math.IsInf(value, 0) || math.IsInf(diff, 0) || (n > 0 && diff != by) {
				break
			}
			n, by = n+1, diff
		}
		text := strconv.FormatFloat(value, 'f', -1, 64)
		switch {
		case n == 0:
			out = append(out, text)
		case by < 0:
			out = append(out, fmt.Sprintf("%s-%sx%d", text, strconv.FormatFloat(-by, 'f', -1, 64), n))
		default:
			out = append(out, fmt.Sprintf("%s+%sx%d", text, strconv.FormatFloat(by, 'f', -1, 64), n))
		}
		i += n + 1
	}
	return strings.Join(out, " ")
}

func has(v view, name string) bool {
	_, ok := v[name]
	return ok
}
