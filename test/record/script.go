package main

import (
	"context"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/test/testbed"
)

const (
	canaryNamespace    = "pathproof-canary"
	operatorNamespace  = "pathproof-system"
	operatorDeployment = "deployment/pathproof-manager"
)

var (
	production = testbed.Production.Key
	// late is the expectation of which nothing is found out until its target is there.
	late = client.ObjectKey{Namespace: production.Namespace, Name: "late"}
)

// part is one recording.
type part struct {
	name   string
	script func(context.Context, *recorder) error
}

var parts = []part{{"enforcement", enforcement}, {"silence", silence}, {"operator", operator}}

func partNames() (out []string) {
	for _, p := range parts {
		out = append(out, p.name)
	}
	return out
}

// Series that the scripts wait for, by their names and some of their labels.
var (
	ready      = []string{"pathproof_expectation_ready{", label("expectation", production.Name)}
	ranAge     = []string{"pathproof_run_age_seconds{", label("expectation", production.Name)}
	lateAge    = []string{"pathproof_conclusive_run_age_seconds{", label("expectation", late.Name)}
	lateReady  = []string{"pathproof_expectation_ready{", label("expectation", late.Name)}
	notOnNodes = []string{"pathproof_canary_feature_nodes{", label("feature", "DefaultDeny"), label("verdict", "NotEnforced")}
	unknown    = []string{"pathproof_canary_nodes{", label("state", "Unknown")}
	roundAge   = []string{"pathproof_canary_complete_round_age_seconds{"}
	violations = []string{"pathproof_enforcement_violation_seconds{"}
	active     = []string{"pathproof_operator_active{"}
	yes, no    = label("status", "True"), label("status", "False")
)

func label(name, value string) string { return fmt.Sprintf("%s=%q", name, value) }

// The times that conditions are kept up: a little longer than the alerts wait.
const (
	margin        = 15 * time.Second
	holdViolated  = 2*time.Minute + margin
	holdMended    = 2*time.Minute + margin
	holdOld       = time.Minute + margin
	holdUncovered = 3*time.Minute + margin
	holdAbsent    = 2*time.Minute + margin
)

// enforcement switches enforcement off, on one node and then on all, and on again.
func enforcement(ctx context.Context, r *recorder) error {
	return r.play(ctx, []step{
		{hold: 20 * time.Second},
		{mark: "node broken", do: func(ctx context.Context) error { return r.breakOff(ctx, r.broken) }},
		{until: func(v view) bool {
			return v.count(ready, no) == 1 && v.max(violations) > canarySeconds+margin.Seconds()
		}},
		{hold: holdViolated},
		{mark: "cluster broken", do: func(ctx context.Context) error { return r.breakOff(ctx, "") }},
		{until: func(v view) bool { return v.max(notOnNodes) == 2 }},
		{hold: margin},
		{mark: "mended", do: func(ctx context.Context) error {
			if err := r.bed.Heal(ctx); err != nil {
				return err
			}
			_, err := r.bed.Probe(ctx, production)
			return err
		}},
		{until: func(v view) bool { return v.count(violations) == 0 && v.count(ready, yes) == 1 }},
		{hold: holdMended},
	})
}

// silence keeps the canary's pods off a node, and the operator from making runs; of one
// expectation there is nothing to find out.
func silence(ctx context.Context, r *recorder) error {
	var uncovered time.Time // when that was first seen
	return r.play(ctx, []step{
		{hold: 20 * time.Second},
		{mark: "pods of a node refused", do: r.refuse},
		{mark: "target declared", do: r.declareLate},
		{mark: "runs blocked", do: r.block},
		{until: func(v view) bool { return v.max(unknown) > 0 }, do: func(context.Context) error {
			uncovered = r.now()
			return nil
		}},
		{until: func(v view) bool { return v.max(ranAge) > 3*expectationSeconds && v.max(lateAge) > 10*lateSeconds }},
		{hold: holdOld},
		{mark: "runs unblocked", do: r.unblock},
		{mark: "target there", do: r.nameTarget},
		{do: func(ctx context.Context) error { _, err := r.bed.Request(ctx, production); return err }},
		{until: func(v view) bool { return v.count(lateReady, yes) == 1 && v.max(ranAge) < expectationSeconds }},
		{do: func(ctx context.Context) error { return r.pause(ctx, holdUncovered-r.now().Sub(uncovered)) }},
		{mark: "pods of a node admitted", do: r.admit},
		{until: func(v view) bool { return v.max(unknown) == 0 && v.max(roundAge) < 2*canarySeconds }},
		{hold: 20 * time.Second},
	})
}

