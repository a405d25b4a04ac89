package evaluator

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// CNI is an implementation of NetworkPolicy that is recognised by the pods of its
// agent. Nothing is said of it that a public source does not.
type CNI struct {
	// Name is how users write it.
	Name string
	// label is that of the agent's pods, which are on the host network. namespaces are
	// where they are looked for: what runs elsewhere may be anybody's.
	label      [2]string
	namespaces []string
	// container is the one whose image tells the version.
	container string
	facts     []fact
	// passive is set for one that enforces no policy, so that another one may.
	passive bool
	// warmUp is how long it leaves a new pod open, or closed, before it enforces the
	// policies; 0 if nothing is known of that.
	warmUp time.Duration
}

// fact is something that is known of some versions.
type fact struct {
	Profile
	// since is the first version, before the first that it does not hold for; empty
	// means no bound.
	since, before string
	sources       []string
}

const (
	systemNamespace = "kube-system"
	github          = "https://github.com/"
)

// cnis are documented in docs/cni.md, with what is left out and why.
var cnis = []CNI{
	{
		Name: "antrea", label: [2]string{"app", "antrea"}, namespaces: []string{systemNamespace}, container: "antrea-agent",
		facts: []fact{{
			Profile: Profile{HostNetworkPodsPoliced: False, HostNetworkPodsSelectable: False}, since: "1.5.0",
			sources: []string{github + "antrea-io/antrea/pull/2093", github + "antrea-io/antrea/pull/3080"},
		}},
	},
	{
		Name: "aws-vpc-cni", label: [2]string{"k8s-app", "aws-node"}, namespaces: []string{systemNamespace}, container: "aws-eks-nodeagent",
		// One or two seconds have been seen, in issues 83, 186 and 271 of
		// aws/aws-network-policy-agent.
		warmUp: 5 * time.Second,
		facts: []fact{{
			Profile: Profile{PodReachesOwnNode: True}, since: "1.1.0",
			sources: []string{github + "aws/aws-network-policy-agent/pull/65"},
		}},
	},
	{
		Name: "azure-npm", label: [2]string{"k8s-app", "azure-npm"}, namespaces: []string{systemNamespace}, container: "azure-npm",
		facts: []fact{{
			Profile: Profile{HostNetworkPodsPoliced: False, HostNetworkPodsSelectable: False}, since: "1.3.2",
			sources: []string{github + "Azure/azure-container-networking/pull/776", github + "Azure/azure-container-networking/issues/723"},
		}},
	},
	calico("calico-node"),
	calico("canal"),
	{
		Name: "cilium", label: [2]string{"k8s-app", "cilium"}, namespaces: []string{systemNamespace, "cilium"}, container: "cilium-agent",
		facts: []fact{
			{
				Profile: Profile{HostNetworkPodsPoliced: False, HostNetworkPodsSelectable: False},
				sources: []string{github + "cilium/cilium/pull/3760", github + "cilium/cilium/issues/10405"},
			},
			// The option policy-cidr-match-mode=pods came with 1.20.
			{
				Profile: Profile{IPBlockMatchesPods: False}, before: "1.20",
				sources: []string{
					github + "cilium/cilium/issues/9209", github + "cilium/cilium/issues/19601",
					github + "cilium/cilium/issues/35212", github + "cilium/cilium/pull/45194",
				},
			},
		},
	},
	{Name: "flannel", label: [2]string{"app", "flannel"}, namespaces: []string{"kube-flannel", systemNamespace}, passive: true},
	kubeNetworkPolicies("kindnet", "app", "kindnet"),
	kubeNetworkPolicies("kube-network-policies", "k8s-app", "kube-network-policies"),
	{
		Name: "kube-router", label: [2]string{"k8s-app", "kube-router"}, namespaces: []string{systemNamespace}, container: "kube-router",
		facts: []fact{{
			Profile: Profile{HostNetworkPodsPoliced: False, HostNetworkPodsSelectable: False}, since: "1.2.3",
			sources: []string{github + "cloudnativelabs/kube-router/pull/1073", github + "cloudnativelabs/kube-router/issues/1135"},
		}},
	},
	{
		Name: "ovn-kubernetes", label: [2]string{"app", "ovnkube-node"}, namespaces: []string{"openshift-ovn-kubernetes", "ovn-kubernetes"},
		facts: []fact{{
			Profile: Profile{HostNetworkPodsPoliced: False},
			sources: []string{"https://docs.okd.io/latest/networking/network_security/network_policy/about-network-policy.html"},
		}},
	},
}

