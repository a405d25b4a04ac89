package main

import (
	"errors"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/pathproof/pathproof/test/lab/agent"
	"github.com/pathproof/pathproof/test/lab/assets"
	"github.com/pathproof/pathproof/test/lab/cluster"
	"github.com/pathproof/pathproof/test/lab/image"
)

// errQuiet sets the exit status when all has been said already.
var errQuiet = errors.New("")

func upCommand() *cobra.Command {
	var count int
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the lab, or repair it",
		Long: "Start the lab and return when all nodes are ready and a Service name resolves on each of them. " +
			"If the lab is up already, restart what has died.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if count < 1 || count > cluster.MaxNodes {
				return usageError{fmt.Errorf("--nodes must be between 1 and %d", cluster.MaxNodes)}
			}
			if err := assets.Precondition(); err != nil {
				return err
			}
			if err := cluster.New(printer()).Up(cmd.Context(), count); err != nil {
				return err
			}
			fmt.Println("export KUBECONFIG=" + cluster.Kubeconfig)
			return nil
		},
	}
	cmd.Flags().IntVar(&count, "nodes", 2, fmt.Sprintf("number of nodes, 1 to %d", cluster.MaxNodes))
	return cmd
}

func downCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove everything that the lab made, except for the cache of binaries",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := assets.Precondition(); err != nil {
				return err
			}
			return cluster.New(printer()).Down(cmd.Context())
		},
	}
}

func statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the nodes, their modes and what has died; exit 1 unless all is well",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			healthy, err := cluster.New(printer()).Status(cmd.Context(), os.Stdout)
			if err == nil && !healthy {
				return errQuiet
			}
			return err
		},
	}
}

func kubeconfigCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the path of the administrator's kubeconfig",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if _, err := cluster.New(printer()).Nodes(""); err != nil {
				return err
			}
			fmt.Println(cluster.Kubeconfig)
			return nil
		},
	}
}

func assetsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "assets",
		Short: "Print a folder with kube-apiserver, etcd and kubectl, for KUBEBUILDER_ASSETS; build them if need be",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := assets.Envtest(cmd.Context(), printer())
			if err != nil {
				return err
			}
			fmt.Println(dir)
			return nil
		},
	}
}

func imageCommand() *cobra.Command {
	var name, tag, out string
	var spec image.Spec
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Pack static binaries into a one-layer image, without a container engine",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			spec.Reference = name + ":" + tag
			return image.Write(spec, out)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "", "name of the image")
	flags.StringVar(&tag, "tag", "lab", "tag of the image")
	flags.StringVar(&spec.Entrypoint, "entrypoint", "", "binary in the image to run (the first by default)")
	flags.StringArrayVar(&spec.Binaries, "binary", nil, "static binary to put into the image, PATH or PATH:NAME; repeatable")
	flags.StringVarP(&out, "output", "o", "", "docker archive to write")
	for _, required := range []string{"name", "binary", "output"} {
		if err := cmd.MarkFlagRequired(required); err != nil {
			panic(err) // the flag is not defined above
		}
	}
	return cmd
}

func loadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "load IMAGE.tar|BINARY",
		Short: "Put an image on every node; a static binary is packed first and its image's name printed",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			reference, err := cluster.New(printer()).Load(cmd.Context(), args[0])
			if err == nil && reference != "" {
				fmt.Println(reference)
			}
			return err
		},
	}
}

func unloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unload IMAGE",
		Short: "Remove an image from every node",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return cluster.New(printer()).Unload(cmd.Context(), args[0])
		},
	}
}

func stopCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stop PROCESS",
		Short: "End a process of the lab, as kube-apiserver or kubelet-node-a; `up` starts it again",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return cluster.New(printer()).Stop(args[0])
		},
	}
}

func breakCommand() *cobra.Command {
	var node string
	cmd := &cobra.Command{
		Use:   "break MODE",
		Short: "Make enforcement misbehave on one node or on all; `modes` lists how",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			mode, err := agent.ParseMode(args[0])
			if err != nil {
				return usageError{err}
			}
			return cluster.New(printer()).SetMode(cmd.Context(), node, mode)
		},
	}
	cmd.Flags().StringVar(&node, "node", "", "only this node")
	return cmd
}

func healCommand() *cobra.Command {
	var node string
	cmd := &cobra.Command{
		Use:   "heal",
		Short: "Return to correct enforcement",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cluster.New(printer()).SetMode(cmd.Context(), node, agent.Mode{Name: agent.ModeCorrect})
		},
	}
	cmd.Flags().StringVar(&node, "node", "", "only this node")
	return cmd
}

func modesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "modes",
		Short: "List the modes that `break` knows",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "MODE\tPOLICIES HOLD\tEFFECT")
			for _, m := range agent.Modes {
				hold := "no"
				if m.Correct {
					hold = "yes"
				}
				fmt.Fprintf(table, "%s\t%s\t%s\n", m.Name, hold, m.Effect)
			}
			return table.Flush()
		},
	}
}
