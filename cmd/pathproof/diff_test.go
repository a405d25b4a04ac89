package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/pathproof/pathproof/diff"
)

func TestDiffExitCodes(t *testing.T) {
	cilium := "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a, namespace: production}\nspec: {}\n"
	add := func(more string) func(string) string { return func(s string) string { return s + more } }
	cases := map[string]struct {
		before, after map[string]func(string) string
		args          []string
		want          int
		// wantOut is part of the report, wantErr of what is said beside it.
		wantOut, wantErr string
	}{
		"nothing changes": {nil, nil, nil, 0, "0 opened, 0 closed, 0 became undefined, 0 no longer undefined\n", ""},
		"a port is another one": {
			nil, map[string]func(string) string{"policies.yaml": replace("port: 27017", "port: 27018")}, nil,
			1, "closed   production/backend   production/mongodb   TCP/27017\n", "",
		},
		"a workload is new": {
			map[string]func(string) string{"workloads.yaml": replace("name: frontend\n  namespace", "name: front\n  namespace")}, nil, nil,
			0, "new: production/frontend\nremoved: production/front\n", "",
		},
		"a policy comes that is not evaluated": {
			nil, map[string]func(string) string{"policies.yaml": add(cilium)}, nil,
			3, "became undefined", "warning: 1 CiliumNetworkPolicy",
		},
		"a policy stays that is not evaluated": {
			map[string]func(string) string{"policies.yaml": add(cilium)}, map[string]func(string) string{"policies.yaml": add(cilium)}, nil,
			3, "something is undefined before and after", "",
		},
		"it is ignored": {nil, map[string]func(string) string{"policies.yaml": add(cilium)}, []string{"--ignore-policy-kinds", "CiliumNetworkPolicy"}, 0, "0 opened", ""},
		"a policy that an API server refuses": {
			nil, map[string]func(string) string{"policies.yaml": replace("policyTypes: [Ingress]", "policyTypes: [Inbound]")}, nil,
			2, "", "write Ingress or Egress",
		},
		"a misspelt field before the change": {
			map[string]func(string) string{"policies.yaml": replace("podSelector:", "podSelectr:")}, nil, nil,
			2, "", "unknown field",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			code, out, errs := call(t, "", append([]string{"diff", "--from", scenario(t, tc.before), "-f", scenario(t, tc.after)}, tc.args...)...)
			if code != tc.want || !strings.Contains(out, tc.wantOut) || !strings.Contains(errs, tc.wantErr) {
				t.Errorf("exit code %d, want %d and %q%q:\n%s%s", code, tc.want, tc.wantOut, tc.wantErr, out, errs)
			}
		})
	}
}

func TestDiffForMachines(t *testing.T) {
	changed := scenario(t, map[string]func(string) string{"policies.yaml": replace("port: 27017", "port: 27018")})
	code, out, errs := call(t, "", "diff", "--from", production, "-f", changed, "-o", "json")
	var report struct {
		diff.Report
		Summary map[diff.Change]int
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != 1 {
		t.Fatalf("exit code %d, %v: %s%s", code, err, out, errs)
	}
	if len(report.Rows) != 1 || report.Rows[0].Change != diff.Closed || report.Summary[diff.Closed] != 1 || report.Rows[0].Ports[0] != "TCP/27017" {
		t.Errorf("got %+v", report)
	}
}
