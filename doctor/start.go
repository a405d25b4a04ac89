package doctor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pathproof/pathproof/canary"
)

// The reasons of the kubelet for which an image will not come.
var imageReasons = []string{"ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"}

// startLimit is how long pods may take to start.
func (d *Doctor) startLimit() time.Duration { return max(d.Timeout/2, d.Timeout-spare) }

// awaitPods waits until the pods of all nodes are up, or will not be. The nodes whose pods
// are not do not take part.
func (d *Doctor) awaitPods(ctx context.Context, s *state) error {
	refused := maps.Clone(s.waiting)
	until := d.Clock.Now().Add(d.startLimit())
	said := ""
	for {
		pods, err := d.listPods(ctx, s)
		if err != nil {
			return err
		}
		s.pods, s.waiting = pods, maps.Clone(refused)
		up, hopeless, image := s.count(refused)
		if text := fmt.Sprintf("waiting for pods: %d of %d are up", up, len(canary.Roles())*len(s.ring)); text != said {
			said = text
			d.Progress(text)
		}
		switch {
		case len(s.waiting) == 0:
			return nil
		case len(s.waiting) == len(s.ring) && hopeless == len(s.ring) && image != "":
			return obstacle(fmt.Sprintf("no node can pull the image %s: %s", d.Image.Name, image), "Name an image that the nodes can pull with --image, for example a copy of it in a registry of yours.")
		case hopeless == len(s.waiting) && len(s.waiting) < len(s.ring):
			return nil
		case hopeless == len(s.ring) || !d.Clock.Now().Before(until):
			return d.giveUp(ctx, s)
		}
		if err := d.sleep(ctx, poll); err != nil {
			return err
		}
	}
}

// count counts the pods that are up and the nodes whose pods will not be, and notes what the
// others wait for. It returns what keeps an image from being pulled, if anything does.
func (s *state) count(refused map[string]string) (up, hopeless int, image string) {
	hopeless = len(refused)
	for node, roles := range s.pods {
		if refused[node] != "" {
			continue
		}
		lost := false
		for _, role := range canary.Roles() {
			ok, why := canary.Up(roles[role])
			if ok {
				up++
				continue
			}
			s.waiting[node] = "its pod " + podName(role, node) + " " + why
			if message := imageTrouble(roles[role]); message != "" {
				lost, image = true, message
			}
			lost = lost || (roles[role] != nil && canary.Ended(roles[role]))
		}
		if lost {
			hopeless++
		}
	}
	return up, hopeless, image
}

// giveUp ends the wait for pods. It is an obstacle if those of no node are up.
func (d *Doctor) giveUp(ctx context.Context, s *state) error {
	for node := range s.waiting {
		if event := d.lastWarning(ctx, s.pods[node]); event != "" {
			s.waiting[node] += " (" + event + ")"
		}
	}
	if len(s.waiting) < len(s.ring) {
		return nil
	}
	node, why := first(s.waiting)
	return obstacle(fmt.Sprintf("on none of %d nodes the pods started within %s; as of node %s, %s", len(s.ring), d.startLimit().Round(time.Second), node, why),
		"Look at the node and at its events, choose other nodes with --nodes, or give it more time with --timeout.")
}

// imageTrouble says why the image of a pod does not come; empty if it may.
func imageTrouble(pod *corev1.Pod) string {
	if pod == nil {
		return ""
	}
	for _, c := range pod.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && slices.Contains(imageReasons, w.Reason) {
			return w.Reason + " " + w.Message
		}
	}
	return ""
}

// lastWarning returns the newest warning about the pods of a node that do not run; empty
// without one, or if it may not be read.
func (d *Doctor) lastWarning(ctx context.Context, roles map[canary.Role]*corev1.Pod) string {
	for _, role := range canary.Roles() {
		pod := roles[role]
		if pod == nil {
			continue
		}
		if up, _ := canary.Up(pod); up {
			continue
		}
		list, err := d.Clients.Core.Events(pod.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "type=Warning,involvedObject.name=" + pod.Name})
		if err != nil || len(list.Items) == 0 {
			return ""
		}
		newest := slices.MaxFunc(list.Items, func(a, b corev1.Event) int { return a.LastTimestamp.Compare(b.LastTimestamp.Time) })
		return newest.Reason + ": " + strings.TrimSpace(newest.Message)
	}
	return ""
}
