package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pathproof/pathproof/test/lab/process"
)

// repair restarts what has died since the lab came up, and the lab's own
// programs if their code has changed.
func (l *Lab) repair(ctx context.Context) error {
	changed, err := installSelf()
	if err != nil {
		return err
	}
	client, err := l.Client()
	if err != nil {
		return err
	}
	var restarted []string
	for _, s := range l.all() {
		r, known := l.processes.Get(s.Name)
		alive := known && l.processes.Alive(r)
		if alive && (!changed || !slices.Contains(s.Command, selfPath)) {
			continue
		}
		if alive {
			if err := l.stop(r); err != nil {
				return err
			}
		}
		if err := l.start(s); err != nil {
			return err
		}
		restarted = append(restarted, s.Name)
		if s.Name == "kube-apiserver" {
			if err := l.awaitAPI(ctx, client); err != nil {
				return err
			}
		}
	}
	if len(restarted) > 0 {
		l.progress("restarted %s", strings.Join(restarted, ", "))
	}
	if err := l.awaitAPI(ctx, client); err != nil {
		return err
	}
	// A lab that an older version of this program built lacks what was added since.
	if err := l.applyManifests(ctx); err != nil {
		return err
	}
	if err := l.awaitNodes(ctx); err != nil {
		return err
	}
	if err := l.awaitDNS(ctx); err != nil {
		return err
	}
	if len(restarted) == 0 {
		l.progress("already up")
	}
	return nil
}

// UnknownProcessError says that the lab has no such process, and which it has.
type UnknownProcessError struct {
	Given string
	Names []string
}

func (e *UnknownProcessError) Error() string {
	return fmt.Sprintf("the lab has no process %q; it has %s", e.Given, strings.Join(e.Names, ", "))
}

// Stop ends a process of the lab, as if it had crashed. The next `up` starts it again.
func (l *Lab) Stop(name string) error {
	if !l.Complete() {
		return &NotUpError{}
	}
	var names []string
	for _, s := range l.all() {
		if s.Name != name {
			names = append(names, s.Name)
			continue
		}
		if r, known := l.processes.Get(name); known && l.processes.Alive(r) {
			return l.stop(r)
		}
		return nil
	}
	return &UnknownProcessError{Given: name, Names: names}
}

// stop ends one process and waits until it is gone: its successor may need the
// same socket.
func (l *Lab) stop(r process.Record) error {
	if err := syscall.Kill(r.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	for range 100 {
		if !l.processes.Alive(r) {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("%s (%d) survives", r.Name, r.PID)
}

// networkExists tells whether the namespaces are still there. A machine that
// was rebooted has lost them, and so has one where someone deleted them.
func (l *Lab) networkExists() bool {
	names := []string{fabricNetns, externalNetns}
	for _, n := range l.nodes {
		names = append(names, n.Netns)
	}
	for _, name := range names {
		if !isMounted("/run/netns/" + name) {
			return false
		}
	}
	_, err := os.Stat("/sys/class/net/" + hostLink)
	return err == nil
}
