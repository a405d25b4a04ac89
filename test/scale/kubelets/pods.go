package kubelets

import (
	"context"
	"encoding/binary"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/pathproof/pathproof/canary"
	"github.com/pathproof/pathproof/probe/wire"
)

// pod is one that runs. Its fields are guarded by the fleet's lock.
type pod struct {
	uid  types.UID
	node string
	role canary.Role
	plan wire.Plan
	// turn is reported when it is due.
	turn int64
	due  time.Time
	log  *log
}

// work brings pods one step further, one after the other.
func (f *Fleet) work(ctx context.Context) {
	for {
		key, stop := f.queue.Get()
		if stop {
			return
		}
		if err := f.sync(ctx, key); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			f.logf("kubelet: pod %s: %v", key, err)
			f.queue.AddRateLimited(key)
		} else {
			f.queue.Forget(key)
		}
		f.queue.Done(key)
	}
}

func (f *Fleet) sync(ctx context.Context, key types.NamespacedName) error {
	o, err := f.lister.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		f.drop(key)
		return nil
	}
	if err != nil {
		return err
	}
	pods := f.client.CoreV1().Pods(key.Namespace)
	switch {
	case o.DeletionTimestamp != nil:
		f.drop(key)
		return pods.Delete(ctx, key.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0)), Preconditions: &metav1.Preconditions{UID: &o.UID}})
	case o.Spec.NodeName == "":
		return pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: o.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: wantedNode(o)}}, metav1.CreateOptions{})
	case !f.alive(o.Spec.NodeName):
		return nil
	case o.Status.Phase == corev1.PodPending:
		running := o.DeepCopy()
		f.run(running)
		_, err := pods.UpdateStatus(ctx, running, metav1.UpdateOptions{})
		return err
	}
	f.adopt(key, o)
	return nil
}

// wantedNode is the node that the pod asks for.
func wantedNode(o *corev1.Pod) string {
	return o.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
}

// run writes into the status that all containers run and are ready.
func (f *Fleet) run(o *corev1.Pod) {
	f.mu.Lock()
	f.made++
	n := uint32(f.made)
	f.mu.Unlock()
	four := binary.BigEndian.AppendUint32(nil, 0x0a400000+n) // 10.64.0.0/10
	six := binary.BigEndian.AppendUint32(netip.MustParseAddr("fd00::").AsSlice()[:12], n)
	for _, b := range [][]byte{four, six} {
		addr, _ := netip.AddrFromSlice(b)
		o.Status.PodIPs = append(o.Status.PodIPs, corev1.PodIP{IP: addr.String()})
	}
	now := metav1.Now()
	o.Status.Phase, o.Status.PodIP, o.Status.HostIP, o.Status.StartTime = corev1.PodRunning, o.Status.PodIPs[0].IP, "127.0.0.1", &now
	for _, c := range o.Spec.Containers {
		o.Status.ContainerStatuses = append(o.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Ready: true, Started: ptr.To(true), Image: c.Image, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		})
	}
	for _, t := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady} {
		o.Status.Conditions = append(o.Status.Conditions, corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
}

// adopt takes notice of a pod that runs, and of its plan.
func (f *Fleet) adopt(key types.NamespacedName, o *corev1.Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pods[key]
	if p == nil || p.uid != o.UID {
		p = &pod{uid: o.UID, node: o.Spec.NodeName, role: canary.Role(o.Labels[canary.RoleLabel]), log: newLog()}
		f.pods[key] = p
	}
	for _, ip := range o.Status.PodIPs {
		f.addrs[netip.MustParseAddr(ip.IP)] = p
	}
	for name, text := range o.Annotations {
		if !strings.HasPrefix(name, wire.PlanKeyPrefix) {
			continue
		}
		plan, err := wire.DecodePlan(text)
		switch {
		case err != nil:
			f.logf("kubelet: pod %s: %v", key, err)
		case plan.ID != p.plan.ID:
			p.plan, p.turn, p.due = plan, 0, time.Now().Add(roundTime)
		}
	}
}

// drop forgets a pod that is gone.
func (f *Fleet) drop(key types.NamespacedName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.pods[key]; p != nil {
		maps.DeleteFunc(f.addrs, func(_ netip.Addr, owner *pod) bool { return owner == p })
		p.log.end()
		delete(f.pods, key)
	}
}

// runTurns makes the reports that are due.
func (f *Fleet) runTurns(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := time.Now()
		f.mu.Lock()
		for _, p := range f.pods {
			if p.plan.ID == "" || now.Before(p.due) {
				continue
			}
			f.report(p, p.turn)
			// As package probe counts turns.
			every := time.Duration(p.plan.EverySeconds) * time.Second
			since := time.Duration(now.UnixNano()) - time.Duration(p.plan.PhaseSeconds)*time.Second
			p.turn = int64(since/every) + 1
			p.due = now.Add(time.Duration(p.turn)*every - since + roundTime)
		}
		f.mu.Unlock()
	}
}

// Report makes the reports of a turn of all pods now.
func (f *Fleet) Report(turn int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.pods {
		if p.plan.ID != "" {
			f.report(p, turn)
		}
	}
}

// report writes what a pod has found into its log, unless its node is silent.
func (f *Fleet) report(p *pod, turn int64) {
	if !f.nodes[p.node] {
		return
	}
	r := wire.Report{Version: wire.Version, ID: p.plan.ID, Turn: turn, KubeletProbes: 1, ElapsedMilliseconds: int(roundTime.Milliseconds())}
	for _, c := range p.plan.Checks {
		result := wire.Result{Outcomes: slices.Repeat(wire.Outcomes{wire.Replied}, p.plan.Attempts), Rounds: 1, RTTMicroseconds: 800}
		if f.denied(p, c) {
			result.Outcomes, result.RTTMicroseconds = slices.Repeat(wire.Outcomes{wire.TimedOut}, p.plan.Attempts), 0
		}
		r.Results = append(r.Results, result)
	}
	line, err := wire.EncodeMessage(wire.Message{Report: &r})
	if err != nil {
		f.logf("kubelet: report on plan %s: %v", p.plan.ID, err)
		return
	}
	p.log.write(line)
}

// denied tells whether the network keeps a check from getting through: the node of the
// guarded pod enforces what no rule allows.
func (f *Fleet) denied(from *pod, c wire.Check) bool {
	to := f.addrs[c.Addr]
	if to == nil {
		return true // nobody is there any more
	}
	guard := to
	if from.role == canary.Guarded {
		guard = from
	}
	return c.Goal == wire.GoalClosed && !f.unpoliced[guard.node]
}

// fraction spreads names over 0 to 1.
func fraction(name string) float64 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return float64(h.Sum32()) / (1 << 32)
}
