package testbed

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
)

// poll is how often the cluster is looked at while waiting.
const poll = 200 * time.Millisecond

// Expectation reads an expectation.
func (b *Bed) Expectation(ctx context.Context, key types.NamespacedName) (*v1alpha1.ConnectivityExpectation, error) {
	exp := &v1alpha1.ConnectivityExpectation{}
	if err := b.Client.Get(ctx, key, exp); err != nil {
		return nil, fmt.Errorf("reading expectation %s: %w", key, err)
	}
	return exp, nil
}

// Probe asks for a run and waits for its result.
func (b *Bed) Probe(ctx context.Context, key types.NamespacedName) (*v1alpha1.ConnectivityExpectation, error) {
	request, err := b.Request(ctx, key)
	if err != nil {
		return nil, err
	}
	return b.Await(ctx, key, Answers(request))
}

// Request asks for a run and returns the name of the request.
func (b *Bed) Request(ctx context.Context, key types.NamespacedName) (string, error) {
	exp, err := b.Expectation(ctx, key)
	if err != nil {
		return "", err
	}
	request := strconv.FormatInt(time.Now().UnixNano(), 10)
	base := exp.DeepCopy()
	metav1.SetMetaDataAnnotation(&exp.ObjectMeta, v1alpha1.RequestedAtAnnotation, request)
	if err := b.Client.Patch(ctx, exp, client.MergeFrom(base)); err != nil {
		return "", fmt.Errorf("asking for a run: %w", err)
	}
	return request, nil
}

// Answers tells of an expectation whether its status is the result of a request.
func Answers(request string) func(*v1alpha1.ConnectivityExpectation) bool {
	return func(e *v1alpha1.ConnectivityExpectation) bool {
		return e.Status.LastHandledRequest == request && Ready(e).Reason != v1alpha1.ReasonPending
	}
}

// Twin makes an expectation that declares what another one does, and is probed from pods
// that stay. change changes how it is probed; nil changes nothing more.
func (b *Bed) Twin(ctx context.Context, key types.NamespacedName, change func(*v1alpha1.ProbeSettings)) (*v1alpha1.ConnectivityExpectation, error) {
	exp, err := b.Expectation(ctx, key)
	if err != nil {
		return nil, err
	}
	twin := &v1alpha1.ConnectivityExpectation{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name + "-resident"}, Spec: exp.Spec}
	twin.Spec.Probe.Mode = v1alpha1.ProbeModeResident
	if change != nil {
		change(&twin.Spec.Probe)
	}
	if err := b.Client.Create(ctx, twin); err != nil {
		return nil, fmt.Errorf("creating expectation %s/%s: %w", twin.Namespace, twin.Name, err)
	}
	return twin, nil
}

// Await waits until an expectation is as wanted. The context bounds the wait.
func (b *Bed) Await(ctx context.Context, key types.NamespacedName, done func(*v1alpha1.ConnectivityExpectation) bool) (*v1alpha1.ConnectivityExpectation, error) {
	var last *v1alpha1.ConnectivityExpectation
	err := wait.PollUntilContextCancel(ctx, poll, true, func(ctx context.Context) (bool, error) {
		exp, err := b.Expectation(ctx, key)
		if err != nil {
			// A server that restarts is no reason to give up.
			return false, nil //nolint:nilerr // the context ends the wait
		}
		last = exp
		return done(exp), nil
	})
	if err != nil && last != nil {
		return last, fmt.Errorf("waiting for expectation %s: %w: Ready is %s %s: %s", key, err, Ready(last).Status, Ready(last).Reason, Ready(last).Message)
	}
	return last, err
}

// Condition returns a condition of an expectation; an empty one when it is not set.
func Condition(e *v1alpha1.ConnectivityExpectation, conditionType string) metav1.Condition {
	if c := meta.FindStatusCondition(e.Status.Conditions, conditionType); c != nil {
		return *c
	}
	return metav1.Condition{Type: conditionType}
}

// Ready returns the condition Ready.
func Ready(e *v1alpha1.ConnectivityExpectation) metav1.Condition {
	return Condition(e, v1alpha1.ConditionReady)
}

// Inconclusive returns an error unless there are findings about a path, all of them are
// inconclusive by this cause and have these words for it, and nothing of the expectation
// is a violation or makes it Ready.
func Inconclusive(e *v1alpha1.ConnectivityExpectation, path, cause string, words ...string) error {
	found := 0
	for _, f := range e.Status.Findings {
		if f.Path != path {
			continue
		}
		found++
		if f.Cause != cause || f.Observed == nil || f.Observed.Result != "Inconclusive" {
			return fmt.Errorf("path %s: want Inconclusive by %s, got %s: %s", path, cause, f.Cause, f.Message)
		}
		for _, w := range words {
			if !strings.Contains(f.Observed.Evidence, w) {
				return fmt.Errorf("path %s: want %q in the evidence, got %q", path, w, f.Observed.Evidence)
			}
		}
	}
	switch ready := Ready(e); {
	case found == 0:
		return fmt.Errorf("path %s: there is no finding; Ready is %s %s: %s", path, ready.Status, ready.Reason, ready.Message)
	case e.Status.Summary.Violated > 0 || ready.Status != metav1.ConditionUnknown:
		return fmt.Errorf("path %s: Ready is %s %s with %d violations: %s", path, ready.Status, ready.Reason, e.Status.Summary.Violated, ready.Message)
	}
	return nil
}
