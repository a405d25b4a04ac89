// Command demo shows what pathproof does, on a real cluster: the production
// scenario met, then enforcement broken on one node, then a policy deleted, then
// all healed. At each step it says what it does and why.
//
// It uses the lab on this machine, or the cluster of KUBECONFIG (whose
// enforcement it cannot break: that step is left out, and said so).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/test/testbed"
)

// stepTimeout bounds the wait for one state. A run takes seconds; a busy machine
// may need several times that.
const stepTimeout = 3 * time.Minute

var key = types.NamespacedName{Namespace: "production", Name: "mongodb"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo is the state of one show.
type demo struct {
	bed  *testbed.Bed
	step int
}

func run(ctx context.Context) (err error) {
	bed, err := testbed.Up(ctx, func(format string, args ...any) { fmt.Printf("    "+format+"\n", args...) })
	if err != nil {
		return err
	}
	d := &demo{bed: bed}
	// The lab stays up after a show that went well, to be played with. Ctrl-C and
	// failures leave the enforcement healed and nothing else behind.
	defer func() {
		if err == nil {
			bed.Keep()
		}
		cleanup := context.WithoutCancel(ctx)
		if bed.Lab && err != nil {
			err = errors.Join(err, bed.Heal(cleanup))
		}
		err = errors.Join(err, bed.Close(cleanup))
	}()
	for _, act := range []func(context.Context) error{d.install, d.met, d.broken, d.drift, d.healed} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	d.next()
	return nil
}

func (d *demo) say(format string, args ...any) {
	d.step++
	fmt.Printf("\n%d. %s\n\n", d.step, fmt.Sprintf(format, args...))
}

func (d *demo) install(ctx context.Context) error {
	d.say("Install the operator and the production scenario: a frontend, a backend, a MongoDB, and the\n" +
		"   policies that let only the backend reach MongoDB, and the backend reach only MongoDB and DNS.")
	if err := d.bed.Install(ctx); err != nil {
		return err
	}
	if err := d.bed.Kubectl(ctx, "apply", "-k", d.bed.Path("config/samples/production")); err != nil {
		return err
	}
	if err := d.probeImage(ctx); err != nil {
		return err
	}
	for _, name := range []string{"frontend", "backend", "mongodb"} {
		if err := d.bed.Kubectl(ctx, "-n", "production", "rollout", "status", "deployment/"+name, "--timeout=180s"); err != nil {
			return err
		}
	}
	return d.show(ctx, "-n", "production", "get", "networkpolicies,deployments,services")
}

// probeImage makes the stand-in workloads use the probe image of the cluster.
func (d *demo) probeImage(ctx context.Context) error {
	image := os.Getenv("PATHPROOF_PROBE_IMAGE")
	if image == "" || d.bed.Lab {
		return nil
	}
	for _, name := range []string{"frontend", "backend", "mongodb"} {
		if err := d.bed.Kubectl(ctx, "-n", "production", "set", "image", "deployment/"+name, name+"="+image); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) met(ctx context.Context) error {
	d.say("The expectation declares eight paths, open and closed. The operator predicts each from the\n" +
		"   policies, probes it from pods with the workloads' labels, and compares. A closed path counts only\n" +
		"   because others reached the same port from the same node in the same run.")
	exp, err := d.await(ctx, "Ready is True", func(e *v1alpha1.ConnectivityExpectation) bool { return testbed.Ready(e).Status == metav1.ConditionTrue })
	if err != nil {
		return err
	}
	return d.result(ctx, exp)
}

func (d *demo) broken(ctx context.Context) error {
	if !d.bed.Lab {
		d.say("Left out: breaking the enforcement on one node needs the lab (unset KUBECONFIG).")
		return nil
	}
	node, err := d.nodeOf(ctx, "mongodb")
	if err != nil {
		return err
	}
	d.say("Switch the enforcement off on %s, where MongoDB runs. Kubernetes notices nothing: the policies are\n"+
		"   there, and their status says nothing. The operator notices, and names path, node and policy.", node)
	if err := d.bed.Break(ctx, "off", node); err != nil {
		return err
	}
	exp, err := d.probe(ctx, "Enforced is False", func(e *v1alpha1.ConnectivityExpectation) bool {
		return testbed.Condition(e, v1alpha1.ConditionEnforced).Status == metav1.ConditionFalse
	})
	if err != nil {
		return err
	}
	if err := d.result(ctx, exp); err != nil {
		return err
	}
	return d.bed.Heal(ctx)
}

func (d *demo) drift(ctx context.Context) error {
	d.say("Delete the policy that protects MongoDB. Now the network does what the policies say, but the\n" +
		"   policies do not say what was declared: drift. Nobody has to ask for a run, the change starts one.")
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "production", Name: "allow-backend-to-mongodb"}}
	if err := d.bed.Client.Delete(ctx, policy); err != nil {
		return fmt.Errorf("deleting the policy: %w", err)
	}
	exp, err := d.await(ctx, "PolicyAligned is False", func(e *v1alpha1.ConnectivityExpectation) bool {
		return testbed.Condition(e, v1alpha1.ConditionPolicyAligned).Status == metav1.ConditionFalse && testbed.Ready(e).Status == metav1.ConditionFalse
	})
	if err != nil {
		return err
	}
	return d.result(ctx, exp)
}