// calico is Calico, which also enforces policies beside the network of others.
func calico(app string) CNI {
	return CNI{
		Name: "calico", label: [2]string{"k8s-app", app}, namespaces: []string{systemNamespace, "calico-system"},
		facts: []fact{
			{Profile: Profile{IPBlockMatchesPods: True}, sources: []string{github + "projectcalico/calico/issues/6634"}},
			{
				Profile: Profile{HostNetworkPodsPoliced: False},
				sources: []string{github + "projectcalico/felix/issues/1361", github + "projectcalico/calico/issues/2971"},
			},
		},
	}
}

// kubeNetworkPolicies is an agent that enforces with the library of this name.
func kubeNetworkPolicies(name, key, value string) CNI {
	return CNI{
		Name: name, label: [2]string{key, value}, namespaces: []string{systemNamespace},
		facts: []fact{
			{
				Profile: Profile{IPBlockMatchesPods: True},
				sources: []string{github + "kubernetes-sigs/kube-network-policies/blob/main/pkg/networkpolicy/networkpolicy.go"},
			},
			{
				Profile: Profile{HostNetworkPodsPoliced: False, HostNetworkPodsSelectable: False},
				sources: []string{github + "kubernetes-sigs/kube-network-policies/pull/388", github + "kubernetes-sigs/kube-network-policies/pull/389"},
			},
		},
	}
}

// CNIOf returns the implementation whose agent the pod is; nil for any other pod.
func CNIOf(p *corev1.Pod) *CNI {
	if !p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil
	}
	for i := range cnis {
		if c := &cnis[i]; p.Labels[c.label[0]] == c.label[1] && slices.Contains(c.namespaces, p.Namespace) {
			return c
		}
	}
	return nil
}

// RecognisedBy returns the label of the agent's pods, as key=value.
func (c *CNI) RecognisedBy() string { return c.label[0] + "=" + c.label[1] }

// EnforcesNothing tells whether it enforces no NetworkPolicy by itself.
func (c *CNI) EnforcesNothing() bool { return c.passive }

// CNISelectors returns label selectors, one for each label key, which select the pods of
// the agents, and perhaps others: CNIOf tells them apart.
func CNISelectors() []string {
	values := map[string][]string{}
	for i := range cnis {
		values[cnis[i].label[0]] = append(values[cnis[i].label[0]], cnis[i].label[1])
	}
	var out []string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		slices.Sort(values[key])
		out = append(out, key+" in ("+strings.Join(slices.Compact(values[key]), ",")+")")
	}
	return out
}

