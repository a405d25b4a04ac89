package controllers

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/flow"
)

// clusterPolicyCRD is the CRD of ClusterNetworkPolicy.
const clusterPolicyCRD = "clusternetworkpolicies.policy.networking.k8s.io"

// keepClusterPolicy keeps the one ClusterNetworkPolicy of the canary, while the API server
// serves the kind. Otherwise, or if it may not be written, its rows are untestable, and say
// why. It ends the reconcile until the policy is as it should be.
func (r *CanaryReconciler) keepClusterPolicy(ctx context.Context, s *canaryScope) (bool, error) {
	if r.kinds == nil {
		s.untestable("the operator does not read policies of other kinds")
		return false, nil
	}
	state, err := r.kinds.state(ctx, clusterPolicyCRD)
	switch {
	case err != nil:
		return false, err
	case state == kindReading && slices.Contains(s.features, v1alpha1.FeatureClusterNetworkPolicy):
		// What was measured without it would be given up as soon as it is there.
		s.starting("ClusterNetworkPolicies are being read")
		s.again(canaryRetry)
		return true, nil
	case state != kindRead:
		s.untestable(map[kindState]string{
			kindIgnored:  "the operator was told to ignore ClusterNetworkPolicies",
			kindUnserved: "the API server does not serve ClusterNetworkPolicies of policy.networking.k8s.io/v1alpha2",
			kindFailed:   "the operator cannot read ClusterNetworkPolicies",
		}[state])
		return false, nil
	}
	// Where the CRD goes at this very moment, the cache would wait for its return.
	ctx, cancel := context.WithTimeout(ctx, syncPatience)
	defer cancel()
	have := &policyv1alpha2.ClusterNetworkPolicy{}
	err = r.client.Get(ctx, client.ObjectKey{Name: canary.ClusterPolicyName}, have)
	switch {
	case apierrors.IsNotFound(err):
		have = nil
	case err != nil:
		return false, fmt.Errorf("reading ClusterNetworkPolicy %s: %w", canary.ClusterPolicyName, err)
	}
	return r.writeClusterPolicy(ctx, s, have)
}

// writeClusterPolicy puts the policy right. have is nil if there is none.
func (r *CanaryReconciler) writeClusterPolicy(ctx context.Context, s *canaryScope, have *policyv1alpha2.ClusterNetworkPolicy) (bool, error) {
	want := canary.ClusterPolicy(s.canary.Name, string(s.canary.Spec.Namespace))
	want.OwnerReferences = canaryOwner(s.canary)
	asked := slices.Contains(s.features, v1alpha1.FeatureClusterNetworkPolicy)
	switch {
	case have != nil && !ownedByCanary(have, s.canary):
		s.untestable(fmt.Sprintf("ClusterNetworkPolicy %s is there, and does not belong to this canary: delete it", have.Name))
		return false, nil
	case !asked && have == nil:
		return false, nil
	case !asked:
		return false, client.IgnoreNotFound(r.client.Delete(ctx, have))
	case have != nil && equality.Semantic.DeepEqual(have.Spec, want.Spec):
		s.policies[""] += flow.ID(string(have.UID), strconv.FormatInt(have.Generation, 10))
		return false, nil
	case s.now.Before(s.state.refusedUntil):
		s.untestable(s.state.refusal)
		return false, nil
	}
	var err error
	if have == nil {
		err = r.client.Create(ctx, want)
	} else {
		right := have.DeepCopy()
		right.Spec = want.Spec
		err = r.client.Patch(ctx, right, client.MergeFrom(have))
	}
	if apierrors.IsForbidden(err) {
		// Somebody may permit it later: there is no event of that.
		s.state.refusedUntil = s.now.Add(canaryInterval(s.canary))
		s.state.refusal = truncate(fmt.Sprintf("the operator may not write ClusterNetworkPolicies, which config/clusternetworkpolicy permits: %v", err), maxText)
		s.again(canaryInterval(s.canary))
		s.untestable(s.state.refusal)
		return false, nil
	}
	if client.IgnoreAlreadyExists(client.IgnoreNotFound(err)) != nil {
		return false, fmt.Errorf("writing ClusterNetworkPolicy %s: %w", want.Name, err)
	}
	s.starting("the policies are being written")
	s.again(canaryRetry)
	return true, nil
}

// untestable says why the rows of ClusterNetworkPolicy are Unsupported on all nodes.
func (s *canaryScope) untestable(why string) {
	for i := range s.rows {
		if s.rows[i].Feature == v1alpha1.FeatureClusterNetworkPolicy {
			s.rows[i].Untestable = why
		}
	}
}

// untested says of what nothing is tested, in words to be added to a message.
func (s *canaryScope) untested() string {
	i := slices.IndexFunc(s.rows, func(r canary.Row) bool { return r.Untestable != "" })
	if i < 0 {
		return ""
	}
	return fmt.Sprintf("; %s is not tested: %s", s.rows[i].Feature, s.rows[i].Untestable)
}
