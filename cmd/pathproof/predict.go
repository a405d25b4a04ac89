package main

import (
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pathproof/pathproof/evaluator"
)

func newPredict(s streams) *cobra.Command {
	var in input
	var flows, output string
	cmd := &cobra.Command{
		Use:   "predict -f PATH... --flows FILE|- -o jsonl",
		Short: "Answer flows, one JSON object a line",
		Long: `predict answers flows, in their order. A flow is one JSON object a line:

  {"id": "1", "from": "ns/pod", "to": "ns/pod", "protocol": "TCP", "port": 80}

from and to are NAMESPACE/POD, NAMESPACE/WORKLOAD or an address; to may also be
svc:NAMESPACE/NAME. The port is a number or a name. A flow that names something
unknown is answered by an error, and the exit code is 2 at the end.`,
		Example: `  pathproof predict -f manifests/ --flows flows.jsonl -o jsonl
  kubectl get ns,pods,svc,netpol -A -o json | pathproof predict -f - --flows flows.jsonl`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case flows == "":
				return invalid("no flows are named: write --flows FILE, or --flows - for the standard input")
			case flows == "-" && slices.Contains(in.files, "-"):
				return invalid("manifests and flows cannot both come from the standard input: write one of them to a file")
			}
			if err := oneOf("-o", output, "jsonl"); err != nil {
				return err
			}
			return predict(cmd, s, &in, flows)
		},
	}
	in.flags(cmd)
	cmd.Flags().StringVar(&flows, "flows", "", "File of flows, one JSON object a line, or - for the standard input.")
	cmd.Flags().StringVarP(&output, "output", "o", "jsonl", "Output format: jsonl.")
	_ = cmd.MarkFlagFilename("flows", "jsonl", "json")
	return cmd
}

func predict(cmd *cobra.Command, s streams, in *input, flows string) error {
	source := s.in
	if flows != "-" {
		f, err := os.Open(flows)
		if err != nil {
			return invalid("opening the flows: %v", err)
		}
		defer f.Close()
		source = f
	}
	r, err := in.read(s, "")
	if err != nil {
		return err
	}
	in.warn(s, r)
	if len(r.Problems) > 0 {
		// An answer would be about something else than what was given.
		return exit(exitInvalid)
	}
	engine, problems := evaluator.Compile(r.Snapshot.Snapshot)
	for _, p := range problems {
		// Flows that such an object could decide are Undefined, by rule X1.
		s.say("warning: " + p.String())
	}
	failed, err := answerAll(cmd.Context(), &answerer{engine: engine, names: r.Names()}, source, s.out)
	switch {
	case err != nil:
		return invalid("%v", err)
	case failed:
		return exit(exitInvalid)
	}
	return nil
}
