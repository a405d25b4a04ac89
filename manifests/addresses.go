package manifests

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// Addresses that are made up come from these ranges, which lie where those of pods
// and Services usually lie: in private ranges, which policies that mean "the
// internet" except. Each begins with the family's prefix, and the rest is a hash.
var (
	podRanges     = []netip.Prefix{netip.MustParsePrefix("10.128.0.0/9"), netip.MustParsePrefix("fd70:6174:6800::/64")}
	serviceRanges = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/11"), netip.MustParsePrefix("fd70:6174:6801::/64")}
	// private holds the ranges that clusters take their addresses from.
	private = []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fc00::/7"),
	}
)

// addresses hands out addresses that nothing in the input has.
type addresses struct {
	used map[netip.Addr]bool
	// families tells for IPv4 and IPv6 whether the input is about it.
	families [2]bool
	// madeNodes is set once a node was given an address.
	madeNodes bool
}

// completeAddresses gives pods and Services that have no address one of their own.
func (r *Result) completeAddresses() {
	a := &addresses{used: map[netip.Addr]bool{}}
	a.collect(r)
	made := 0
	nodes := map[string][]corev1.PodIP{}
	for _, p := range sorted(r.Snapshot.Pods) {
		if p.Status.PodIP != "" || len(p.Status.PodIPs) > 0 {
			continue
		}
		if p.Status.Phase != corev1.PodRunning {
			continue // it has no address yet, or no longer
		}
		if p.Spec.HostNetwork {
			a.onNode(p, nodes)
			continue
		}
		made++
		p.Status.PodIPs = a.make(podRanges, "pod/"+p.Namespace+"/"+p.Name)
		p.Status.PodIP = p.Status.PodIPs[0].IP
	}
	services := slices.SortedFunc(slices.Values(r.Snapshot.Services), func(a, b *corev1.Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, s := range services {
		a.service(s)
	}
	r.madePods, r.madeNodes = made > 0, a.madeNodes
	r.noteBlocks(made)
}

// onNode gives a host-network pod the addresses of its node.
func (a *addresses) onNode(p *corev1.Pod, nodes map[string][]corev1.PodIP) {
	if len(p.Status.HostIPs) == 0 && p.Status.HostIP != "" {
		p.Status.HostIPs = []corev1.HostIP{{IP: p.Status.HostIP}}
	}
	if len(p.Status.HostIPs) == 0 {
		a.madeNodes = true
		key := "node/" + p.Spec.NodeName
		if p.Spec.NodeName == "" {
			key = "host/" + p.Namespace + "/" + p.Name
		}
		if nodes[key] == nil {
			nodes[key] = a.make(podRanges, key)
		}
		for _, ip := range nodes[key] {
			p.Status.HostIPs = append(p.Status.HostIPs, corev1.HostIP(ip))
		}
	}
	p.Status.HostIP = p.Status.HostIPs[0].IP
	p.Status.PodIP = p.Status.HostIP
	for _, ip := range p.Status.HostIPs {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP(ip))
	}
}

// service sets the cluster addresses of a Service that has none. Headless Services
// and aliases stay without.
func (a *addresses) service(s *corev1.Service) {
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return
	}
	switch {
	case len(s.Spec.ClusterIPs) > 0:
		s.Spec.ClusterIP = cmp.Or(s.Spec.ClusterIP, s.Spec.ClusterIPs[0])
	case s.Spec.ClusterIP != "":
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	default:
		ips := a.make(serviceRanges, "service/"+s.Namespace+"/"+s.Name)
		single := s.Spec.IPFamilyPolicy == nil || *s.Spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
		for _, ip := range ips {
			if len(s.Spec.IPFamilies) > 0 && !slices.Contains(s.Spec.IPFamilies, familyOf(ip.IP)) {
				continue
			}
			s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, ip.IP)
			if single && len(s.Spec.IPFamilies) < 2 {
				break
			}
		}
		if len(s.Spec.ClusterIPs) > 0 {
			s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
		}
	}
}

