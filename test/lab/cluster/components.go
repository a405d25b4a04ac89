package cluster

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"text/template"

	"github.com/pathproof/pathproof/test/lab/gate"
	"github.com/pathproof/pathproof/test/lab/nodad"
	"github.com/pathproof/pathproof/test/lab/process"
)

//go:embed templates
var templates embed.FS

func (l *Lab) kubernetes(name string) string { return filepath.Join(l.binaries.Kubernetes, name) }

// apiServer lists the processes of the API server in starting order.
func (l *Lab) apiServer() []process.Spec {
	etcd := "http://127.0.0.1:" + strconv.Itoa(etcdPort)
	peers := "http://127.0.0.1:" + strconv.Itoa(etcdPeerPort)
	return []process.Spec{
		{Name: "etcd", Command: []string{"etcd",
			"--data-dir=" + filepath.Join(State, "etcd"),
			"--listen-client-urls=" + etcd, "--advertise-client-urls=" + etcd,
			"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peers,
			"--initial-cluster=default=" + peers, "--log-level=warn"}},
		{Name: "kube-apiserver", Command: []string{l.kubernetes("kube-apiserver"),
			"--etcd-servers=" + etcd,
			"--bind-address=" + hostAddr.String(), "--advertise-address=" + hostAddr.String(),
			"--secure-port=" + strconv.Itoa(apiPort),
			"--service-cluster-ip-range=" + both(serviceRange, serviceRange6),
			"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
			"--client-ca-file=" + pki("ca.crt"),
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
			"--service-account-key-file=" + pki("service-accounts.pub"),
			"--service-account-signing-key-file=" + pki("service-accounts.key"),
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
			"--allow-privileged=true",
			// A node's name resolves nowhere: logs and exec go by its address.
			"--kubelet-preferred-address-types=InternalIP",
			"--kubelet-certificate-authority=" + pki("ca.crt"),
			"--kubelet-client-certificate=" + pki("apiserver-kubelet.crt"),
			"--kubelet-client-key=" + pki("apiserver-kubelet.key"),
			"--requestheader-client-ca-file=" + pki("ca.crt"),
			"--requestheader-allowed-names=front-proxy-client",
			"--requestheader-username-headers=X-Remote-User",
			"--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file=" + pki("front-proxy.crt"),
			"--proxy-client-key-file=" + pki("front-proxy.key")}},
	}
}

// controllers lists the other processes of the control plane. They end if the API server
// is not ready within ten seconds, which it may not be on a busy machine.
func (l *Lab) controllers() []process.Spec {
	return []process.Spec{
		{Name: "kube-controller-manager", Command: []string{l.kubernetes("kube-controller-manager"),
			"--kubeconfig=" + kubeconfigOf("controller-manager"),
			"--use-service-account-credentials",
			"--service-account-private-key-file=" + pki("service-accounts.key"),
			"--root-ca-file=" + pki("ca.crt"),
			"--cluster-signing-cert-file=" + pki("ca.crt"), "--cluster-signing-key-file=" + pki("ca.key"),
			// The nodes come with their ranges, which the routes depend on.
			"--allocate-node-cidrs=false", "--cluster-cidr=" + both(podRange, podRange6),
			"--flex-volume-plugin-dir=" + filepath.Join(State, "volume-plugins"),
			"--leader-elect=false", "--secure-port=0"}},
		{Name: "kube-scheduler", Command: []string{l.kubernetes("kube-scheduler"),
			"--kubeconfig=" + kubeconfigOf("scheduler"),
			"--leader-elect=false", "--secure-port=0"}},
	}
}

func (l *Lab) containerdSpec(n Node) process.Spec {
	return process.Spec{Name: "containerd-" + n.Name, Netns: n.Netns, Command: []string{
		"containerd", "--config", filepath.Join(n.Dir, "containerd.toml"),
	}}
}

// nodeProcesses lists the other processes of a node in starting order. The
// agent is first, so that no pod starts before there is a gate.
func (l *Lab) nodeProcesses(n Node) []process.Spec {
	return []process.Spec{
		// Ahead of whatever else keeps this machine busy: how soon a policy is
		// enforced is something that tests measure.
		{Name: "agent-" + n.Name, Netns: n.Netns, Command: []string{
			"nice", "-n", "-10", selfPath, "agent", "--node", n.Name, "--dir", n.AgentDir(), "--kubeconfig", kubeconfigOf("agent"),
		}},
		{Name: "kube-proxy-" + n.Name, Netns: n.Netns, Command: []string{
			filepath.Join(l.binaries.Kubernetes, "kube-proxy"), "--config", filepath.Join(n.Dir, "kube-proxy.yaml"),
		}},
		{Name: "kubelet-" + n.Name, Netns: n.Netns, Command: []string{
			filepath.Join(l.binaries.Kubernetes, "kubelet"),
			"--config", filepath.Join(n.Dir, "kubelet.yaml"),
			"--kubeconfig", kubeconfigOf(n.Name),
			"--root-dir", filepath.Join(n.Dir, "kubelet"),
			"--cert-dir", filepath.Join(n.Dir, "kubelet-pki"),
			"--hostname-override", n.Name, "--node-ip", both(n.Addr, n.Addr6),
		}},
	}
}

// both lists the values of the two families in the cluster's order, as the
// components take them.
func both[T fmt.Stringer](v4, v6 T) string { return v4.String() + "," + v6.String() }

