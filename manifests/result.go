package manifests

import (
	"fmt"
	"strings"

	"github.com/pathproof/pathproof/api/v1alpha1"
	"github.com/pathproof/pathproof/plan"
)

// Place is a position in the input.
type Place struct {
	// File is as it was named, or found below what was named; "-" is the standard
	// input. It is empty for what a cluster holds.
	File string
	// Line counts from 1; 0 means that it is not known.
	Line int
	// Item is the path of an object inside of a list, such as items[2]; empty for an
	// object of its own.
	Item string
}

// String renders file:line, and the item if there is one.
func (p Place) String() string {
	s := p.File
	switch s {
	case "-":
		s = "standard input"
	case "":
		s = "the cluster"
	}
	if p.Line > 0 {
		s = fmt.Sprintf("%s:%d", s, p.Line)
	}
	if p.Item != "" {
		s += " (" + p.Item + ")"
	}
	return s
}

// Problem is input that cannot be used. Nothing is guessed in its place.
type Problem struct {
	Place Place
	// Object names the object at fault, as in NetworkPolicy production/web; empty if
	// it is not known.
	Object string
	// Message says what is wrong and what to write instead.
	Message string
}

// String renders the problem on one line.
func (p Problem) String() string {
	parts := []string{p.Place.String()}
	if p.Object != "" {
		parts = append(parts, p.Object)
	}
	return strings.Join(append(parts, p.Message), ": ")
}

// Skipped counts the objects of one kind that were not read.
type Skipped struct {
	APIVersion, Kind string
	Count            int
	// Policy is set for kinds that can forbid or allow traffic: a prediction that
	// ignores them may be wrong.
	Policy bool
	// First is where the first of them is.
	First Place
	// Unread says why the objects of the kind cannot be read, so that there may be any
	// number of them; empty if they can.
	Unread string
	// Hint says what to do instead; empty if nothing needs to be done.
	Hint string
}

// String says what was skipped, and where.
func (s Skipped) String() string {
	switch {
	case s.Unread != "":
		return fmt.Sprintf("%s (%s) in any number, because they cannot be read: %s", s.Kind, s.APIVersion, s.Unread)
	case s.First == Place{}:
		return fmt.Sprintf("%d %s (%s) in the cluster", s.Count, s.Kind, s.APIVersion)
	}
	return fmt.Sprintf("%d %s (%s), the first in %s", s.Count, s.Kind, s.APIVersion, s.First)
}

// Expectation is a ConnectivityExpectation of the input.
type Expectation struct {
	Object *v1alpha1.ConnectivityExpectation
	// JSON is the object as it was written, for validation against its CRD. It is nil
	// for one of a cluster, whose API server has validated it.
	JSON  []byte
	Place Place
	// PathLines are the lines on which the paths begin, by the path's name.
	PathLines map[string]int
}

// Result is everything that was read.
type Result struct {
	Snapshot     plan.Snapshot
	Expectations []Expectation
	// Skipped is sorted by kind.
	Skipped []Skipped
	// Problems are in the order of the input.
	Problems []Problem
	// Notes say what was assumed where the input leaves it open.
	Notes []string
	// Objects counts what was found, lists by their items.
	Objects int
	// read counts the objects of kinds that are read.
	read int

	workloads []workload
	// overCluster is set if the input was laid over a cluster.
	overCluster bool
	// ignored are kinds of policy that decide nothing.
	ignored []string
	// madePods and madeNodes are set if addresses of pods, or of nodes, were made up.
	madePods, madeNodes bool
}

// Unmodelled lists the kinds of policy that were skipped, without those that the
// caller chose to ignore.
func (r *Result) Unmodelled() []Skipped {
	var out []Skipped
	for _, s := range r.Skipped {
		if s.Policy && !s.ignored(r.ignored) {
			out = append(out, s)
		}
	}
	return out
}

func (s Skipped) ignored(names []string) bool {
	group, _, _ := strings.Cut(s.APIVersion, "/")
	for _, n := range names {
		if strings.EqualFold(n, s.Kind) || strings.EqualFold(n, s.Kind+"."+group) {
			return true
		}
	}
	return false
}
