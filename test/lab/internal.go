package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	policyclient "sigs.k8s.io/network-policy-api/pkg/client/clientset/versioned"

	"github.com/pathproof/pathproof/test/lab/agent"
	"github.com/pathproof/pathproof/test/lab/cluster"
	"github.com/pathproof/pathproof/test/lab/external"
)

// The commands below are what the lab starts of itself, in its namespaces.

func agentCommand() *cobra.Command {
	var node, dir, kubeconfig string
	cmd := &cobra.Command{
		Use:    "agent",
		Short:  "Enforce NetworkPolicy on the node whose network namespace this runs in",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			policies, err := policyclient.NewForConfig(config)
			if err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			return agent.Run(cmd.Context(), agent.Options{Node: node, Dir: dir, Client: client, Policies: policies, Log: log})
		},
	}
	cmd.Flags().StringVar(&node, "node", "", "name of the node")
	cmd.Flags().StringVar(&dir, "dir", "", "folder of the mode file and the gate")
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig of the agent")
	return cmd
}

func externalCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "external ADDRESS...",
		Short:  "Echo on these addresses",
		Hidden: true,
		Args:   cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var addrs []netip.Addr
			for _, arg := range args {
				addr, err := netip.ParseAddr(arg)
				if err != nil {
					return usageError{err}
				}
				addrs = append(addrs, addr)
			}
			return external.Serve(cmd.Context(), addrs)
		},
	}
}

func resolveCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "resolve NAME",
		Short:  "Ask the cluster's DNS for a name",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				var dialer net.Dialer
				return dialer.DialContext(ctx, network, netip.AddrPortFrom(cluster.DNSAddr, 53).String())
			}}
			addrs, err := resolver.LookupHost(cmd.Context(), args[0])
			fmt.Println(addrs)
			return err
		},
	}
}
