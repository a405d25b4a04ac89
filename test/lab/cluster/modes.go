package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pathproof/pathproof/test/lab/agent"
)

// confirmation bounds the wait for an agent: it looks for orders many times a
// second and programs them in milliseconds.
const confirmation = 10 * time.Second

// SetMode orders a mode on one node, or on all if the name is empty, and
// returns when every concerned agent has put it into effect.
func (l *Lab) SetMode(ctx context.Context, nodeName string, mode agent.Mode) error {
	targets, err := l.Nodes(nodeName)
	if err != nil {
		return err
	}
	// The clock gives a number that no earlier order has.
	order := agent.Order{Generation: time.Now().UnixNano(), Mode: mode}
	for _, n := range targets {
		if err := agent.Give(n.AgentDir(), order); err != nil {
			return err
		}
	}
	var failed []error
	for _, n := range targets {
		failed = append(failed, l.awaitMode(ctx, n, order))
	}
	return errors.Join(failed...)
}

func (l *Lab) awaitMode(ctx context.Context, n Node, order agent.Order) error {
	ctx, cancel := context.WithTimeout(ctx, confirmation)
	defer cancel()
	name := "agent-" + n.Name
	for {
		if confirmed, err := agent.Confirmed(n.AgentDir()); err == nil && confirmed == order {
			return nil
		}
		if r, ok := l.processes.Get(name); !ok || !l.processes.Alive(r) {
			return fmt.Errorf("the agent of %s is not running; `up` restarts it", n.Name)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the agent of %s did not confirm mode %s within %s; its log is %s",
				n.Name, order.Mode, confirmation, l.processes.LogPath(name))
		case <-time.After(tempo / 5):
		}
	}
}
