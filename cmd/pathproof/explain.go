package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pathproof/pathproof/evaluator"
	"github.com/pathproof/pathproof/explain"
	"github.com/pathproof/pathproof/flow"
)

func newExplain(s streams) *cobra.Command {
	var in input
	var output string
	cmd := &cobra.Command{
		Use:   "explain FROM TO PORT [-f PATH...]",
		Short: "Say why policies allow or deny a connection",
		Long: `explain says which policies select each end of a connection, which of their rules
allows it or why none does, and what would have to change.

FROM and TO are a pod or workload (NAME in the namespace of -n, or NAMESPACE/NAME)
or an address; TO may also be svc:NAMESPACE/NAME. PORT is a number or a name, after
a protocol if it is not TCP: 27017, http, UDP/53.

With -f the manifests are asked, without it the cluster of the kubeconfig.

The exit code is 0 for an answer, whatever it is, and 3 for one that is Undefined.`,
		Example: `  pathproof explain frontend mongodb 27017 -n production -f config/samples/production
  pathproof explain frontend mongodb 27017 -n production --context staging`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 3 {
				return invalid("explain takes a source, a target and a port, and got %d arguments: write pathproof explain FROM TO PORT", len(args))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if err := oneOf("-o", output, "text", "json"); err != nil {
				return err
			}
			return runExplain(s, &in, output, args[0], args[1], args[2])
		},
	}
	in.flags(cmd)
	in.clusterFlags(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "text", "Output format: text or json.")
	return cmd
}

func runExplain(s streams, in *input, output, from, to, port string) error {
	protocol, number, err := portArgument(port)
	if err != nil {
		return err
	}
	r, err := in.read(s, "")
	if err != nil {
		return err
	}
	in.warn(s, r)
	if len(r.Problems) > 0 {
		return exit(exitInvalid)
	}
	engine, problems := evaluator.Compile(r.Snapshot.Snapshot)
	for _, p := range problems {
		s.say("warning: " + p.String())
	}
	names := r.Names()
	source, err := names.Source(in.qualify(from))
	if err != nil {
		return invalid("%v", err)
	}
	target, err := names.Target(in.qualify(to), protocol, number)
	if err != nil {
		return invalid("%v", err)
	}
	code := exitHolds
	if len(r.Unmodelled()) > 0 {
		code = exitUndetermined
	}
	answers := make([]explain.Answer, 0, max(1, len(target.Backends)))
	if target.Unknown != "" {
		answers, code = append(answers, explain.Unknown(source, target.Name, protocol, number.String(), target.Unknown)), exitUndetermined
	}
	for _, b := range target.Backends {
		a := explain.Explain(r.Snapshot.Snapshot, engine, flow.Flow{From: source, To: b.Endpoint, Protocol: protocol, Port: b.Port})
		answers = append(answers, a)
		// Endpoints of a Service that differ make it Undefined (rule S9).
		if a.Verdict == evaluator.Undefined.String() || a.Verdict != answers[0].Verdict {
			code = exitUndetermined
		}
	}
	if output == "json" {
		encoder := json.NewEncoder(s.out)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		err = encoder.Encode(answers)
	} else {
		err = explain.Text(s.out, answers, explain.Style{Color: s.color})
	}
	if err != nil {
		return fmt.Errorf("writing the explanation: %w", err)
	}
	return exit(code)
}

// qualify completes a name without a namespace.
func (i *input) qualify(name string) string {
	prefix, rest := "", name
	if svc, ok := strings.CutPrefix(name, "svc:"); ok {
		prefix, rest = "svc:", svc
	}
	if strings.Contains(rest, "/") {
		return name
	}
	if _, err := netip.ParseAddr(rest); err == nil && prefix == "" {
		return name
	}
	namespace := cmp.Or(i.namespace, "default")
	if len(i.files) == 0 {
		namespace = i.currentNamespace()
	}
	return prefix + namespace + "/" + rest
}

// portArgument reads 27017, http, TCP/27017 or UDP/dns.
func portArgument(text string) (flow.Protocol, intstr.IntOrString, error) {
	protocol := flow.TCP
	if before, after, ok := strings.Cut(text, "/"); ok {
		protocol, text = flow.Protocol(strings.ToUpper(before)), after
		if protocol != flow.TCP && protocol != flow.UDP && protocol != flow.SCTP {
			return "", intstr.IntOrString{}, invalid("protocol %q is unknown: write TCP, UDP or SCTP", before)
		}
	}
	n, err := strconv.ParseInt(text, 10, 32)
	switch {
	case err != nil && text != "" && strings.Trim(text, "0123456789") != "":
		return protocol, intstr.FromString(text), nil
	case err != nil || n < 1 || n > 65535:
		return "", intstr.IntOrString{}, invalid("port %q is no port: write a number from 1 to 65535, or a name", text)
	}
	return protocol, intstr.FromInt32(int32(n)), nil
}