func externalSpec() process.Spec {
	command := []string{selfPath, "external"}
	for _, a := range ExternalAddrs {
		command = append(command, a.String())
	}
	return process.Spec{Name: "external", Netns: externalNetns, Command: command}
}

// all lists every process, in starting order.
func (l *Lab) all() []process.Spec {
	var out []process.Spec
	for _, n := range l.nodes {
		out = append(out, l.containerdSpec(n))
	}
	out = append(append(out, l.apiServer()...), l.controllers()...)
	out = append(out, externalSpec())
	for _, n := range l.nodes {
		out = append(out, l.nodeProcesses(n)...)
	}
	return out
}

// configure writes the configuration files of a node.
func (l *Lab) configure(n Node) error {
	values := map[string]string{
		"Name": n.Name, "Addr": n.Addr.String(), "Dir": n.Dir, "Socket": n.containerd(),
		"PKI": pkiDir, "PodCIDR": n.PodCIDR.String(), "PodCIDR6": n.PodCIDR6.String(),
		"PodRanges": both(podRange, podRange6), "DNS": DNSAddr.String(), "NoDAD": nodad.PluginName,
		"CgroupRoot": "/" + cgroupName + "/" + n.Name, "Plugins": pluginLinks, "PauseImage": pauseImage,
		"Snapshotter": snapshotter(), "Network": prefix, "Gate": gate.PluginName,
		"GateSocket": filepath.Join(n.AgentDir(), gate.SocketName),
	}
	for _, dir := range []string{n.AgentDir(), filepath.Join(n.Dir, "cni"), filepath.Join(n.Dir, "volume-plugins")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for file, to := range map[string]string{
		"containerd.toml": "containerd.toml", "kubelet.yaml": "kubelet.yaml",
		"kube-proxy.yaml": "kube-proxy.yaml", "cni.conflist": "cni/10-pathproof.conflist",
	} {
		t, err := template.New(file).Option("missingkey=error").ParseFS(templates, "templates/"+file)
		if err != nil {
			return err
		}
		var text strings.Builder
		if err := t.Execute(&text, values); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(n.Dir, to), []byte(text.String()), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(n.Dir, "resolv.conf"), []byte("# no resolver outside the lab\nnameserver "+NodeDNSAddr.String()+"\n"), 0o644)
}

// makeCgroups makes the group of each node, in which its kubelet puts its pods:
// one with cgroup v2, one for each controller with v1.
func (l *Lab) makeCgroups() error {
	roots := cgroupHierarchies()
	for _, root := range roots {
		parent := filepath.Join(root, cgroupName)
		for _, n := range l.nodes {
			if err := os.MkdirAll(filepath.Join(parent, n.Name), 0o755); err != nil {
				return err
			}
		}
		// With v2, a group has the controllers that its parent hands down. One
		// that this machine lacks is for the kubelet to miss.
		for _, controller := range []string{"cpu", "cpuset", "memory", "pids", "io", "hugetlb"} {
			for _, dir := range []string{root, parent} {
				_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
			}
		}
		if err := shareProcessor(parent, len(l.nodes)); err != nil {
			return err
		}
	}
	return nil
}

// sharesPerProcessor is the weight that a kubelet gives all of its pods for each processor of
// its node (MilliCPUToShares in pkg/kubelet/cm).
const sharesPerProcessor = 1024

// shareProcessor gives the group of all pods the weight that the kubelets of as many nodes
// would, if they made it. Otherwise, all pods together would have to be content with what
// each process outside of the group has.
func shareProcessor(group string, nodes int) error {
	shares := uint64(min(sharesPerProcessor*runtime.NumCPU()*nodes, 262144))
	// From 2..262144 to 1..10000, as container runtimes do it for cgroup v2.
	weight := 1 + (shares-2)*9999/262142
	for file, value := range map[string]uint64{"cpu.shares": shares, "cpu.weight": weight} {
		path := filepath.Join(group, file)
		if _, err := os.Stat(path); err != nil {
			continue // another version, or another controller's hierarchy
		}
		if err := os.WriteFile(path, []byte(strconv.FormatUint(value, 10)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// cgroupHierarchies lists where cgroups are mounted.
func cgroupHierarchies() []string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{"/sys/fs/cgroup"}
	}
	var out []string
	for _, m := range mountPoints() {
		if filepath.Dir(m) == "/sys/fs/cgroup" && filepath.Base(m) != "unified" {
			out = append(out, m)
		}
	}
	return out
}

// snapshotter is overlayfs, unless the lab runs in a container whose own root
// is one: those do not nest.
func snapshotter() string {
	const overlayMagic = 0x794c7630
	var fs syscall.Statfs_t
	if err := syscall.Statfs(State, &fs); err == nil && fs.Type == overlayMagic {
		return "native"
	}
	return "overlayfs"
}

// linkPlugins gathers the CNI plugins in one folder, which is all that
// containerd 1.6 can be given. The first and the last of the chain are this very
// program.
func (l *Lab) linkPlugins() error {
	if err := os.MkdirAll(pluginLinks, 0o755); err != nil {
		return err
	}
	targets := map[string]string{gate.PluginName: selfPath, nodad.PluginName: selfPath}
	for _, name := range []string{"ptp", "host-local", "loopback"} {
		targets[name] = filepath.Join(l.binaries.CNI, name)
	}
	for name, target := range targets {
		link := filepath.Join(pluginLinks, name)
		if err := removeFile(link); err != nil {
			return err
		}
		if err := os.Symlink(target, link); err != nil {
			return fmt.Errorf("linking the CNI plugins: %w", err)
		}
	}
	return nil
}
