package verdict

import (
	"fmt"
	"slices"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/probe/wire"
)

// Recorded is what the record of a responder says about a check of which not every
// attempt was answered.
type Recorded struct {
	// Arrived is the number of attempts that reached the responder without getting its
	// reply. Of a handshake it is not known which round it was of.
	Arrived int
	// Missing says why others may have arrived, too; empty if the record is whole.
	Missing string
}

// withRecords returns the checks with what the records of responders tell of them.
func withRecords(checks []Check) []Check {
	out := make([]Check, 0, len(checks))
	for _, c := range checks {
		out = append(out, delivered(c))
	}
	return out
}

// delivered returns the check with the outcomes that the record of the responder tells
// better: whatever the probe met instead of the reply, the request had arrived.
func delivered(c Check) Check {
	if !c.Responder || c.Recorded == nil || c.Recorded.Arrived == 0 || c.Result == nil {
		return c
	}
	result := *c.Result
	result.Outcomes = slices.Clone(result.Outcomes)
	left := c.Recorded.Arrived
	for i, o := range result.Outcomes {
		if left > 0 && (o.Closed() || o == wire.Connected) {
			result.Outcomes[i] = wire.Delivered
			left--
		}
	}
	c.Result = &result
	return c
}

func lost(o wire.Outcome) bool { return o == wire.Delivered }

// oneWay is what is said of a path whose requests arrive and whose replies do not.
func oneWay(c Check) string {
	n := len(c.Result.Outcomes)
	return fmt.Sprintf("the responder's record has %d of %d requests, and none of its replies came back", n, n)
}

// recordMissing tells why the silence on the way to a responder is not known to be that of
// the way there. Where open is what was declared and predicted, silence is wrong either
// way.
func recordMissing(c Check, _ evidence) (Cause, string) {
	if !c.Responder || (c.Declared == Allow && c.Prediction.Verdict == evaluator.Allowed) {
		return "", ""
	}
	switch {
	case c.Recorded == nil:
		return NotRecorded, "the responder left no record, so that a request may have arrived whose reply was lost"
	case c.Recorded.Missing != "":
		return NotRecorded, "a request may have arrived whose reply was lost: " + c.Recorded.Missing
	}
	return "", ""
}
