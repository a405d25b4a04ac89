// Package wire is the contract between the operator and its probe pods: the
// plan that goes in (through a pod annotation), the report that comes out
// (through the termination message), and the compact encoding of both. The
// operator and the probe image may be of different releases for a while, so
// both messages carry Version and a reader refuses any other.
//
// A report states outcomes and facts. It never says whether a path is open or
// blocked: that needs evidence from other checks and is package verdict's job.
package wire

import (
	"fmt"
	"net/netip"

	"github.com/pathproof/pathproof/flow"
)

// Version is the version of the contract. It changes whenever a reader of the
// previous version would misunderstand a message.
const Version = 1

// Limits that both sides enforce.
const (
	// MaxChecks is the number of checks of one plan. The report of a full plan
	// fits into MaxReportBytes even when no two outcomes are alike.
	MaxChecks = 500
	// MaxReportBytes is what the kubelet keeps of a termination message
	// (kubernetes.io docs, "Determine the reason for Pod failure").
	MaxReportBytes = 4096
	// MaxAttempts bounds the attempts of one round.
	MaxAttempts = 10
	// MaxNameservers is how many nameservers of a resolver configuration are used, by
	// resolvers (MAXNS of resolv.conf(5)) and by Kubernetes.
	MaxNameservers = 3
	// MaxHostAddresses bounds the addresses of a host that each attempt is made to.
	MaxHostAddresses = 8
)

// PlanAnnotation is the pod annotation that carries the plan. The downward API
// projects it into the file PlanPath of the probe container.
const (
	PlanAnnotation = "pathproof.dev/plan"
	PlanPath       = "/etc/pathproof/plan"
)

// Transport says how a check talks to its target.
type Transport string

// The transports of a check. The DNS transports send a query; the others open
// a connection (TCP, SCTP) or exchange a datagram (UDP).
const (
	TCP    Transport = "TCP"
	UDP    Transport = "UDP"
	SCTP   Transport = "SCTP"
	DNSUDP Transport = "DNS/UDP"
	DNSTCP Transport = "DNS/TCP"
)

// Protocol returns the protocol that a NetworkPolicy sees.
func (t Transport) Protocol() flow.Protocol {
	switch t {
	case TCP, DNSTCP:
		return flow.TCP
	case UDP, DNSUDP:
		return flow.UDP
	case SCTP:
		return flow.SCTP
	}
	return ""
}

// IsDNS tells whether the check sends a DNS query.
func (t Transport) IsDNS() bool { return t == DNSUDP || t == DNSTCP }

// Goal is what the rounds of a check wait for while the network settles. It is
// no expectation: when the settle window ends, the last round is reported as it
// is.
type Goal string

// The goals of a check.
const (
	// GoalNone reports the first round.
	GoalNone Goal = ""
	// GoalOpen repeats rounds until every attempt of one got an answer.
	GoalOpen Goal = "Open"
	// GoalClosed repeats rounds until no attempt of one got an answer.
	GoalClosed Goal = "Closed"
)

// Plan is everything that one probe pod does in one run.
type Plan struct {
	Version int `json:"v"`
	// ID names the run and the pod; the report repeats it.
	ID string `json:"id"`
	// WarmUpMilliseconds is the least time between the first plan that the probe gets
	// and the first attempt, for agents that program a new pod's rules after its address
	// has become known.
	WarmUpMilliseconds int `json:"warm,omitempty"`
	// SettleMilliseconds bounds the time in which further rounds may start,
	// counted from the end of the warm-up. 0 means one round.
	SettleMilliseconds int `json:"settle,omitempty"`
	// TimeoutMilliseconds is the time that one attempt waits for an answer.
	TimeoutMilliseconds int `json:"timeout"`
	// Attempts of one round, each from a source port of its own, started
	// TimeoutMilliseconds/Attempts apart.
	Attempts int `json:"attempts"`
	// WatchMilliseconds makes a resident pod go on with the checks when it has reported:
	// it makes an attempt of each at this distance, and tells when one opens or closes.
	// Bounds: MinWatchMilliseconds to MaxWatchMilliseconds. 0 means not at all.
	WatchMilliseconds int `json:"watch,omitempty"`
	// EverySeconds makes a resident pod run the plan again and again: whenever the time
	// since 1970, by the clock of its node, is a multiple of it and PhaseSeconds, so that
	// pods of a node that have the same of both run at the same time. 0 means once.
	EverySeconds int `json:"every,omitempty"`
	// PhaseSeconds is less than EverySeconds.
	PhaseSeconds int `json:"phase,omitempty"`
	// Checks are run concurrently. Their order is the order of the results.
	Checks []Check `json:"checks"`
}