func familyOf(ip string) corev1.IPFamily {
	if a, err := netip.ParseAddr(ip); err == nil && !a.Is4() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// make returns one address for each family of the input. It depends on the key,
// and on others only if they have the address already.
func (a *addresses) make(ranges []netip.Prefix, key string) []corev1.PodIP {
	var out []corev1.PodIP
	for i, r := range ranges {
		if !a.families[i] {
			continue
		}
		h := fnv.New64a()
		_, _ = h.Write([]byte(key))
		addr := within(r, h.Sum64())
		for a.used[addr] || !r.Contains(addr) {
			if addr = addr.Next(); !r.Contains(addr) {
				addr = r.Addr().Next()
			}
		}
		a.used[addr] = true
		out = append(out, corev1.PodIP{IP: addr.String()})
	}
	return out
}

// within returns the address of a range whose last bits are those of the hash.
func within(r netip.Prefix, hash uint64) netip.Addr {
	b := r.Addr().AsSlice()
	host := min(len(b)*8-r.Bits(), 64)
	hash &= ^uint64(0) >> (64 - host)
	for i := len(b) - 1; hash > 0; i-- {
		b[i] |= byte(hash)
		hash >>= 8
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

// collect notes the addresses and families of the input.
func (a *addresses) collect(r *Result) {
	for _, p := range r.Snapshot.Pods {
		a.use(p.Status.PodIP, p.Status.HostIP)
		for _, ip := range p.Status.PodIPs {
			a.use(ip.IP)
		}
		for _, ip := range p.Status.HostIPs {
			a.use(ip.IP)
		}
	}
	for _, n := range r.Snapshot.Nodes {
		for _, address := range n.Status.Addresses {
			a.use(address.Address)
		}
	}
	for _, s := range r.Snapshot.Services {
		a.use(s.Spec.ClusterIP, s.Spec.LoadBalancerIP)
		a.use(s.Spec.ClusterIPs...)
		a.use(s.Spec.ExternalIPs...)
		for _, f := range s.Spec.IPFamilies {
			a.families[index(f == corev1.IPv6Protocol)] = true
		}
		for _, i := range s.Status.LoadBalancer.Ingress {
			a.use(i.IP)
		}
	}
	for _, s := range r.Snapshot.EndpointSlices {
		for _, e := range s.Endpoints {
			a.use(e.Addresses...)
		}
	}
	for _, block := range r.blocks() {
		if !block.except && block.prefix.IsSingleIP() {
			a.use(block.prefix.Addr().String())
		}
	}
	if a.families == [2]bool{} {
		a.families[0] = true
	}
}

func (a *addresses) use(list ...string) {
	for _, text := range list {
		if addr, err := netip.ParseAddr(text); err == nil {
			addr = addr.Unmap()
			a.used[addr] = true
			a.families[index(addr.Is6())] = true
		}
	}
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// block is a range that a policy speaks of.
type block struct {
	policy string
	prefix netip.Prefix
	// except tells that the policy leaves the range out.
	except bool
}

// internet are the ranges that a block leaves out if it means the internet: then no address
// of a pod is in it, wherever it lies.
var internet = private[:3]

func (r *Result) blocks() []block {
	var out []block
	add := func(kind, namespace, name, cidr string, except bool) {
		if prefix, err := netip.ParsePrefix(cidr); err == nil {
			out = append(out, block{kind + " " + strings.TrimPrefix(namespace+"/"+name, "/"), prefix, except})
		}
	}
	for _, p := range r.Snapshot.NetworkPolicies {
		peers := func(peers []networkingv1.NetworkPolicyPeer) {
			for _, peer := range peers {
				if peer.IPBlock == nil {
					continue
				}
				add("NetworkPolicy", p.Namespace, p.Name, peer.IPBlock.CIDR, false)
				if excepts(peer.IPBlock, internet) {
					continue
				}
				for _, cidr := range peer.IPBlock.Except {
					add("NetworkPolicy", p.Namespace, p.Name, cidr, true)
				}
			}
		}
		for _, rule := range p.Spec.Ingress {
			peers(rule.From)
		}
		for _, rule := range p.Spec.Egress {
			peers(rule.To)
		}
	}
	networks := func(kind, name string, cidrs []string) {
		for _, cidr := range cidrs {
			add(kind, "", name, cidr, false)
		}
	}
	for _, p := range r.Snapshot.ClusterNetworkPolicies {
		for i := range p.Spec.Egress {
			for _, peer := range p.Spec.Egress[i].To {
				networks("ClusterNetworkPolicy", p.Name, texts(peer.Networks))
			}
		}
	}
	for _, p := range r.Snapshot.AdminNetworkPolicies {
		for i := range p.Spec.Egress {
			for _, peer := range p.Spec.Egress[i].To {
				networks("AdminNetworkPolicy", p.Name, texts(peer.Networks))
			}
		}
	}
	for _, p := range r.Snapshot.BaselineAdminNetworkPolicies {
		for i := range p.Spec.Egress {
			for _, peer := range p.Spec.Egress[i].To {
				networks("BaselineAdminNetworkPolicy", p.Name, texts(peer.Networks))
			}
		}
	}
	return out
}

func texts[T ~string](list []T) []string {
	var out []string
	for _, text := range list {
		out = append(out, string(text))
	}
	return out
}

// excepts tells whether a block leaves out all of these ranges.
func excepts(b *networkingv1.IPBlock, all []netip.Prefix) bool {
	return !slices.ContainsFunc(all, func(r netip.Prefix) bool {
		return !slices.ContainsFunc(b.Except, func(cidr string) bool {
			p, err := netip.ParsePrefix(cidr)
			return err == nil && p.Bits() <= r.Bits() && p.Contains(r.Addr())
		})
	})
}

// noteBlocks says where made-up addresses could matter: a policy that names a
// private range may mean the pods.
func (r *Result) noteBlocks(made int) {
	if made == 0 {
		return
	}
	for _, b := range r.blocks() {
		if slices.ContainsFunc(private, func(p netip.Prefix) bool { return p.Bits() <= b.prefix.Bits() && p.Contains(b.prefix.Addr()) }) {
			r.Notes = append(r.Notes, fmt.Sprintf("%d pods have no status.podIP and got addresses of %s: whether they lie in %s of %s cannot be known from these manifests",
				made, podRanges[0], b.prefix, b.policy))
			return
		}
	}
}
