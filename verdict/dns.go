package verdict

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/flow"
	"github.com/pathproof/pathproof/probe/wire"
)

// A DNS check has two halves: whether the resolver answered, which is what policies
// decide about, and what it answered. Open and Blocked are about the first half alone.
// This file judges the second, and what the checks of one resolver say about each other.

// resolved tells which outcomes are the answer that was asked for.
func resolved(c Check) func(wire.Outcome) bool {
	want := wire.Connected
	if c.Answer.NotFound {
		want = wire.NameNotFound
	}
	return func(o wire.Outcome) bool { return o == want }
}

// answersDiffer tells whether a resolver that has to answer gave the right answer to some
// attempts only. A busy one fails now and then: what it answers is not known.
func answersDiffer(c Check) bool {
	return c.Transport.IsDNS() && c.Declared == Allow && c.Result.Outcomes.Any(resolved(c)) && !c.Result.Outcomes.All(resolved(c))
}

// answerCause names what is wrong with the answers to a DNS check.
func answerCause(c Check) Cause {
	is := func(want wire.Outcome) bool {
		return c.Result.Outcomes.Any(func(o wire.Outcome) bool { return o == want })
	}
	switch {
	case is(wire.AnswerDiffers):
		return UnexpectedAnswer
	case is(wire.Truncated) && c.Transport == wire.DNSUDP:
		return DNSOverUDPOnly
	}
	return NameNotResolved
}

// judgeAnswer judges the second half of a DNS check: "allow" means that the name
// resolves, whatever the policies say about the path to the resolver.
func (v *Verdict) judgeAnswer() {
	c := v.Check
	if v.Observed != Open || c.Declared != Allow || !c.Transport.IsDNS() || c.Result.Outcomes.All(resolved(c)) {
		return
	}
	v.Satisfied = False
	if v.Cause == None {
		v.Cause = answerCause(c)
	}
}

// question is one question that one pod asks one resolver over both transports.
type question struct {
	path, pod, target, asked string
	addr                     netip.Addr
}

func questionOf(c Check) question {
	return question{path: c.Path, pod: c.Pod, target: c.Target, asked: c.Question, addr: c.Addr}
}

// compareTransports finds resolvers that answer over one transport and not over the
// other. That is a finding of its own: with UDP alone, everything seems to work until
// an answer does not fit a datagram.
func compareTransports(verdicts []Verdict) {
	open := map[question]map[flow.Protocol]bool{}
	for _, v := range verdicts {
		if c := v.Check; c.Transport.IsDNS() && v.Observed == Open {
			q := questionOf(c)
			if open[q] == nil {
				open[q] = map[flow.Protocol]bool{}
			}
			open[q][c.Transport.Protocol()] = true
		}
	}
	for i := range verdicts {
		v := &verdicts[i]
		c := v.Check
		unanswered := c.Transport.IsDNS() && c.Declared == Allow && c.Obstacle == "" && c.Result != nil && c.Result.Outcomes.All(wire.Outcome.Closed)
		if !unanswered || v.Cause == ImplementationDefined {
			continue
		}
		switch over := open[questionOf(c)]; {
		case c.Transport == wire.DNSTCP && over[flow.UDP]:
			v.Cause = DNSOverUDPOnly
		case c.Transport == wire.DNSUDP && over[flow.TCP]:
			v.Cause = DNSOverTCPOnly
		}
	}
}

// behind identifies the endpoints of one nameserver that one pod asks one question.
type behind struct {
	path, pod, asked string
	protocol         flow.Protocol
	via              netip.Addr
}

// concludeServices concludes about the silence of a nameserver with several endpoints,
// of which a query may reach any: it was blocked if the nameserver answered somebody, and
// each endpoint is known to be blocked from the same pod.
func concludeServices(verdicts []Verdict, ev evidence) {
	blocked := map[behind]int{}
	key := func(c Check, via netip.Addr) behind {
		return behind{path: c.Path, pod: c.Pod, asked: c.Question, protocol: c.Transport.Protocol(), via: via}
	}
	for _, v := range verdicts {
		if c := v.Check; c.Transport.IsDNS() && v.Observed == Blocked && c.Via.IsValid() && c.Via != c.Addr {
			blocked[key(c, c.Via)]++
		}
	}
	for i := range verdicts {
		v := &verdicts[i]
		c := v.Check
		if v.Observed != Inconclusive || !c.Transport.IsDNS() || c.Endpoints < 2 || blocked[key(c, c.Addr)] < c.Endpoints {
			continue
		}
		each := c
		each.Endpoints = 1
		if c.Result == nil || c.Obstacle != "" || !c.Result.Outcomes.All(wire.Outcome.Closed) {
			continue
		}
		if v.Observed, v.Inconclusive, v.Evidence = closed(each, ev); v.Observed == Blocked {
			v.PathEvidence = pathEvidence(each, ev)
			v.Evidence += fmt.Sprintf("; each of the %d endpoints is blocked, too", c.Endpoints)
		}
		v.conclude()
	}
}

// answerText says what an answer has to be.
func answerText(a wire.Answer) string {
	switch {
	case a.NotFound:
		return "that there is no such record"
	case a.CNAME != "":
		return "an alias of " + a.CNAME
	}
	list := make([]string, 0, len(a.Addresses))
	for _, addr := range a.Addresses {
		list = append(list, addr.String())
	}
	return strings.Join(list, ",")
}

// transportMessage says over what a resolver answers, and why not over the other.
func transportMessage(v Verdict) string {
	c := v.Check
	ends := describe(c)
	if v.Observed == Open {
		return fmt.Sprintf("%s: the answer does not fit a datagram, and TCP gives none%s", ends, detail(c))
	}
	why := v.Evidence
	switch {
	case c.Prediction.Verdict == evaluator.Denied:
		why = decidedBy(c.Prediction)
	case v.Observed == Blocked:
		why = "it is blocked although " + decidedBy(c.Prediction)
	}
	if v.Cause == DNSOverTCPOnly {
		return fmt.Sprintf("%s: TCP works, UDP does not, which resolvers ask over first: %s", ends, why)
	}
	return fmt.Sprintf("%s: UDP works, TCP does not, so that answers that do not fit a datagram fail: %s", ends, why)
}