// Check is one target for the probe to try. Exactly one of Addr, Host and Nameserver is
// set.
type Check struct {
	Transport Transport `json:"t"`
	// Addr is the target's address.
	Addr netip.Addr `json:"a,omitzero"`
	// Host is a fully qualified name that the probe resolves with its pod's own
	// resolver before it connects.
	Host string `json:"h,omitempty"`
	// Nameserver is the place of a nameserver in the resolver configuration of the
	// probe's pod, from 1 to MaxNameservers. It is for the DNS transports.
	Nameserver int    `json:"ns,omitempty"`
	Port       uint16 `json:"p"`
	// Nonce is set when the target is a responder of ours: the probe sends it with the
	// number of the round (RoundNonce), and the echo proves which process answered.
	Nonce string `json:"n,omitempty"`
	// QueryName and QueryType are the question of a DNS check.
	QueryName string `json:"q,omitempty"`
	QueryType string `json:"qt,omitempty"`
	// Search asks for the names that the search list of the pod's resolver
	// configuration makes of QueryName, one after the other, as a resolver library
	// does. Otherwise QueryName is fully qualified.
	Search bool `json:"qs,omitempty"`
	// Answer is what the answer has to be; zero means any records of the type.
	Answer Answer `json:"qa,omitzero"`
	Goal   Goal   `json:"g,omitempty"`
}

// Answer is what the resolver has to answer. At most one field is set.
type Answer struct {
	// Addresses are all addresses that the name has to have, in any order.
	Addresses []netip.Addr `json:"a,omitempty"`
	// CNAME is the fully qualified name that the name has to be an alias of.
	CNAME string `json:"c,omitempty"`
	// NotFound says that there must be no record of the type.
	NotFound bool `json:"x,omitempty"`
}

// IsZero tells whether any records will do.
func (a Answer) IsZero() bool { return len(a.Addresses) == 0 && a.CNAME == "" && !a.NotFound }

// Report is what one probe pod found. Results are in the order of the plan's
// checks and of the same number, unless Error is set.
type Report struct {
	Version int    `json:"v"`
	ID      string `json:"id"`
	// Turn tells the runs of a plan that is run again and again apart: 0 for the one that
	// began when the plan came, and for the others the number of times that EverySeconds
	// had passed since 1970.
	Turn int64 `json:"w,omitempty"`
	// Error says why the plan could not be run at all; Results is empty then.
	Error string `json:"e,omitempty"`
	// ElapsedMilliseconds is the time from the start of the probe to its end.
	ElapsedMilliseconds int `json:"ms,omitempty"`
	// KubeletProbes is the number of readiness probes that reached the pod while
	// the plan ran. One is enough to know that the pod's interface works in both
	// directions: policies cannot block the pod's own node.
	KubeletProbes int `json:"k,omitempty"`
	// Trouble says what is wrong with the pod's own network when no check was answered,
	// as in "eth0 is down"; empty if that is nothing. At most 120 bytes.
	Trouble string `json:"t,omitempty"`
	// Nameservers are those of the pod's resolver configuration, in its order, at most
	// MaxNameservers. They are told of when the plan has a DNS check.
	Nameservers []netip.Addr `json:"ns,omitempty"`
	Results     []Result     `json:"r,omitempty"`
	// Trimmed says that details or times were left out so that the report fits.
	Trimmed bool `json:"x,omitempty"`
}

// Result is the last round of one check.
type Result struct {
	// Outcomes holds one outcome for each attempt of the last round, in the
	// order in which the attempts were started.
	Outcomes Outcomes `json:"o"`
	// Absent says that the pod's resolver configuration has no such nameserver, so that
	// nothing was done. There are no outcomes then.
	Absent bool `json:"z,omitempty"`
	// Rounds is the number of rounds that were run (at least 1).
	Rounds int `json:"n,omitempty"`
	// SettledMilliseconds is the time from the end of the warm-up to the start
	// of the last round.
	SettledMilliseconds int `json:"s,omitempty"`
	// RTTMicroseconds is the shortest time to an answer in the last round; 0
	// when there was none.
	RTTMicroseconds int `json:"u,omitempty"`
	// SeenAs is the source address that our responder saw, when it differs from
	// the address that the probe sent from (NAT on the path).
	SeenAs netip.Addr `json:"a,omitzero"`
	// Addresses are those that the attempts of a check by Host were made to, sorted:
	// all that the pod has a route to, up to MaxHostAddresses. Outcomes has the
	// outcomes at all of them, and those of attempts that the resolver ended.
	Addresses []AddressResult `json:"h,omitempty"`
	// Untried is the largest number of addresses beyond MaxHostAddresses that an
	// attempt left out.
	Untried int `json:"l,omitempty"`
	// Detail holds facts for people: the ICMP type, code and origin, the rcode,
	// the local error. At most 120 bytes.
	Detail string `json:"d,omitempty"`
}

