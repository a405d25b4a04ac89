package probepod

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Status returns the status of the container that probes; nil without one.
func Status(pod *corev1.Pod) *corev1.ContainerStatus {
	for i := range pod.Status.ContainerStatuses {
		if c := &pod.Status.ContainerStatuses[i]; c.Name == ContainerName {
			return c
		}
	}
	return nil
}

// Waiting says why a pod does not run yet, or cannot be told to probe. The messages in it
// are of any length.
func Waiting(pod *corev1.Pod) string {
	if pod == nil {
		return "it was not seen"
	}
	switch c := Status(pod); {
	case c == nil:
	case c.State.Waiting != nil && c.State.Waiting.Reason != "":
		return c.State.Waiting.Reason + " " + c.State.Waiting.Message
	case c.State.Running != nil && len(Addrs(pod)) == 0:
		return "it runs, and its status has no address"
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return c.Reason + " " + c.Message
		}
	}
	return "it is " + string(pod.Status.Phase)
}

// Addrs returns the addresses of a pod, one for each family, the first one first.
func Addrs(pod *corev1.Pod) []netip.Addr {
	var out []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			out = append(out, addr)
		}
	}
	return out
}