// CNINames lists the implementations that are recognised.
func CNINames() []string {
	var names []string
	for i := range cnis {
		names = append(names, cnis[i].Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// of returns what is known of the version that a pod runs.
func (c *CNI) of(p *corev1.Pod) Profile {
	var version string
	for i := range p.Spec.Containers {
		if o := &p.Spec.Containers[i]; o.Name == c.container {
			version = versionOf(o.Image)
		}
	}
	return c.at(version)
}

// at returns what is known of a version, which is empty if it is not known.
func (c *CNI) at(version string) Profile {
	var known Profile
	for _, f := range c.facts {
		if f.holds(version) {
			known = known.Or(f.Profile)
		}
	}
	return known
}

// versionOf returns the tag of an image; empty if it has none.
func versionOf(image string) string {
	image, _, _ = strings.Cut(image, "@")
	name := image[strings.LastIndexByte(image, '/')+1:]
	_, tag, _ := strings.Cut(name, ":")
	return tag
}

// holds tells whether the fact is about a version.
func (f *fact) holds(version string) bool {
	if f.since == "" && f.before == "" {
		return true
	}
	numbers, suffix, ok := parseVersion(version)
	if !ok {
		return false
	}
	for _, early := range []string{"alpha", "beta", "rc", "pre", "dev", "snapshot"} {
		if strings.Contains(strings.ToLower(suffix), early) {
			return false
		}
	}
	if f.since != "" {
		if bound, _, _ := parseVersion(f.since); slices.Compare(numbers, bound) < 0 {
			return false
		}
	}
	if f.before != "" {
		// What a vendor builds of a version may have more than the version has.
		if bound, _, _ := parseVersion(f.before); suffix != "" || slices.Compare(numbers, bound) >= 0 {
			return false
		}
	}
	return true
}

// parseVersion reads v1.2.3 and what follows it. It needs a minor version.
func parseVersion(text string) (numbers []int, suffix string, ok bool) {
	text = strings.TrimPrefix(text, "v")
	end := strings.IndexFunc(text, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end >= 0 {
		text, suffix = text[:end], text[end:]
	}
	for part := range strings.SplitSeq(text, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil, "", false
		}
		numbers = append(numbers, n)
	}
	return numbers, suffix, len(numbers) > 1
}

// Implementation is what users say of the implementation of their cluster.
type Implementation struct {
	// Told is what they say of it in particular.
	Told Profile
	// CNI is its name; empty if it is to be recognised by its pods, and noCNI if
	// nothing is to be assumed but what is told.
	CNI string
}

const (
	keyCNI = "cni"
	noCNI  = "none"
)

// ParseImplementation reads assumptions as ParseAssumptions does, and cni=NAME or
// cni=none beside them.
func ParseImplementation(list []string) (Implementation, error) {
	var i Implementation
	var rest []string
	for _, text := range list {
		key, value, _ := strings.Cut(text, "=")
		if key != keyCNI {
			rest = append(rest, text)
			continue
		}
		value = strings.ToLower(value)
		switch {
		case value != noCNI && !slices.Contains(CNINames(), value):
			return Implementation{}, fmt.Errorf("%q names no implementation that is known: write one of %s, or cni=none to assume nothing",
				text, strings.Join(CNINames(), ", "))
		case i.CNI != "" && i.CNI != value:
			return Implementation{}, fmt.Errorf("cni is assumed to be both %s and %s: write one of them", i.CNI, value)
		}
		i.CNI = value
	}
	var err error
	if i.Told, err = ParseAssumptions(rest); err != nil {
		return Implementation{}, fmt.Errorf("%w; or cni=NAME, cni=none", err)
	}
	return i, nil
}

// Detection is what was found out about the implementation.
type Detection struct {
	// Profile is what is assumed: what was told, and otherwise what is known of the
	// implementation that was found.
	Profile Profile
	// WarmUp is the time that new pods need until the policies are enforced for them: the
	// longest of all implementations that were found.
	WarmUp time.Duration
	// Note says in a sentence what was found and what is assumed for it; empty if
	// nothing was found.
	Note string
}

// Detect recognises the implementation by its pods, unless users say which it is. Of
// several, any may be the one that enforces, so that nothing is assumed of either.
func (i Implementation) Detect(pods []*corev1.Pod) Detection {
	if i.CNI == noCNI {
		return Detection{Profile: i.Told}
	}
	found := map[string]*Profile{}
	var passive string
	var warmUp time.Duration
	for _, p := range pods {
		c := CNIOf(p)
		switch {
		case c == nil || (i.CNI != "" && i.CNI != c.Name):
			continue
		case c.passive:
			passive = c.Name
			continue
		}
		warmUp = max(warmUp, c.warmUp)
		known := c.of(p)
		if first := found[c.Name]; first == nil {
			found[c.Name] = &known
		} else {
			// While versions change, only what is known of all of them counts.
			*first = first.and(known)
		}
	}
	var names []string
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	const overrule = "say --assume KEY=true|false to overrule it, or --assume cni=none to assume nothing"
	switch {
	case len(names) > 1:
		return Detection{i.Told, warmUp, fmt.Sprintf("the CNIs %s were found: nothing is assumed of either; say --assume cni=NAME for the one that enforces policies",
			strings.Join(names, " and "))}
	case len(names) == 1:
		return Detection{i.Told.Or(*found[names[0]]), warmUp, assumedFor(names[0]+" was found", *found[names[0]]) + "; " + overrule}
	case i.CNI != "":
		c := named(i.CNI)
		return Detection{i.Told.Or(c.at("")), c.warmUp, assumedFor(i.CNI+" was named", c.at(""))}
	case passive != "":
		return Detection{Profile: i.Told, Note: fmt.Sprintf("the CNI %s was found, which enforces no NetworkPolicy by itself", passive)}
	}
	return Detection{Profile: i.Told}
}

// named returns the implementation of a name that CNINames lists.
func named(name string) *CNI {
	return &cnis[slices.IndexFunc(cnis, func(c CNI) bool { return c.Name == name })]
}

// assumedFor says what is assumed of an implementation.
func assumedFor(what string, known Profile) string {
	if known == (Profile{}) {
		return "the CNI " + what + ": nothing is assumed of it"
	}
	return "the CNI " + what + ": assumed " + known.String()
}

// and keeps what two profiles agree on.
func (p Profile) and(other Profile) Profile {
	for _, f := range profileFields {
		if s := f.of(&p); *s != *f.of(&other) {
			*s = Unset
		}
	}
	return p
}
