// Package doctor finds out, against any cluster and without an operator, whether the
// network enforces NetworkPolicies: on which nodes, for which features, in which direction.
// It measures what the enforcement canary does (package canary), for a few rounds, in two
// namespaces of its own with the permissions of its user, and removes them. What was found
// becomes a report of package diagnosis.
//
// Everything that is created lies in the two namespaces, so that deleting them leaves
// nothing. A run that is killed leaves them behind: its pods are ended by the kubelet, and
// the first run after the time that the namespaces carry removes them.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	authorizationv1client "k8s.io/client-go/kubernetes/typed/authorization/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	networkingv1client "k8s.io/client-go/kubernetes/typed/networking/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/cluster"
	"github.com/pathproof/pathproof/diagnosis"
	"github.com/pathproof/pathproof/podlog"
	"github.com/pathproof/pathproof/probepod"
)

const (
	// neighbours is the number of other nodes that each node probes, as of the canary.
	neighbours = 2
	// atOnce bounds the requests that are under way.
	atOnce = 8
	// poll is the time between two looks at pods and namespaces.
	poll = 300 * time.Millisecond
	// spare is the time of a run that is left to measure when pods are slow to start.
	spare = 40 * time.Second
)

// Clients are those of the API groups that doctor uses.
type Clients struct {
	Core          corev1client.CoreV1Interface
	Networking    networkingv1client.NetworkingV1Interface
	Authorization authorizationv1client.AuthorizationV1Interface
}

// NewClients makes the clients of a configuration.
func NewClients(config *rest.Config) (c Clients, err error) {
	config = rest.CopyConfig(config)
	// The limit of requests under way is enough.
	config.QPS = -1
	config.WarningHandler = rest.NoWarnings{}
	var errs [3]error
	c.Core, errs[0] = corev1client.NewForConfig(config)
	c.Networking, errs[1] = networkingv1client.NewForConfig(config)
	c.Authorization, errs[2] = authorizationv1client.NewForConfig(config)
	if err := errors.Join(errs[:]...); err != nil {
		return c, fmt.Errorf("making a client: %w", err)
	}
	return c, nil
}

// Config says what to examine, and how.
type Config struct {
	Clients Clients
	Logs    podlog.Reader
	Clock   clock.WithTicker
	// Server is the address of the API server, for people.
	Server string
	// Run is unique, and part of the names of the namespaces: at most 20 characters of a
	// DNS label.
	Run   string
	Image probepod.Image
	// Features are those to test.
	Features []v1alpha1.CanaryFeature
	// Nodes are the names of the nodes to choose, all if there is none; Selector selects
	// among them by their labels.
	Nodes    []string
	Selector string
	// MaxNodes is the number of nodes that are tested at most. Of more, a sample is.
	MaxNodes int
	// Timeout bounds the examination. What is removed after it takes its own time.
	Timeout time.Duration
	// Say tells the user something; Progress tells what is going on.
	Say, Progress func(text string)
}

// Doctor examines one cluster once.
type Doctor struct {
	Config
	// created is set before the first object is.
	created bool
	mailbox *mailbox
}

// New returns a doctor.
func New(c Config) *Doctor { return &Doctor{Config: c} }

// obstacleError is a reason for which nothing can be measured, with what to do about it.
type obstacleError struct {
	text   string
	advice []string
}

// Error returns the reason.
func (e *obstacleError) Error() string { return e.text }

func obstacle(text string, advice ...string) error { return &obstacleError{text, advice} }

// Examine creates what it takes, measures, and reports. It removes nothing: Delete does. It
// returns an error only if the context is cancelled.
func (d *Doctor) Examine(ctx context.Context) (*diagnosis.Report, error) {
	f := diagnosis.Findings{
		Server: d.Server, Image: d.Image.Name, StartedAt: d.Clock.Now(), Rows: canary.Rows(d.Features),
	}
	timed, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	err := d.examine(timed, &f)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		f.Obstacle, f.Advice = d.describe(err, timed.Err() != nil)
	}
	f.Elapsed = d.Clock.Since(f.StartedAt)
	return diagnosis.New(f), nil
}

func (d *Doctor) examine(ctx context.Context, f *diagnosis.Findings) error {
	if err := d.checkAccess(ctx); err != nil {
		return err
	}
	if err := d.sweep(ctx); err != nil {
		return err
	}
	s, err := d.survey(ctx, f)
	if err != nil {
		return err
	}
	d.Progress(fmt.Sprintf("creating %d pods on %d nodes, in the namespaces %s", len(canary.Roles())*len(s.ring), len(s.ring), strings.Join(d.namespaces(), " and ")))
	if err := d.createNamespaces(ctx); err != nil {
		return err
	}
	if err := d.createPolicies(ctx, s, canary.Policies(d.namespace(), d.Features)); err != nil {
		return err
	}
	if err := d.createPods(ctx, s); err != nil {
		return err
	}
	if err := d.awaitPods(ctx, s); err != nil {
		return err
	}
	if err := d.createBlockPolicies(ctx, s); err != nil {
		return err
	}
	return d.measure(ctx, s, f)
}

// describe turns an error into a reason and what to do about it.
func (d *Doctor) describe(err error, late bool) (reason string, advice []string) {
	var o *obstacleError
	switch {
	case errors.As(err, &o):
		return o.text, o.advice
	case late:
		return fmt.Sprintf("it took longer than %s: %v", d.Timeout, err), []string{"Give it more time with --timeout."}
	}
	return cluster.Describe(d.Server, err).Error(), nil
}

func (d *Doctor) settings() canary.PodSettings {
	return canary.PodSettings{
		Name: d.namespace(), Namespace: d.namespace(), Features: d.Features, Image: d.Image, Lifetime: d.podLifetime(),
		// The pods of a cluster's own nodes are often kept away by such taints only, and its
		// policies hold there, too.
		Tolerations: tolerations(),
	}
}

func tolerations() []corev1.Toleration {
	return []corev1.Toleration{{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}
}

// sleep waits, unless the context ends.
func (d *Doctor) sleep(ctx context.Context, t time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-d.Clock.After(t):
		return nil
	}
}
