package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Faults that are put on the lab beside those of its enforcement agent. All of them
// carry this name, or are settings that healFaults knows.
const fault = "pathproof-evidence"

const (
	tableLimit   = "/proc/sys/net/netfilter/nf_conntrack_max"
	tableBuckets = "/proc/sys/net/netfilter/nf_conntrack_buckets"
)

// healFaults takes back what a suite that was killed may have left behind. It takes no
// look at what is there.
func healFaults(ctx context.Context) {
	GinkgoHelper()
	// The kernel's own default for the limit is the number of buckets.
	if limit, err := os.ReadFile(tableLimit); err == nil && strings.TrimSpace(string(limit)) == "1" {
		buckets, err := os.ReadFile(tableBuckets)
		Expect(err).NotTo(HaveOccurred())
		Expect(os.WriteFile(tableLimit, buckets, 0)).To(Succeed())
	}
	for _, node := range nodeNames(ctx) {
		unfilter(ctx, nodeNetns(node))
	}
	for _, pod := range dnsPods(ctx) {
		if len(processesOf(&pod)) > 0 { // it may just have ended
			unfilter(ctx, podNetns(&pod))
		}
	}
	Expect(bed.Kubectl(ctx, "delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", fault, "--ignore-not-found")).To(Succeed())
}

func nodeNames(ctx context.Context) []string {
	GinkgoHelper()
	var nodes corev1.NodeList
	Expect(bed.Client.List(ctx, &nodes)).To(Succeed())
	var out []string
	for _, n := range nodes.Items {
		out = append(out, n.Name)
	}
	return out
}

// dnsPods returns the pods of the cluster DNS that run. A node that went, in another test,
// leaves some behind that have ended.
func dnsPods(ctx context.Context) []corev1.Pod {
	GinkgoHelper()
	var pods corev1.PodList
	Expect(bed.Client.List(ctx, &pods, client.InNamespace("kube-system"), client.MatchingLabels{"k8s-app": "kube-dns"})).To(Succeed())
	return slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning })
}

// nodeNetns and podNetns return the files of network namespaces.
func nodeNetns(node string) string { return "/run/netns/pathproof-" + node }

func podNetns(pod *corev1.Pod) string {
	GinkgoHelper()
	pids := processesOf(pod)
	Expect(pids).NotTo(BeEmpty(), "processes of pod %s", pod.Name)
	return fmt.Sprintf("/proc/%d/ns/net", pids[0])
}

// processesOf returns the processes of a pod, which are of this machine.
func processesOf(pod *corev1.Pod) []int {
	GinkgoHelper()
	entries, err := os.ReadDir("/proc")
	Expect(err).NotTo(HaveOccurred())
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// It may have ended in the meantime.
		if cgroup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)); strings.Contains(string(cgroup), string(pod.UID)) {
			out = append(out, pid)
		}
	}
	return out
}

// filter drops packets in a network namespace: what rules match, at a hook, before the
// agent has a look. The fault ends with the spec.
func filter(ctx context.Context, netns, hook string, rules ...string) {
	GinkgoHelper()
	DeferCleanup(func(ctx SpecContext) { unfilter(ctx, netns) })
	nft(ctx, netns, fmt.Sprintf("table inet %s {\n chain drops {\n type filter hook %s priority -200;\n %s\n }\n}\n", fault, hook, strings.Join(rules, "\n ")))
}

func unfilter(ctx context.Context, netns string) {
	GinkgoHelper()
	// Declaring the table first makes the deletion valid where there is none.
	nft(ctx, netns, fmt.Sprintf("table inet %[1]s\ndelete table inet %[1]s\n", fault))
}

func nft(ctx context.Context, netns, script string) {
	GinkgoHelper()
	inNetns(ctx, netns, script, "nft", "-f", "-")
}

// inNetns runs a command in a network namespace.
func inNetns(ctx context.Context, netns, input string, command ...string) {
	GinkgoHelper()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + netns}, command...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), "%s: %s", strings.Join(command, " "), out)
}

// fillTables makes every connection table too small for what it holds, on the whole
// machine: it is one setting, and only the lab's nodes track connections. To a full table, the
// kernel still adds a connection in place of one that is not established, if it comes upon one:
// none is left.
func fillTables(ctx context.Context) {
	GinkgoHelper()
	limit, err := os.ReadFile(tableLimit)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(os.WriteFile(tableLimit, limit, 0)).To(Succeed()) })
	Expect(os.WriteFile(tableLimit, []byte("1"), 0)).To(Succeed())
	for _, node := range nodeNames(ctx) {
		ns, err := netns.GetFromPath(nodeNetns(node))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(ns.Close)
		tables, err := netlink.NewHandleAt(ns, unix.NETLINK_NETFILTER)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(tables.Close)
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			_, err := tables.ConntrackDeleteFilters(netlink.ConntrackTable, family, replaceable{})
			Expect(err).NotTo(HaveOccurred())
		}
	}
}

// replaceable are the entries of a connection table that are of no established connection.
type replaceable struct{}

func (replaceable) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	tcp, ok := flow.ProtoInfo.(*netlink.ProtoInfoTCP)
	return !ok || tcp.State != nl.TCP_CONNTRACK_ESTABLISHED
}
