// Package flow holds the nouns that every other package shares: the protocol,
// the two endpoints and the port of a connection, and stable identifiers for
// them. It imports nothing of the project and nothing of Kubernetes, so that
// the probe binary and the evaluator can speak of the same thing.
package flow

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Protocol is a transport protocol that NetworkPolicy knows, in the spelling of
// the Kubernetes API (core/v1 Protocol).
type Protocol string

// The protocols that a NetworkPolicyPort can name.
const (
	TCP  Protocol = "TCP"
	UDP  Protocol = "UDP"
	SCTP Protocol = "SCTP"
)

// Endpoint is one end of a flow: a pod of the snapshot, an identity (a pod that
// need not exist) or a bare address.
type Endpoint struct {
	// Namespace of the pod or the identity; empty for a bare address.
	Namespace string
	// Pod is the name of a pod in the snapshot; empty for an identity and for
	// a bare address.
	Pod string
	// Labels are the labels of an identity. They are read only when Namespace
	// is set and Pod is empty.
	Labels map[string]string
	// Addr is the address that the flow uses at this end. For a pod, the zero
	// Addr stands for the pod's first address; for a bare address it is required.
	Addr netip.Addr
}

// IsPod tells whether the endpoint names a pod of the snapshot.
func (e Endpoint) IsPod() bool { return e.Namespace != "" && e.Pod != "" }

// IsIdentity tells whether the endpoint is a pod that need not exist.
func (e Endpoint) IsIdentity() bool { return e.Namespace != "" && e.Pod == "" }

// String names the endpoint as a user would: namespace/pod, namespace/{labels}
// or the address.
func (e Endpoint) String() string {
	switch {
	case e.IsPod():
		return e.Namespace + "/" + e.Pod
	case e.IsIdentity():
		return e.Namespace + "/{" + FormatLabels(e.Labels) + "}"
	case e.Addr.IsValid():
		return e.Addr.String()
	default:
		return "?"
	}
}

// Flow is a new connection (or, for UDP, a first datagram) from one endpoint to
// a port of another. NetworkPolicy is about connections: the replies belong to
// the flow and need no rule of their own.
type Flow struct {
	From, To Endpoint
	Protocol Protocol
	// Port is the port on the destination pod, that is after any Service
	// translation. Bounds: 1..65535.
	Port uint16
}

// String renders the flow for people and for test failures.
func (f Flow) String() string {
	return fmt.Sprintf("%s -> %s %s/%d", f.From, f.To, f.Protocol, f.Port)
}

// Port is one port of one protocol.
type Port struct {
	Protocol Protocol
	// Number is within 1..65535.
	Number uint16
}

// String renders TCP/80.
func (p Port) String() string { return string(p.Protocol) + "/" + strconv.Itoa(int(p.Number)) }

// PortRange is an inclusive range of ports of one protocol.
type PortRange struct {
	Protocol    Protocol
	First, Last uint16
}

// Contains tells whether the port is in the range, both bounds included.
func (r PortRange) Contains(p Protocol, port uint16) bool {
	return r.Protocol == p && r.First <= port && port <= r.Last
}

// String renders TCP/80 or TCP/8000-8099.
func (r PortRange) String() string {
	s := string(r.Protocol) + "/" + strconv.Itoa(int(r.First))
	if r.Last > r.First {
		s += "-" + strconv.Itoa(int(r.Last))
	}
	return s
}

// FormatLabels renders labels as key=value pairs, sorted, separated by commas.
func FormatLabels(labels map[string]string) string {
	pairs := make([]string, 0, len(labels))
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, k+"="+labels[k])
	}
	return strings.Join(pairs, ",")
}

// idEncoding yields lower-case letters and digits only, so that an ID can be
// part of a pod's name (RFC 1123 label).
var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// ID derives a stable identifier of 16 characters (80 bits) from its parts. The
// same parts give the same ID in every process and release; the length of each
// part is hashed too, so that ("ab", "c") and ("a", "bc") differ.
func ID(parts ...string) string {
	hashed := make([]byte, 0, 256)
	for _, p := range parts {
		hashed = strconv.AppendInt(hashed, int64(len(p)), 10)
		hashed = append(hashed, ':')
		hashed = append(hashed, p...)
	}
	sum := sha256.Sum256(hashed)
	// 10 bytes are 16 characters.
	return idEncoding.EncodeToString(sum[:10])
}