// AddressResult is what the attempts of a check by Host met at one address.
type AddressResult struct {
	Addr netip.Addr `json:"a"`
	// Outcomes has one outcome for each attempt in which the name resolved to the address.
	Outcomes Outcomes `json:"o"`
}

// Validate tells whether a plan is within the bounds of this version, and what
// is wrong with it otherwise.
func (p Plan) Validate() error {
	switch {
	case p.Version != Version:
		return fmt.Errorf("plan version %d is not understood by this probe, which speaks version %d: use operator and probe images of the same release", p.Version, Version)
	case p.ID == "":
		return fmt.Errorf("plan has no id")
	case len(p.Checks) == 0 || len(p.Checks) > MaxChecks:
		return fmt.Errorf("plan has %d checks, want 1 to %d", len(p.Checks), MaxChecks)
	case p.Attempts < 1 || p.Attempts > MaxAttempts:
		return fmt.Errorf("plan has %d attempts, want 1 to %d", p.Attempts, MaxAttempts)
	case p.TimeoutMilliseconds < 10 || p.TimeoutMilliseconds > 60_000:
		return fmt.Errorf("plan has a timeout of %d ms, want 10 to 60000", p.TimeoutMilliseconds)
	}
	if err := p.validateTimes(); err != nil {
		return err
	}
	for i, c := range p.Checks {
		if err := c.validate(); err != nil {
			return fmt.Errorf("check %d: %w", i, err)
		}
	}
	return nil
}

// validateTimes tells whether the times beside the timeout are within their bounds.
func (p Plan) validateTimes() error {
	switch {
	case p.WarmUpMilliseconds < 0 || p.WarmUpMilliseconds > 300_000:
		return fmt.Errorf("plan has a warm-up of %d ms, want 0 to 300000", p.WarmUpMilliseconds)
	case p.SettleMilliseconds < 0 || p.SettleMilliseconds > 300_000:
		return fmt.Errorf("plan has a settle window of %d ms, want 0 to 300000", p.SettleMilliseconds)
	case p.WatchMilliseconds != 0 && (p.WatchMilliseconds < MinWatchMilliseconds || p.WatchMilliseconds > MaxWatchMilliseconds):
		return fmt.Errorf("plan watches every %d ms, want %d to %d, or 0 for not at all", p.WatchMilliseconds, MinWatchMilliseconds, MaxWatchMilliseconds)
	case p.EverySeconds < 0 || p.EverySeconds > MaxEverySeconds || p.PhaseSeconds < 0 || p.PhaseSeconds > max(0, p.EverySeconds-1):
		return fmt.Errorf("plan is run every %d s with a phase of %d s, want 0 to %d and a phase below that", p.EverySeconds, p.PhaseSeconds, MaxEverySeconds)
	}
	return nil
}

func (c Check) validate() error {
	switch c.Transport {
	case TCP, UDP, SCTP:
		if c.QueryName != "" || c.Nameserver != 0 || c.Search || !c.Answer.IsZero() {
			return fmt.Errorf("a %s check has a query name or a nameserver: use %s or %s", c.Transport, DNSUDP, DNSTCP)
		}
	case DNSUDP, DNSTCP:
		if c.QueryName == "" || c.QueryType == "" {
			return fmt.Errorf("a DNS check needs a query name and type")
		}
	default:
		return fmt.Errorf("unknown transport %q", c.Transport)
	}
	targets := 0
	for _, set := range []bool{c.Addr.IsValid(), c.Host != "", c.Nameserver != 0} {
		if set {
			targets++
		}
	}
	switch {
	case targets != 1:
		return fmt.Errorf("want exactly one of address, host and nameserver")
	case c.Nameserver < 0 || c.Nameserver > MaxNameservers:
		return fmt.Errorf("nameserver %d of a resolver configuration, want 1 to %d", c.Nameserver, MaxNameservers)
	}
	if c.Port == 0 {
		return fmt.Errorf("port 0 cannot be probed")
	}
	switch c.Goal {
	case GoalNone, GoalOpen, GoalClosed:
		return nil
	}
	return fmt.Errorf("unknown goal %q", c.Goal)
}
