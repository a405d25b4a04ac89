package manifests

import (
	"strings"
	"testing"

	"github.com/pathproof/pathproof/evaluator"
)

func TestBlocksMatchNoAddressesThatWereMadeUp(t *testing.T) {
	const (
		pod  = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: x}\n"
		host = "apiVersion: v1\nkind: Pod\nmetadata: {name: h, namespace: x}\nspec: {hostNetwork: true}\n"
		live = "status: {phase: Running, podIP: 10.0.0.1, hostIP: 192.168.0.1}\n"
	)
	for name, tc := range map[string]struct {
		input, assume, want, note string
	}{
		"a pod without a status":    {pod, "ipBlockMatchesPods=true,ipBlockMatchesNodes=true", "ipBlockMatchesNodes=true", "ipBlockMatchesPods=true is left out"},
		"a pod of a cluster":        {pod + live, "ipBlockMatchesPods=true", "ipBlockMatchesPods=true", ""},
		"a node without an address": {host, "ipBlockMatchesPods=true,ipBlockMatchesNodes=true", "ipBlockMatchesPods=true", "ipBlockMatchesNodes=true is left out"},
		"a node of a cluster":       {host + live, "ipBlockMatchesNodes=true", "ipBlockMatchesNodes=true", ""},
		"what needs no address":     {pod, "ipBlockMatchesPods=false,podReachesOwnNode=true", "ipBlockMatchesPods=false, podReachesOwnNode=true", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := read(t, tc.input)
			i, err := evaluator.ParseImplementation(strings.Split(tc.assume, ","))
			if err != nil {
				t.Fatal(err)
			}
			r.Assume(i)
			if got := r.Snapshot.Profile.String(); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if notes := strings.Join(r.Notes, "\n"); !strings.Contains(notes, tc.note) || (tc.note == "" && strings.Contains(notes, "left out")) {
				t.Errorf("want the note %q, got %q", tc.note, notes)
			}
		})
	}
}
