package cluster

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/pathproof/pathproof/test/lab/agent"
)

// Status prints how the lab is, and reports whether it is whole.
func (l *Lab) Status(ctx context.Context, w io.Writer) (healthy bool, _ error) {
	if !l.Complete() {
		remains := l.remains()
		if len(remains) == 0 {
			fmt.Fprintln(w, "down")
			return false, nil
		}
		fmt.Fprintf(w, "unfinished, or of another version: %d things of an earlier run are left; `up` starts afresh, `down` clears them away\n", len(remains))
		return false, nil
	}
	client, err := l.Client()
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	healthy = true
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tADDRESSES\tPODS\tREADY\tMODE")
	for _, n := range l.nodes {
		ready := "yes"
		if err := nodeReady(ctx, client, n.Name); err != nil {
			ready, healthy = "no: "+err.Error(), false
		}
		mode := "unknown"
		if given, err := agent.Given(n.AgentDir()); err == nil {
			mode = given.Mode.String()
			if confirmed, err := agent.Confirmed(n.AgentDir()); err != nil || confirmed != given {
				mode += " (not in effect yet)"
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", n.Name, both(n.Addr, n.Addr6), both(n.PodCIDR, n.PodCIDR6), ready, mode)
	}
	if err := table.Flush(); err != nil {
		return false, err
	}
	for _, s := range l.all() {
		if r, ok := l.processes.Get(s.Name); !ok || !l.processes.Alive(r) {
			fmt.Fprintf(w, "%s has died; `up` restarts it; its log is %s\n", s.Name, l.processes.LogPath(s.Name))
			healthy = false
		}
	}
	fmt.Fprintf(w, "external addresses: %v\nKUBECONFIG=%s\n", ExternalAddrs, Kubeconfig)
	return healthy, nil
}
