// Command lab runs a real Kubernetes cluster on one Linux machine, with nothing
// but Debian packages and the Go module proxy: no container engine, no image
// registry, no virtual machine.
//
//	go run ./test/lab up                          build what is missing, start, wait until all is ready
//	export KUBECONFIG=$(go run ./test/lab kubeconfig)
//	go run ./test/lab image --name example.com/app --tag dev --binary ./app -o app.tar
//	go run ./test/lab load app.tar                put an image on every node
//	go run ./test/lab break off --node node-b     make one node's enforcement fail
//	go run ./test/lab heal
//	go run ./test/lab down                        leave nothing behind
//
// A node is a network namespace with its own containerd, kubelet, kube-proxy
// and enforcement agent. All namespaces have one port on a bridge:
//
//	 this machine's namespace            pathproof-fabric
//	┌──────────────────────────┐    ┌──────────────────────┐
//	│ etcd, kube-apiserver,    │    │                      │
//	│ controller-manager,      │    │    bridge            │
//	│ scheduler                │    │    172.31.250.0/24   │
//	│          pathproof0 .1 ──┼────┼──┐                   │
//	└──────────────────────────┘    │  ├────────┬───────┐  │
//	                                └──┼────────┼───────┼──┘
//	 pathproof-node-a                  │        │       │        pathproof-external
//	┌──────────────────────────┐       │        │       │    ┌──────────────────────┐
//	│ eth0 .11 ────────────────┼───────┘        │       └────┼─ eth0 .200           │
//	│ containerd, kubelet,     │                │            │  203.0.113.10, .20   │
//	│ kube-proxy, agent        │   pathproof-node-b          │  echo on             │
//	│ pods 10.244.1.0/24       │   ┌────────────┼────────┐   │  TCP 443, 8443       │
//	│   each its own veth      │   │ eth0 .12 ──┘        │   │  UDP 53, 443         │
//	└──────────────────────────┘   │ pods 10.244.2.0/24  │   └──────────────────────┘
//	                               └─────────────────────┘
//
// Every port and every pod has an IPv6 address beside the IPv4 one, which stays the
// first. Those inside are unique local ones: 172.31.250.11 is fd70:6174:6870:250::11,
// too, 10.244.1.0/24 is fd70:6174:6870:2401::/64, and Services that ask for both
// families get an address of fd70:6174:6870:96::/112. The outside world is at
// 2001:db8:203::10 and ::20. The control plane uses IPv4 alone.
//
// Every pod has a routed veth of its own (the ptp plugin), so the forward hook
// of its node sees all its traffic, that between pods of one node too, after
// Service addresses were translated. Pods keep their address as the source,
// towards other nodes, the API server and the outside world. Nothing in the lab
// has a default route to the machine's own network.
//
// The API server's address is 172.31.250.1: a firewall of this machine that
// drops what comes in on pathproof0 would cut the lab off.
//
// Exit status: 0 done, 1 failed or not up, 2 wrong usage.
package main
