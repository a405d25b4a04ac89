// Package evaluator predicts whether network policies allow a flow, and says why. It
// knows NetworkPolicy, ClusterNetworkPolicy, AdminNetworkPolicy and
// BaselineAdminNetworkPolicy.
//
// It is pure: Compile turns a Snapshot into an Engine once, With turns it into the
// next after a change, Decide answers one flow, Table all flows between pods. None of
// them knows a client, a clock, a context or a log, and none fails: bad input becomes
// a Problem, an answer that cannot be known becomes Undefined.
//
// The semantics are those of docs/semantics.md; its rule numbers (S2, S10, …) are
// repeated at the code that implements them and in the names of the tests.
//
// # Three values
//
// Every question below a Decision ("does this peer match?", "does this port
// match?") is answered no, maybe or yes. A peer or a port of a NetworkPolicy can only
// ever add an allowed flow, so two extreme readings bound all others: the one that
// takes every maybe for no, and the one that takes every maybe for yes. If a pod is
// allowed under the first it is Allowed, if it is not allowed under the second it is
// Denied, and otherwise the readings differ and the answer is Undefined.
//
// Rules of cluster-wide policies deny and pass as well as allow, and the first that
// matches hides the others, so that no two readings bound the rest. Where such
// policies apply, a maybe becomes a question, and the flow is evaluated from
// beginning to end under each combination of answers to the questions that it
// meets. The same question has the same answer wherever it is asked: what a port
// name stands for does not differ between two rules. The verdict stands if all agree.
//
// Host-network pods (S13) are different: the readings that the API permits change
// which policies apply as well as who matches, in both directions at once. Each of
// them is therefore evaluated from beginning to end, and the verdict stands only
// if all agree. That is why a verdict can be Denied although each direction on its
// own is Undefined.
//
// A policy that is invalid may or may not be in force, and may or may not allow
// or, if it is cluster-wide, deny the flow, independently of every other policy (X1).
package evaluator
