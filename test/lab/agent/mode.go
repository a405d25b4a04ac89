package agent

import (
	"fmt"
	"strings"
	"time"
)

// Mode is how the agent of one node behaves.
type Mode struct {
	// Name is one of [Modes].
	Name string `json:"name"`
	// Delay is how late a change is applied. Only the slow mode has one.
	Delay time.Duration `json:"delay,omitempty"`
}

// The modes. ModeCorrect is what a healthy agent does.
const (
	ModeCorrect                  = "correct"
	ModeReject                   = "reject"
	ModeRejectRST                = "reject-rst"
	ModeOff                      = "off"
	ModeIngressIgnored           = "ingress-ignored"
	ModeEgressIgnored            = "egress-ignored"
	ModeUDPIgnored               = "udp-ignored"
	ModeSCTPIgnored              = "sctp-ignored"
	ModeIPv6Ignored              = "ipv6-ignored"
	ModeEndPortIgnored           = "endport-ignored"
	ModeEndPortSingle            = "endport-single"
	ModeExceptIgnored            = "except-ignored"
	ModeNamespaceSelectorIgnored = "namespaceselector-ignored"
	ModeNamedPortsUnresolved     = "named-ports-unresolved"
	ModeClusterPoliciesIgnored   = "clusternetworkpolicy-ignored"
	ModeRepliesDropped           = "replies-dropped"
	ModeRepliesDenied            = "replies-denied"
	ModeSlow                     = "slow"
	ModeStale                    = "stale"
)

// defaultDelay is long enough to be seen by a probe that runs once a second,
// and short enough not to stretch a test.
const defaultDelay = 3 * time.Second

// ModeInfo describes one mode to a user.
type ModeInfo struct {
	Name    string
	Correct bool   // the policies hold; only the form of a denial differs
	Effect  string // what differs from a healthy agent
}

// Modes lists every mode, the healthy one first.
var Modes = []ModeInfo{
	{ModeCorrect, true, "enforces everything; what is denied is dropped"},
	{ModeReject, true, "enforces everything; what is denied is answered with ICMP port unreachable"},
	{ModeRejectRST, true, "enforces everything; denied TCP is answered with RST, the rest with ICMP port unreachable"},
	{ModeOff, false, "enforces nothing"},
	{ModeIngressIgnored, false, "enforces egress only"},
	{ModeEgressIgnored, false, "enforces ingress only (also called ingress-only)"},
	{ModeUDPIgnored, false, "lets all UDP pass"},
	{ModeSCTPIgnored, false, "lets all SCTP pass"},
	{ModeIPv6Ignored, false, "lets all IPv6 pass"},
	{ModeEndPortIgnored, false, "reads port..endPort as port and everything above: allows too much"},
	{ModeEndPortSingle, false, "reads port..endPort as port alone: blocks too much"},
	{ModeExceptIgnored, false, "reads an ipBlock without its except list"},
	{ModeNamespaceSelectorIgnored, false, "reads every namespaceSelector as all namespaces"},
	{ModeNamedPortsUnresolved, false, "reads a named port as every port of its protocol"},
	{ModeClusterPoliciesIgnored, false, "enforces NetworkPolicies, and no ClusterNetworkPolicy"},
	{ModeRepliesDropped, false, "drops the answers to what policies allow, from pods isolated for ingress and to pods isolated for egress: blocks too much"},
	{ModeRepliesDenied, false, "lets in what policies deny, and drops the answers to it instead"},
	{ModeSlow, false, "applies every change 3s late; slow=DURATION chooses another delay"},
	{ModeStale, false, "never sees a pod's labels change after the first sight of the pod"},
}

// aliases are other names that a user may know a mode by.
var aliases = map[string]string{"ingress-only": ModeEgressIgnored, "drop": ModeCorrect}

// UnknownModeError says that a mode does not exist, and which do.
type UnknownModeError struct{ Given string }

func (e *UnknownModeError) Error() string {
	names := make([]string, 0, len(Modes))
	for _, m := range Modes {
		names = append(names, m.Name)
	}
	return fmt.Sprintf("unknown mode %q; the modes are %s", e.Given, strings.Join(names, ", "))
}

// ParseMode reads NAME, or slow=DURATION.
func ParseMode(s string) (Mode, error) {
	name, value, hasValue := strings.Cut(s, "=")
	if alias, ok := aliases[name]; ok {
		name = alias
	}
	known := false
	for _, m := range Modes {
		known = known || m.Name == name
	}
	if !known || (hasValue && name != ModeSlow) {
		return Mode{}, &UnknownModeError{Given: s}
	}
	mode := Mode{Name: name}
	if name == ModeSlow {
		mode.Delay = defaultDelay
	}
	if hasValue {
		delay, err := time.ParseDuration(value)
		if err != nil || delay <= 0 {
			return Mode{}, fmt.Errorf("%q is not a delay: want slow=DURATION, for example slow=5s", s)
		}
		mode.Delay = delay
	}
	return mode, nil
}

// String is the form that ParseMode reads.
func (m Mode) String() string {
	if m.Name == ModeSlow && m.Delay != defaultDelay {
		return m.Name + "=" + m.Delay.String()
	}
	return m.Name
}
