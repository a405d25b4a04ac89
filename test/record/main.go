// Command record makes the recordings that the alerts are tested with: it scrapes the metrics
// of an operator in the lab, as Prometheus would, while things are broken and mended, and
// writes them down in the notation of Prometheus' own tests, with what was done when.
//
// It needs the lab, whose enforcement can be broken. Each part takes some minutes. Exit codes:
// 0 when all was recorded, else 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	part := flag.String("part", strings.Join(partNames(), ","), "`parts` to record, with commas between them")
	out := flag.String("out", "", "`folder` of the recordings (default test/alerts/testdata of the module)")
	flag.Parse()
	err := run(ctx, strings.Split(*part, ","), *out)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, names []string, out string) (err error) {
	for _, name := range names {
		if !slices.Contains(partNames(), name) {
			return fmt.Errorf("there is no part %q: want some of %s", name, strings.Join(partNames(), ", "))
		}
	}
	if os.Getenv("KUBECONFIG") != "" {
		return errors.New("it needs the lab, whose enforcement can be broken: unset KUBECONFIG")
	}
	bed, err := testbed.Up(ctx, func(format string, args ...any) { fmt.Printf(format+"\n", args...) })
	if err != nil {
		return err
	}
	r := &recorder{bed: bed, now: time.Now}
	defer func() {
		// Also after Ctrl-C, nothing stays behind.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
		defer cancel()
		err = errors.Join(err, r.mend(cleanup), r.remove(cleanup), bed.Close(cleanup))
	}()
	if err := r.prepare(ctx); err != nil {
		return err
	}
	if out == "" {
		out = bed.Path("test/alerts/testdata")
	}
	for _, p := range parts {
		if !slices.Contains(names, p.name) {
			continue
		}
		rec, err := r.record(ctx, p)
		if err != nil {
			return fmt.Errorf("recording %s: %w", p.name, err)
		}
		path := filepath.Join(out, "lab-"+p.name+".yaml")
		if err := os.WriteFile(path, rec, 0o644); err != nil {
			return fmt.Errorf("writing the recording: %w", err)
		}
		fmt.Printf("Wrote %s, %d bytes\n", path, len(rec))
	}
	return nil
}

// The intervals are the shortest that the API admits, or that a run fits into: ages, and
// what the alerts compare them with, grow with them.
const canarySeconds, expectationSeconds, lateSeconds = 15, 30, 10

// prepare installs the operator, the production scenario and the canary, and waits until all
// is well.
func (r *recorder) prepare(ctx context.Context) error {
	if err := errors.Join(r.mend(ctx), r.remove(ctx)); err != nil {
		return err
	}
	if err := r.bed.Install(ctx); err != nil {
		return err
	}
	if err := r.bed.Apply(ctx, testbed.Production); err != nil {
		return err
	}
	canary := &v1alpha1.EnforcementCanary{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.CanaryName}, Spec: v1alpha1.EnforcementCanarySpec{IntervalSeconds: canarySeconds},
	}
	if err := r.bed.Client.Create(ctx, canary); err != nil {
		return fmt.Errorf("creating the canary: %w", err)
	}
	for _, what := range []string{"cxp/mongodb", "enforcementcanary/" + v1alpha1.CanaryName} {
		if err := r.bed.Kubectl(ctx, "-n", testbed.Production.Key.Namespace, "wait", "--for=condition=Ready", what, "--timeout=180s"); err != nil {
			return err
		}
	}
	// What was broken is on the node of the target, whichever that is this time.
	node, err := r.bed.KubectlOutput(ctx, "-n", testbed.Production.Key.Namespace, "get", "pods", "-l", "app=mongodb", "-o", "jsonpath={.items[0].spec.nodeName}")
	if err != nil {
		return err
	}
	r.broken, r.other = node, "node-a"
	if node == r.other {
		r.other = "node-b"
	}
	return nil
}

// mend takes back everything that was broken.
func (r *recorder) mend(ctx context.Context) error {
	err := errors.Join(r.bed.Heal(ctx), r.unblock(ctx))
	if r.broken != "" {
		// Only then there is a canary, and an operator.
		err = errors.Join(err, r.admit(ctx), r.scale(ctx, 1))
	}
	return err
}

// remove removes the canary and the scenario.
func (r *recorder) remove(ctx context.Context) error {
	err := r.bed.Client.Delete(ctx, &v1alpha1.EnforcementCanary{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.CanaryName}})
	// Before the first installation, there is no such kind.
	if err != nil && !apierrors.IsNotFound(err) && !meta.IsNoMatchError(err) {
		return fmt.Errorf("deleting the canary: %w", err)
	}
	return errors.Join(r.bed.DeleteScenarios(ctx),
		r.bed.Kubectl(ctx, "delete", "namespace", canaryNamespace, canaryNamespace+"-abroad", "--ignore-not-found", "--timeout=90s"))
}
