package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const (
	// every is the time between two scrapes, and patience what one may take, as by default in
	// Prometheus.
	every    = 5 * time.Second
	patience = 10 * time.Second
	// metricsPort is that of the operator's container.
	metricsPort = 8443
	// job is what the ServiceMonitor makes of the Service's name.
	job = "pathproof-metrics"
)

// scraper reads the metrics of the operator as one who was given the role for it.
type scraper struct {
	r      *recorder
	token  string
	client http.Client
	// addr is that of the forwarded port; empty while there is none.
	addr string
	stop func()
}

// newScraper lets a service account read the metrics.
func (r *recorder) newScraper(ctx context.Context) (*scraper, error) {
	const account = "pathproof-record"
	for _, args := range [][]string{
		{"-n", operatorNamespace, "delete", "serviceaccount", account, "--ignore-not-found"},
		{"delete", "clusterrolebinding", account, "--ignore-not-found"},
		{"-n", operatorNamespace, "create", "serviceaccount", account},
		{"create", "clusterrolebinding", account, "--clusterrole=pathproof-metrics-reader", "--serviceaccount=" + operatorNamespace + ":" + account},
	} {
		if err := r.bed.Kubectl(ctx, args...); err != nil {
			return nil, err
		}
	}
	token, err := r.bed.KubectlOutput(ctx, "-n", operatorNamespace, "create", "token", account, "--duration=1h")
	if err != nil {
		return nil, err
	}
	// The operator's certificate is its own, and the port is forwarded by the API server.
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	return &scraper{r: r, token: strings.TrimSpace(token), client: client}, nil
}

// close ends the forwarding.
func (s *scraper) close() {
	s.client.CloseIdleConnections()
	if s.stop != nil {
		s.stop()
	}
	s.addr, s.stop = "", nil
}

// scrape returns the samples of one scrape, and with them whether there was an answer, as the
// series up.
func (s *scraper) scrape(ctx context.Context) view {
	samples, err := s.get(ctx)
	up := fmt.Sprintf("up{job=%q}", job)
	if err != nil {
		fmt.Printf("%s no answer: %v\n", s.r.now().Sub(s.r.start).Round(time.Second), err)
		s.close() // the pod may be another one now
		return view{up: 0}
	}
	samples[up] = 1
	return samples
}

func (s *scraper) get(ctx context.Context) (view, error) {
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if s.addr == "" {
		var err error
		// What is started for one scrape serves the next ones, too: it has the longer life.
		if s.addr, s.stop, err = s.r.bed.Forward(ctx, operatorNamespace, operatorDeployment, metricsPort); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(short, http.MethodGet, "https://"+s.addr+"/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the operator answered %s", resp.Status)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("reading metrics: %w", err)
	}
	return gauges(families), nil
}

// gauges are those of the operator's own metrics: alerts are made of nothing else.
func gauges(families map[string]*dto.MetricFamily) view {
	out := view{}
	for name, family := range families {
		if !strings.HasPrefix(name, "pathproof_") || family.GetType() != dto.MetricType_GAUGE {
			continue
		}
		for _, m := range family.Metric {
			labels := map[string]string{"job": job}
			for _, l := range m.Label {
				labels[l.GetName()] = l.GetValue()
			}
			var pairs []string
			for _, l := range slices.Sorted(maps.Keys(labels)) {
				pairs = append(pairs, fmt.Sprintf("%s=%q", l, labels[l]))
			}
			// Ages in whole seconds are exact enough, and small.
			out[name+"{"+strings.Join(pairs, ",")+"}"] = math.Round(m.GetGauge().GetValue())
		}
	}
	return out
}

// view is what one scrape has shown: values by the names of series.
type view map[string]float64

// of are the series that have a name and labels, and more labels.
func (v view) of(like []string, more ...string) map[string]float64 {
	out := map[string]float64{}
	for name, value := range v {
		found := strings.HasPrefix(name, like[0])
		for _, l := range slices.Concat(like[1:], more) {
			found = found && strings.Contains(name, l)
		}
		if found {
			out[name] = value
		}
	}
	return out
}

func (v view) count(like []string, more ...string) int { return len(v.of(like, more...)) }

// max is the greatest of their values; 0 if there is none.
func (v view) max(like []string) float64 {
	greatest := 0.0
	for _, value := range v.of(like) {
		greatest = max(greatest, value)
	}
	return greatest
}
