package evaluator

import (
	"fmt"
	"slices"
	"strings"
)

// Profile says how the network implementation of a cluster settles what the API
// leaves open. Each field is one question. The zero value settles nothing: then both
// answers are tried, and a verdict that depends on the question is Undefined.
//
// A Profile only ever removes answers that would have been tried otherwise. It turns
// Undefined into Allowed or Denied, and never one of these into the other.
type Profile struct {
	// IPBlockMatchesPods tells whether an ipBlock matches a pod whose address lies in it
	// (rule S10).
	IPBlockMatchesPods Setting
	// IPBlockMatchesNodes tells the same of an address of a node.
	IPBlockMatchesNodes Setting
	// HostNetworkPodsPoliced tells whether NetworkPolicies apply to pods on the host
	// network (rule S13).
	HostNetworkPodsPoliced Setting
	// HostNetworkPodsSelectable tells whether selectors of peers select them.
	HostNetworkPodsSelectable Setting
	// PodReachesOwnNode tells whether a pod reaches the node that it runs on whatever
	// its egress policies say (rule S14).
	PodReachesOwnNode Setting
}

// Setting is the answer of a Profile to one question.
type Setting uint8

const (
	// Unset leaves the question open.
	Unset Setting = iota
	// False answers no.
	False
	// True answers yes.
	True
)

// settings are the values of a Setting as they are written.
var settings = map[string]Setting{"true": True, "false": False}

// String returns how the setting is written; empty if it is not set.
func (s Setting) String() string {
	switch s {
	case Unset:
		return ""
	case False:
		return "false"
	case True:
		return "true"
	}
	return fmt.Sprintf("Setting(%d)", uint8(s))
}

// truth is what the setting says about a question.
func (s Setting) truth() truth {
	switch s {
	case True:
		return yes
	case False:
		return no
	case Unset:
	}
	return maybe
}

// permits tells whether the answer is one that the setting leaves.
func (s Setting) permits(answer bool) bool {
	return s == Unset || (s == True) == answer
}

// Keys of assumptions.
const (
	keyBlockPods      = "ipBlockMatchesPods"
	keyBlockNodes     = "ipBlockMatchesNodes"
	keyHostPoliced    = "hostNetworkPodsPoliced"
	keyHostSelectable = "hostNetworkPodsSelectable"
	keyOwnNode        = "podReachesOwnNode"
)

// profileFields names the fields of a Profile as users write them, in the order in
// which they are documented.
var profileFields = []struct {
	key string
	of  func(*Profile) *Setting
}{
	{keyBlockPods, func(p *Profile) *Setting { return &p.IPBlockMatchesPods }},
	{keyBlockNodes, func(p *Profile) *Setting { return &p.IPBlockMatchesNodes }},
	{keyHostPoliced, func(p *Profile) *Setting { return &p.HostNetworkPodsPoliced }},
	{keyHostSelectable, func(p *Profile) *Setting { return &p.HostNetworkPodsSelectable }},
	{keyOwnNode, func(p *Profile) *Setting { return &p.PodReachesOwnNode }},
}

// ParseAssumptions reads assumptions of the form key=value. An error says which there
// are.
func ParseAssumptions(list []string) (Profile, error) {
	var p Profile
	for _, text := range list {
		key, value, _ := strings.Cut(text, "=")
		i := slices.IndexFunc(profileFields, func(f struct {
			key string
			of  func(*Profile) *Setting
		}) bool {
			return f.key == key
		})
		set, known := settings[value]
		if i < 0 || !known {
			return Profile{}, fmt.Errorf("%q is no assumption: write one of %s, with =true or =false", text, strings.Join(AssumptionKeys(), ", "))
		}
		field := profileFields[i].of(&p)
		if *field != Unset && *field != set {
			return Profile{}, fmt.Errorf("%s is assumed to be both true and false: write one of them", key)
		}
		*field = set
	}
	return p, nil
}

// AssumptionKeys lists the keys that ParseAssumptions knows.
func AssumptionKeys() []string {
	keys := make([]string, len(profileFields))
	for i, f := range profileFields {
		keys[i] = f.key
	}
	return keys
}

// Assumptions lists what is set, as ParseAssumptions reads it.
func (p Profile) Assumptions() []string {
	var list []string
	for _, f := range profileFields {
		if s := *f.of(&p); s != Unset {
			list = append(list, f.key+"="+s.String())
		}
	}
	return list
}

// String lists what is set, separated by commas.
func (p Profile) String() string { return strings.Join(p.Assumptions(), ", ") }

// Or returns the profile, with the questions that it leaves open settled by another.
func (p Profile) Or(other Profile) Profile {
	for _, f := range profileFields {
		if s := f.of(&p); *s == Unset {
			*s = *f.of(&other)
		}
	}
	return p
}

// readings lists those of hostReadings that the profile leaves.
func (p *Profile) readings() []reading {
	var list []reading
	for _, r := range hostReadings {
		if p.HostNetworkPodsPoliced.permits(r.policed) && p.HostNetworkPodsSelectable.permits(r.selectable) {
			list = append(list, r)
		}
	}
	return list
}

// blocksMatch tells whether ipBlocks match an end that is not external.
func (p *Profile) blocksMatch(v *view) truth {
	pods, nodes := p.IPBlockMatchesPods.truth(), p.IPBlockMatchesNodes.truth()
	switch {
	case v.kind == nodeEnd:
		return nodes
	case v.pod == nil || !v.pod.hostNetwork:
		return pods
	case pods == nodes:
		// A pod with the address of its node is both.
		return pods
	}
	return maybe
}

// blockKeys names what would settle whether ipBlocks match an end.
func (v *view) blockKeys() string {
	pods, nodes := keyBlockPods+"=true|false", keyBlockNodes+"=true|false"
	switch {
	case v.kind == nodeEnd:
		return nodes
	case v.pod == nil || !v.pod.hostNetwork:
		return pods
	}
	return pods + "," + nodes
}

// settledBy tells the reader of a reason how to settle it.
func settledBy(keys string) string { return "; if you know, say --assume " + keys }
