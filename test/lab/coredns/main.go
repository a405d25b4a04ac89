// Command coredns is the lab's cluster DNS: CoreDNS with the few plugins that
// serve cluster.local, and none that could send a query anywhere else. A name
// outside the cluster is answered NXDOMAIN at once, by the template plugin.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/template"
)

// directives is the order in which the plugins see a query, whatever the order
// in the Corefile. It differs from CoreDNS's own in one place: template comes
// after kubernetes, so that it answers only what is not in the cluster.
var directives = []string{
	"reload", "health", "ready", "log", "errors", "cache", "loadbalance", "kubernetes", "template",
}

func main() {
	dnsserver.Directives = directives
	coremain.Run()
}