func (d *demo) healed(ctx context.Context) error {
	d.say("Put the policy back.")
	if err := d.bed.Kubectl(ctx, "apply", "-f", d.bed.Path("config/samples/production/policies.yaml")); err != nil {
		return err
	}
	exp, err := d.await(ctx, "Ready is True again", func(e *v1alpha1.ConnectivityExpectation) bool { return testbed.Ready(e).Status == metav1.ConditionTrue })
	if err != nil {
		return err
	}
	return d.result(ctx, exp)
}

func (d *demo) next() {
	if !d.bed.Lab {
		fmt.Print("\nWhat to try next: kubectl -n production edit cxp mongodb\n")
		return
	}
	fmt.Print(`
What to try next (the lab stays up):

   export KUBECONFIG=$(go run ./test/lab kubeconfig)
   kubectl -n production describe cxp mongodb
   kubectl -n production delete networkpolicy allow-backend-dns     # and watch DNS fail over UDP and TCP
   go run ./test/lab modes                                          # other ways to break enforcement
   go run ./test/lab break egress-ignored --node node-a
   go run ./test/lab down                                           # remove everything
`)
}

// await waits for a state, and says what for.
func (d *demo) await(ctx context.Context, what string, done func(*v1alpha1.ConnectivityExpectation) bool) (*v1alpha1.ConnectivityExpectation, error) {
	return d.awaitSince(ctx, time.Now(), what, done)
}

func (d *demo) awaitSince(ctx context.Context, start time.Time, what string, done func(*v1alpha1.ConnectivityExpectation) bool) (*v1alpha1.ConnectivityExpectation, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	exp, err := d.bed.Await(ctx, key, done)
	if err == nil {
		fmt.Printf("   %s after %.1f s\n\n", what, time.Since(start).Seconds())
	}
	return exp, err
}

// probe asks for a run first.
func (d *demo) probe(ctx context.Context, what string, done func(*v1alpha1.ConnectivityExpectation) bool) (*v1alpha1.ConnectivityExpectation, error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	if _, err := d.bed.Probe(ctx, key); err != nil {
		return nil, err
	}
	return d.awaitSince(ctx, start, what, done)
}

// result shows the table, the conditions and the first findings.
func (d *demo) result(ctx context.Context, exp *v1alpha1.ConnectivityExpectation) error {
	if err := d.show(ctx, "-n", key.Namespace, "get", "cxp", key.Name); err != nil {
		return err
	}
	for _, c := range exp.Status.Conditions {
		fmt.Printf("   %-14s %-8s %s\n", c.Type, c.Status, c.Reason)
	}
	const most = 4
	for i, f := range exp.Status.Findings {
		if i == most {
			fmt.Printf("   ... and %d more\n", len(exp.Status.Findings)-most)
			break
		}
		fmt.Printf("   %s: %s: %s\n", f.Path, f.Cause, f.Message)
	}
	return nil
}

// show runs kubectl and prints the command and its output.
func (d *demo) show(ctx context.Context, args ...string) error {
	out, err := d.bed.KubectlOutput(ctx, args...)
	if err != nil {
		return err
	}
	fmt.Printf("   $ kubectl %s\n", strings.Join(args, " "))
	for line := range strings.Lines(out) {
		fmt.Print("   " + line)
	}
	fmt.Println()
	return nil
}

func (d *demo) nodeOf(ctx context.Context, app string) (string, error) {
	var pods corev1.PodList
	if err := d.bed.Client.List(ctx, &pods, client.InNamespace("production"), client.MatchingLabels{"app": app}); err != nil {
		return "", fmt.Errorf("listing pods: %w", err)
	}
	for _, p := range pods.Items {
		if p.Spec.NodeName != "" && p.DeletionTimestamp == nil {
			return p.Spec.NodeName, nil
		}
	}
	return "", fmt.Errorf("no pod of %s runs", app)
}
