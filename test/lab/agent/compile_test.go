package agent

import (
	stdcmp "cmp"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// snapshotWith is a small cluster: two namespaces, and on the policed node the
// pod shop/web with a named port and a sidecar.
func snapshotWith(t *testing.T, policies string) Snapshot {
	t.Helper()
	pod := func(ns, name, node, addr string, ports ...NamedPort) Pod {
		// 10.244.1.2 is fd00:1::2, too.
		four := netip.MustParseAddr(addr).As4()
		return Pod{
			Namespace: ns, Name: name, Node: node, Ports: ports, Labels: map[string]string{"app": name},
			Addrs: []netip.Addr{netip.AddrFrom4(four), netip.MustParseAddr(fmt.Sprintf("fd00:%d::%d", four[2], four[3]))},
		}
	}
	s := Snapshot{
		Node:       "node-a",
		Namespaces: map[string]map[string]string{"shop": {"team": "shop"}, "ops": {"team": "ops"}},
		Pods: []Pod{
			pod("shop", "web", "node-a", "10.244.1.2",
				NamedPort{"http", corev1.ProtocolTCP, 8080}, NamedPort{"metrics", corev1.ProtocolUDP, 9090}),
			pod("shop", "db", "node-b", "10.244.2.2", NamedPort{"http", corev1.ProtocolTCP, 9999}),
			pod("ops", "scraper", "node-a", "10.244.1.3"),
			pod("ops", "web", "node-b", "10.244.2.3", NamedPort{"http", corev1.ProtocolTCP, 7777}),
		},
	}
	for document := range strings.SplitSeq(policies, "\n---\n") {
		if strings.Contains(document, "kind: ClusterNetworkPolicy") {
			var p policyv1alpha2.ClusterNetworkPolicy
			if err := yaml.UnmarshalStrict([]byte(document), &p); err != nil {
				t.Fatalf("policy %q: %v", document, err)
			}
			s.ClusterPolicies = append(s.ClusterPolicies, &p)
			continue
		}
		var p networkingv1.NetworkPolicy
		if err := yaml.UnmarshalStrict([]byte(document), &p); err != nil {
			t.Fatalf("policy %q: %v", document, err)
		}
		s.Policies = append(s.Policies, &p)
	}
	return s
}

// policy wraps a spec that selects shop/web.
func policy(spec string) string {
	return "metadata: {name: p, namespace: shop}\nspec:\n  podSelector: {matchLabels: {app: web}}\n  " +
		strings.ReplaceAll(strings.TrimSpace(spec), "\n", "\n  ") + "\n"
}

// chainLines returns what the ruleset says of shop/web in one direction and family,
// one condition a line, or "not isolated".
func chainLines(r Ruleset, d direction, f family) string {
	for _, g := range r.Guards {
		if g.Pod != "shop/web" || g.Addr.Is4() != f.is4 {
			continue
		}
		chain, field := g.Egress, "daddr"
		if d == ingress {
			chain, field = g.Ingress, "saddr"
		}
		if chain == nil {
			break
		}
		var lines []string
		for _, a := range chain.Allow {
			for _, line := range a.lines(f, field) {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		return strings.Join(lines, "\n")
	}
	return "not isolated"
}

func TestCompile(t *testing.T) {
	for name, tc := range map[string]struct {
		spec        string
		mode        string
		wantIngress string
		wantEgress  string
	}{
		"no policyTypes and no rules isolates for ingress only": {
			spec: `ingress: []`, wantIngress: "", wantEgress: "not isolated",
		},
		"no policyTypes with egress rules isolates for both": {
			spec: `egress: [{}]`, wantIngress: "", wantEgress: "",
		},
		"explicit egress alone leaves ingress open": {
			spec: `policyTypes: [Egress]`, wantIngress: "not isolated", wantEgress: "",
		},
		"a rule without from allows every source": {
			spec: `ingress: [{ports: [{port: 80}]}]`, wantIngress: "tcp dport { 80 }", wantEgress: "not isolated",
		},
		"an empty podSelector means the policy's own namespace": {
			spec:        `ingress: [{from: [{podSelector: {}}]}]`,
			wantIngress: "ip saddr { 10.244.1.2, 10.244.2.2 }", wantEgress: "not isolated",
		},
		"an empty namespaceSelector means all namespaces": {
			spec:        `ingress: [{from: [{namespaceSelector: {}}]}]`,
			wantIngress: "ip saddr { 10.244.1.2, 10.244.1.3, 10.244.2.2, 10.244.2.3 }", wantEgress: "not isolated",
		},
		"both selectors in one peer must match": {
			spec:        `ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}, podSelector: {matchLabels: {app: web}}}]}]`,
			wantIngress: "ip saddr { 10.244.2.3 }", wantEgress: "not isolated",
		},
		"two peers are alternatives": {
			spec:        `ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}, {podSelector: {matchLabels: {app: db}}}]}]`,
			wantIngress: "ip saddr { 10.244.1.3, 10.244.2.2, 10.244.2.3 }", wantEgress: "not isolated",
		},
		"expressions match pods that lack the key": {
			spec:        `ingress: [{from: [{podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}, {key: app, operator: NotIn, values: [web]}]}}]}]`,
			wantIngress: "ip saddr { 10.244.2.2 }", wantEgress: "not isolated",
		},
		"peers that match no pod allow nothing": {
			spec:        `ingress: [{from: [{podSelector: {matchLabels: {app: none}}}]}]`,
			wantIngress: "", wantEgress: "not isolated",
		},
		"a protocol without port is all of its ports": {
			spec:        `ingress: [{ports: [{protocol: UDP}, {protocol: SCTP, port: 7}]}]`,
			wantIngress: "meta l4proto udp\nsctp dport { 7 }", wantEgress: "not isolated",
		},
		"endPort is inclusive and overlapping ranges are joined": {
			spec:        `ingress: [{ports: [{port: 10, endPort: 20}, {port: 15, endPort: 30}, {port: 31}, {port: 40}]}]`,
			wantIngress: "tcp dport { 10-31, 40 }", wantEgress: "not isolated",
		},
		"a named port of an ingress rule is the selected pod's, by protocol": {
			spec:        `ingress: [{ports: [{port: http}, {port: metrics}, {port: metrics, protocol: UDP}]}]`,
			wantIngress: "tcp dport { 8080 }\nudp dport { 9090 }", wantEgress: "not isolated",
		},
		"a named port of an egress rule is each destination's": {
			spec:        `policyTypes: [Egress]` + "\n" + `egress: [{to: [{podSelector: {}}, {namespaceSelector: {matchLabels: {team: ops}}}], ports: [{port: http}]}]`,
			wantIngress: "not isolated",
			wantEgress: "ip daddr { 10.244.1.2 } tcp dport { 8080 }\nip daddr { 10.244.2.2 } tcp dport { 9999 }\n" +
				"ip daddr { 10.244.2.3 } tcp dport { 7777 }",
		},
		"a named port reaches no address outside": {
			spec:        `policyTypes: [Egress]` + "\n" + `egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24}}], ports: [{port: http}]}]`,
			wantIngress: "not isolated", wantEgress: "",
		},
		"except narrows its own block only": {
			spec:        `ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.1.2.0/24]}}, {ipBlock: {cidr: 10.1.2.3/32}}]}]`,
			wantIngress: "ip saddr 10.0.0.0/8 ip saddr != { 10.1.0.0/16 }\nip saddr { 10.1.2.3 }",
			wantEgress:  "not isolated",
		},
		"an IPv6 block matches no IPv4 packet": {
			spec: `ingress: [{from: [{ipBlock: {cidr: "2001:db8::/32"}}]}]`, wantIngress: "", wantEgress: "not isolated",
		},
		"mode ingress-ignored": {spec: `egress: [{}]`, mode: "ingress-ignored", wantIngress: "not isolated", wantEgress: ""},
		"mode egress-ignored":  {spec: `egress: [{}]`, mode: "egress-ignored", wantIngress: "", wantEgress: "not isolated"},
		"mode endport-ignored": {
			spec: `ingress: [{ports: [{port: 10, endPort: 20}]}]`, mode: "endport-ignored",
			wantIngress: "tcp dport { 10-65535 }", wantEgress: "not isolated",
		},
		"mode endport-single": {
			spec: `ingress: [{ports: [{port: 10, endPort: 20}]}]`, mode: "endport-single",
			wantIngress: "tcp dport { 10 }", wantEgress: "not isolated",
		},
		"mode except-ignored": {
			spec: `ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]`, mode: "except-ignored",
			wantIngress: "ip saddr 10.0.0.0/8", wantEgress: "not isolated",
		},
		"mode namespaceselector-ignored": {
			spec:        `ingress: [{from: [{namespaceSelector: {matchLabels: {team: none}}, podSelector: {matchLabels: {app: scraper}}}]}]`,
			mode:        "namespaceselector-ignored",
			wantIngress: "ip saddr { 10.244.1.3 }", wantEgress: "not isolated",
		},
		"mode named-ports-unresolved": {
			spec: `ingress: [{ports: [{port: metrics, protocol: UDP}]}]`, mode: "named-ports-unresolved",
			wantIngress: "meta l4proto udp", wantEgress: "not isolated",
		},
	} {
		t.Run(name, func(t *testing.T) {
			mode := Mode{Name: tc.mode}
			if tc.mode == "" {
				mode.Name = ModeCorrect
			}
			r := Compile(snapshotWith(t, policy(tc.spec)), mode)
			// `egress: [{}]` allows everything: one line without a condition,
			// which reads as no line at all here.
			if diff := cmp.Diff(tc.wantIngress, chainLines(r, ingress, families[0])); diff != "" {
				t.Errorf("ingress (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.wantEgress, chainLines(r, egress, families[0])); diff != "" {
				t.Errorf("egress (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCompileIPv6(t *testing.T) {
	for name, tc := range map[string]struct {
		spec        string
		mode        string
		wantIngress string
		wantEgress  string
	}{
		"pods are allowed at both of their addresses": {
			spec:        `ingress: [{from: [{podSelector: {}}]}]`,
			wantIngress: "ip6 saddr { fd00:1::2, fd00:2::2 }", wantEgress: "not isolated",
		},
		"a rule without peers allows every address": {
			spec: `ingress: [{ports: [{port: 80}]}]`, wantIngress: "tcp dport { 80 }", wantEgress: "not isolated",
		},
		"except narrows its own block only": {
			spec: `ingress: [{from: [{ipBlock: {cidr: "2001:db8::/32", except: ["2001:db8:1::/48", "2001:db8:1:2::/64"]}}, ` +
				`{ipBlock: {cidr: "2001:db8:1::7/128"}}]}]`,
			wantIngress: "ip6 saddr 2001:db8::/32 ip6 saddr != { 2001:db8:1::/48 }\nip6 saddr { 2001:db8:1::7 }", wantEgress: "not isolated",
		},
		"an IPv4 block matches no IPv6 packet": {
			spec: `ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]`, wantIngress: "", wantEgress: "not isolated",
		},
		"a named port of an egress rule is each destination's": {
			spec:        `policyTypes: [Egress]` + "\n" + `egress: [{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: http}]}]`,
			wantIngress: "not isolated", wantEgress: "ip6 daddr { fd00:2::2 } tcp dport { 9999 }",
		},
		"mode except-ignored": {
			spec: `ingress: [{from: [{ipBlock: {cidr: "2001:db8::/32", except: ["2001:db8:1::/48"]}}]}]`, mode: "except-ignored",
			wantIngress: "ip6 saddr 2001:db8::/32", wantEgress: "not isolated",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := Compile(snapshotWith(t, policy(tc.spec)), Mode{Name: stdcmp.Or(tc.mode, ModeCorrect)})
			if got := chainLines(r, ingress, families[1]); got != tc.wantIngress {
				t.Errorf("ingress %q, want %q", got, tc.wantIngress)
			}
			if got := chainLines(r, egress, families[1]); got != tc.wantEgress {
				t.Errorf("egress %q, want %q", got, tc.wantEgress)
			}
		})
	}
}

func TestEmptyRuleAllowsAllAndNoRuleNothing(t *testing.T) {
	for spec, want := range map[string]int{"ingress: [{}]": 1, "ingress: []": 0, "policyTypes: [Ingress]": 0} {
		r := Compile(snapshotWith(t, policy(spec)), Mode{Name: ModeCorrect})
		if got := len(r.Guards[0].Ingress.Allow); got != want {
			t.Errorf("%s: %d allows, want %d", spec, got, want)
		}
	}
}

func TestOnlyLocalPodsAreGuarded(t *testing.T) {
	r := Compile(snapshotWith(t, "metadata: {name: deny, namespace: shop}\nspec: {podSelector: {}}"), Mode{Name: ModeCorrect})
	var got []string
	for _, g := range r.Guards {
		got = append(got, g.Pod)
	}
	if diff := cmp.Diff([]string{"shop/web", "shop/web"}, got); diff != "" {
		t.Errorf("guarded pods (-want +got):\n%s", diff)
	}
}

const goldenPolicies = `
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: db}}}, {ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.20/32]}},
      {ipBlock: {cidr: "2001:db8::/32", except: ["2001:db8:1::/48"]}}]
    ports: [{port: http}, {port: 9000, endPort: 9010}, {port: 5, protocol: SCTP}]
  egress:
  - to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: scraper}}}]
    ports: [{port: 53, protocol: UDP}, {port: 53}]
---
metadata: {name: deny, namespace: ops}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
kind: ClusterNetworkPolicy
metadata: {name: admin}
spec:
  tier: Admin
  priority: 5
  subject: {pods: {namespaceSelector: {matchLabels: {team: shop}}, podSelector: {}}}
  ingress:
  - {action: Pass, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: scraper}}}}], protocols: [{tcp: {destinationPort: {number: 81}}}]}
  - {action: Deny, from: [{namespaces: {matchLabels: {team: ops}}}], protocols: [{tcp: {destinationPort: {range: {start: 80, end: 90}}}}, {udp: {}}, {destinationNamedPort: http}]}
  egress:
  - {action: Accept, to: [{networks: [203.0.113.0/24]}]}
---
kind: ClusterNetworkPolicy
metadata: {name: baseline}
spec:
  tier: Baseline
  priority: 0
  subject: {namespaces: {}}
  egress:
  - {action: Accept, to: [{namespaces: {matchLabels: {team: ops}}}]}
  - {action: Deny, to: [{namespaces: {}}]}`

func TestText(t *testing.T) {
	for _, info := range Modes {
		t.Run(info.Name, func(t *testing.T) {
			got := Compile(snapshotWith(t, goldenPolicies), Mode{Name: info.Name}).Text()
			path := filepath.Join("testdata", info.Name+".nft")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("text differs from %s; run with -update if it should (-want +got):\n%s", path, diff)
			}
		})
	}
}

// TestTextIsAccepted has nft check every text against the kernel, without
// putting it into effect, in a network namespace of its own.
func TestTextIsAccepted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, program := range []string{"nft", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("needs", program)
		}
	}
	for _, info := range Modes {
		cmd := exec.CommandContext(t.Context(), "unshare", "--net", "nft", "--check", "--file", "-")
		cmd.Stdin = strings.NewReader(Compile(snapshotWith(t, goldenPolicies), Mode{Name: info.Name}).Text())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", info.Name, err, out)
		}
	}
}