// operator stops the operator and starts it again.
func operator(ctx context.Context, r *recorder) error {
	return r.play(ctx, []step{
		{hold: 20 * time.Second},
		{mark: "operator stopped", do: func(ctx context.Context) error { return r.scale(ctx, 0) }},
		{hold: holdAbsent + 2*every},
		{mark: "operator started", do: func(ctx context.Context) error { return r.scale(ctx, 1) }},
		{until: func(v view) bool {
			return v.max(active) == 1 && v.max(ranAge) < expectationSeconds && v.max(roundAge) < 2*canarySeconds
		}},
		{hold: 2 * canarySeconds * time.Second},
	})
}

// breakOff switches enforcement off on a node, or (empty) on all, and asks for a run that
// sees it.
func (r *recorder) breakOff(ctx context.Context, node string) error {
	if err := r.bed.Break(ctx, "off", node); err != nil {
		return err
	}
	_, err := r.bed.Request(ctx, production)
	return err
}

// declareLate declares a path to a target that is not there.
func (r *recorder) declareLate(ctx context.Context) error {
	return r.bed.Kubectl(ctx, "apply", "-f", r.bed.Path("test/record/testdata/late.yaml"))
}

// nameTarget makes it a target that is there.
func (r *recorder) nameTarget(ctx context.Context) error {
	return r.bed.Kubectl(ctx, "-n", late.Namespace, "patch", "cxp", late.Name, "--type=json",
		`--patch=[{"op":"replace","path":"/spec/paths/0/to/podSelector/matchLabels/app","value":"mongodb"}]`)
}

// refuse keeps the canary's pods off the other node: those that are there go, and a quota
// admits no new ones.
func (r *recorder) refuse(ctx context.Context) error {
	if err := r.bed.Kubectl(ctx, "-n", canaryNamespace, "create", "quota", "none", "--hard=pods=0"); err != nil {
		return err
	}
	return r.bed.Kubectl(ctx, "-n", canaryNamespace, "delete", "pods", "--field-selector=spec.nodeName="+r.other, "--wait=false")
}

func (r *recorder) admit(ctx context.Context) error {
	return r.bed.Kubectl(ctx, "-n", canaryNamespace, "delete", "quota", "none", "--ignore-not-found")
}

// block has the API server ask a webhook, which nobody serves, before it creates a pod in
// the scenario's namespace: it fails, and refuses nothing.
func (r *recorder) block(ctx context.Context) error {
	return r.bed.Kubectl(ctx, "apply", "-f", r.bed.Path("test/record/testdata/webhook.yaml"))
}

func (r *recorder) unblock(ctx context.Context) error {
	return r.bed.Kubectl(ctx, "delete", "--ignore-not-found", "-f", r.bed.Path("test/record/testdata/webhook.yaml"))
}

// scale starts or stops the operator, and waits until it is so.
func (r *recorder) scale(ctx context.Context, replicas int) error {
	if err := r.bed.Kubectl(ctx, "-n", operatorNamespace, "scale", operatorDeployment, fmt.Sprintf("--replicas=%d", replicas)); err != nil {
		return err
	}
	return r.bed.Kubectl(ctx, "-n", operatorNamespace, "rollout", "status", operatorDeployment, "--timeout=60s")
}
