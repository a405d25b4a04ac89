package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/pathproof/pathproof/flow"
)

// provenance hashes what the edges and their predictions depend on: the policies
// and labels of the namespaces at both ends, the cluster-wide policies for pods of
// these namespaces, the sources with their nodes, the targets with addresses, nodes,
// ports and readiness, and what is assumed of the implementation. Restarted source
// pods (unless blocks tell them apart by their addresses), changed annotations and
// everything in other namespaces leave it as it is.
func provenance(in Input, res *Resolution) string {
	h := sha256.New()
	namespaces := map[string]bool{in.Expectation.Namespace: true}
	byAddress := blocksTellPodsApart(in.Snapshot)
	for _, e := range res.Edges {
		// Which node comes first hangs on the names of the source's pods.
		nodes := strings.Join(slices.Sorted(slices.Values(e.Source.Nodes)), ",")
		if byAddress {
			// Whether a block holds all pods of the source is part of its prediction.
			fmt.Fprintf(h, "addresses %v\n", slices.SortedFunc(slices.Values(e.Source.addrs), netip.Addr.Compare))
		}
		fmt.Fprintf(h, "edge %s %s %s %v %v\n", e.ID(), e.Source.Key, nodes, e.Target.Ready, e.Target.Node)
		for _, b := range e.Backends {
			fmt.Fprintf(h, "backend %s %s %d\n", b.Endpoint.String(), b.Endpoint.Addr, b.Port)
			if b.Endpoint.Namespace != "" {
				namespaces[b.Endpoint.Namespace] = true
			}
		}
	}
	if slices.ContainsFunc(res.Edges, func(e *Edge) bool { return e.Target.Kind == TargetHost || e.Target.Kind == TargetAddress }) {
		// Either may turn out to be a pod or a Service of any namespace.
		for _, ns := range in.Snapshot.Namespaces {
			namespaces[ns.Name] = true
		}
	}
	for _, o := range res.Obstacles {
		fmt.Fprintf(h, "obstacle %s %s %s\n", o.Path, o.Reason, o.Target)
	}
	hashTargets(h, in, res)
	hashPolicies(h, in, namespaces)
	// What is assumed of the implementation is part of every prediction.
	fmt.Fprintf(h, "profile %s\n", in.Snapshot.Profile)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// hashTargets hashes what policies see of target pods beyond their address: their
// labels, ports and host network.
func hashTargets(h io.Writer, in Input, res *Resolution) {
	pods := map[string]*corev1.Pod{}
	for _, p := range in.Snapshot.Pods {
		pods[p.Namespace+"/"+p.Name] = p
	}
	seen := map[string]bool{}
	for _, e := range res.Edges {
		for _, b := range e.Backends {
			key := b.Endpoint.Namespace + "/" + b.Endpoint.Pod
			p := pods[key]
			if p == nil || seen[key] {
				continue
			}
			seen[key] = true
			fmt.Fprintf(h, "pod %s %s %s %v\n", key, p.UID, flow.FormatLabels(p.Labels), p.Spec.HostNetwork)
			for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
				for _, port := range c.Ports {
					fmt.Fprintf(h, "port %s %s %d\n", port.Name, port.Protocol, port.ContainerPort)
				}
			}
		}
	}
}

func hashPolicies(h io.Writer, in Input, namespaces map[string]bool) {
	// A cache lists objects in no order.
	lines := map[string]string{}
	for _, ns := range in.Snapshot.Namespaces {
		if namespaces[ns.Name] {
			lines["namespace "+ns.Name] = flow.FormatLabels(ns.Labels) + " " + string(ns.Status.Phase)
		}
	}
	for _, p := range in.Snapshot.NetworkPolicies {
		if !namespaces[p.Namespace] {
			continue
		}
		// A spec of API types always marshals.
		spec, _ := json.Marshal(p.Spec)
		lines["policy "+p.Namespace+"/"+p.Name] = string(spec)
	}
	addClusterWide(lines, in, namespaces)
	for _, u := range in.Snapshot.Unmodelled {
		if u.Namespace == "" || namespaces[u.Namespace] {
			lines["unmodelled "+u.String()] = ""
		}
	}
	for _, key := range slices.Sorted(maps.Keys(lines)) {
		fmt.Fprintf(h, "%s %s\n", key, lines[key])
	}
}
