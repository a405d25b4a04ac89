package schema

import (
	"fmt"
	"os"
	"strings"
	"testing"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"sigs.k8s.io/yaml"
)

const crdFile = "../config/crd/bases/pathproof.dev_connectivityexpectations.yaml"

// spec wraps the YAML of one path (or of a whole spec) into an object.
func expectation(t *testing.T, spec string) map[string]any {
	t.Helper()
	text := "apiVersion: pathproof.dev/v1alpha1\nkind: ConnectivityExpectation\nmetadata: {name: x, namespace: y}\nspec:\n" + indent(spec)
	docs, err := Documents([]byte(text))
	if err != nil {
		t.Fatalf("test input is no YAML: %v", err)
	}
	return docs[0]
}

func indent(s string) string {
	lines := strings.Split(strings.Trim(s, "\n"), "\n")
	return "  " + strings.Join(lines, "\n  ") + "\n"
}

func path(fields string) string {
	return "paths:\n- {name: p, expect: Allow, " + fields + "}"
}

const (
	fromBackend = "from: {podSelector: {matchLabels: {app: backend}}}"
	toMongo     = "to: {podSelector: {matchLabels: {app: mongodb}}}"
	tcp         = "ports: [{port: 27017}]"
)

func TestRules(t *testing.T) {
	label300 := strings.Repeat("v", 300)
	cases := map[string]struct {
		spec string
		// wantErr is part of the message; empty means that the object is valid.
		wantErr string
	}{
		"a pod selector and a port":            {path(fromBackend + ", " + toMongo + ", " + tcp), ""},
		"dns with its defaults":                {path(fromBackend + ", dns: {names: [a.b.svc.cluster.local.]}"), ""},
		"a service and a named port":           {path(fromBackend + ", to: {service: {name: db}}, ports: [{port: mongo}]"), ""},
		"an external range":                    {path(fromBackend + ", to: {address: {cidr: 203.0.113.0/24, ips: [203.0.113.10]}}, ports: [{port: 443}]"), ""},
		"an IPv6 address":                      {path(fromBackend + ", to: {address: {ips: ['2001:db8::1']}}, ports: [{port: 443}]"), ""},
		"a host name":                          {path(fromBackend + ", to: {host: example.org}, ports: [{port: 443}]"), ""},
		"a port range":                         {path(fromBackend + ", " + toMongo + ", ports: [{protocol: UDP, port: 8000, endPort: 8010}]"), ""},
		"pods of another namespace":            {path(fromBackend + ", to: {podSelector: {matchLabels: {a: b}}, namespace: other}, " + tcp), ""},
		"pods of namespaces by label":          {path(fromBackend + ", to: {podSelector: {matchLabels: {a: b}}, namespaceSelector: {matchLabels: {t: x}}}, " + tcp), ""},
		"an identity at both ends":             {path("from: {identity: {labels: {app: x}}}, to: {identity: {labels: {app: z}}}, " + tcp), ""},
		"expressions":                          {path("from: {podSelector: {matchExpressions: [{key: a, operator: In, values: [b]}, {key: c, operator: Exists}]}}, " + toMongo + ", " + tcp), ""},
		"a qualified label key":                {path("from: {identity: {labels: {app.kubernetes.io/name: x}}}, " + toMongo + ", " + tcp), ""},
		"all settings":                         {path(fromBackend+", "+toMongo+", "+tcp) + "\nprobe: {intervalSeconds: 10, timeoutMilliseconds: 100, attempts: 2, mode: OneShot, onChange: false, settleSeconds: 1}\ncoverage: {maxSources: 1, maxTargets: 1, spread: Any}\nsuspend: true", ""},
		"a stand-in for pods":                  {path(fromBackend + ", to: {podSelector: {matchLabels: {a: b}}, via: StandIn}, " + tcp), ""},
		"the endpoints of a service":           {path(fromBackend + ", to: {service: {name: db}, via: Endpoint}, " + tcp), ""},
		"an identity via whatever suits":       {path(fromBackend + ", to: {identity: {labels: {a: b}}, via: Auto}, " + tcp), ""},
		"an unknown via":                       {path(fromBackend + ", to: {podSelector: {matchLabels: {a: b}}, via: Proxy}, " + tcp), `supported values: "Auto", "Endpoint", "StandIn"`},
		"the endpoints of an identity":         {path(fromBackend + ", to: {identity: {labels: {a: b}}, via: Endpoint}, " + tcp), "leave it out beside an identity"},
		"a stand-in for a host":                {path(fromBackend + ", to: {host: a.b, via: StandIn}, " + tcp), "leave it out beside an identity, which is a stand-in anyway, and beside an address or host"},
		"no paths":                             {"paths: []", "should have at least 1 items"},
		"65 paths":                             {manyPaths(65), "must have at most 64 items"},
		"64 paths":                             {manyPaths(64), ""},
		"two paths of one name":                {"paths:\n- {name: p, expect: Allow, " + fromBackend + ", " + toMongo + ", " + tcp + "}\n- {name: p, expect: Deny, " + fromBackend + ", " + toMongo + ", " + tcp + "}", "Duplicate value"},
		"an unknown field":                     {path(fromBackend + ", " + toMongo + ", " + tcp + ", protocol: TCP"), "unknown field"},
		"an unknown expectation":               {strings.Replace(path(fromBackend+", "+toMongo+", "+tcp), "Allow", "Forbid", 1), `supported values: "Allow", "Deny"`},
		"a name with capitals":                 {strings.Replace(path(fromBackend+", "+toMongo+", "+tcp), "name: p", "name: P", 1), "name must be lower-case letters"},
		"an empty source selector":             {path("from: {podSelector: {}}, " + toMongo + ", " + tcp), "an empty selector would select everything: write matchLabels"},
		"empty matchLabels":                    {path("from: {podSelector: {matchLabels: {}}}, " + toMongo + ", " + tcp), "an empty selector would select everything"},
		"an empty target selector":             {path(fromBackend + ", to: {podSelector: {}}, " + tcp), "an empty selector would select everything"},
		"an empty namespace selector":          {path(fromBackend + ", to: {podSelector: {matchLabels: {a: b}}, namespaceSelector: {}}, " + tcp), "an empty selector would select everything"},
		"two sources":                          {path("from: {podSelector: {matchLabels: {a: b}}, identity: {labels: {a: b}}}, " + toMongo + ", " + tcp), "from takes exactly one of podSelector"},
		"no source":                            {path("from: {}, " + toMongo + ", " + tcp), "from takes exactly one of podSelector"},
		"two targets":                          {path(fromBackend + ", to: {host: a.b, service: {name: x}}, " + tcp), "to takes exactly one of"},
		"no target":                            {path(fromBackend + ", to: {}, " + tcp), "to takes exactly one of"},
		"to and dns":                           {path(fromBackend + ", " + toMongo + ", " + tcp + ", dns: {names: [a.]}"), "write either to (with ports) or dns"},
		"neither to nor dns":                   {path(fromBackend), "write either to (with ports) or dns"},
		"to without ports":                     {path(fromBackend + ", " + toMongo), "ports belong to a path with to"},
		"dns with ports":                       {path(fromBackend + ", dns: {names: [a.]}, " + tcp), "ports belong to a path with to"},
		"an empty list of ports":               {path(fromBackend + ", " + toMongo + ", ports: []"), "should have at least 1 items"},
		"namespace and namespaceSelector":      {path(fromBackend + ", to: {podSelector: {matchLabels: {a: b}}, namespace: n, namespaceSelector: {matchLabels: {a: b}}}, " + tcp), "write either namespace or namespaceSelector"},
		"a namespace for an identity":          {path(fromBackend + ", to: {identity: {labels: {a: b}}, namespace: n}, " + tcp), "namespace and namespaceSelector belong to a podSelector"},
		"port 0":                               {path(fromBackend + ", " + toMongo + ", ports: [{port: 0}]"), "port must be a number from 1 to 65535"},
		"port 70000":                           {path(fromBackend + ", " + toMongo + ", ports: [{port: 70000}]"), "port must be a number from 1 to 65535"},
		"a port name that is a number":         {path(fromBackend + ", " + toMongo + ", ports: [{port: '80'}]"), "port must be a number from 1 to 65535"},
		"a port name that is too long":         {path(fromBackend + ", " + toMongo + ", ports: [{port: abcdefghijklmnop}]"), "port must be a number from 1 to 65535, or the name"},
		"endPort below port":                   {path(fromBackend + ", " + toMongo + ", ports: [{port: 80, endPort: 79}]"), "endPort must not be below port"},
		"endPort with a name":                  {path(fromBackend + ", " + toMongo + ", ports: [{port: http, endPort: 79}]"), "endPort needs a port number"},
		"endPort with a service":               {path(fromBackend + ", to: {service: {name: x}}, ports: [{port: 80, endPort: 90}]"), "a Service has single ports"},
		"a port name with an address":          {path(fromBackend + ", to: {address: {ips: [203.0.113.1]}}, ports: [{port: http}]"), "a port name is looked up"},
		"a port name with an identity":         {path(fromBackend + ", to: {identity: {labels: {a: b}}}, ports: [{port: http}]"), "a port name is looked up"},
		"a port name with a host":              {path(fromBackend + ", to: {host: a.b}, ports: [{port: http}]"), "a port name is looked up"},
		"an unknown protocol":                  {path(fromBackend + ", " + toMongo + ", ports: [{protocol: ICMP, port: 1}]"), `supported values: "TCP", "UDP", "SCTP"`},
		"a 300-character label value":          {path("from: {podSelector: {matchLabels: {app: " + label300 + "}}}, " + toMongo + ", " + tcp), "may not be more than 63"},
		"a 300-character label of an identity": {path("from: {identity: {labels: {app: " + label300 + "}}}, " + toMongo + ", " + tcp), "may not be more than 63"},
		"a label key with a space":             {path("from: {identity: {labels: {'a b': x}}}, " + toMongo + ", " + tcp), "a label key is"},
		"a label value with a slash":           {path("from: {identity: {labels: {a: x/y}}}, " + toMongo + ", " + tcp), "a label value is"},
		"an identity without labels":           {path("from: {identity: {labels: {}}}, " + toMongo + ", " + tcp), "should have at least 1 properties"},
		"In without values":                    {path("from: {podSelector: {matchExpressions: [{key: a, operator: In}]}}, " + toMongo + ", " + tcp), "In and NotIn need values"},
		"Exists with values":                   {path("from: {podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}, " + toMongo + ", " + tcp), "In and NotIn need values"},
		"an unknown operator":                  {path("from: {podSelector: {matchExpressions: [{key: a, operator: Like}]}}, " + toMongo + ", " + tcp), "supported values"},
		"a range with host bits":               {path(fromBackend + ", to: {address: {cidr: 203.0.113.7/24, ips: [203.0.113.10]}}, ports: [{port: 443}]"), "write its first address, as in 203.0.113.0/24"},
		"a range that is none":                 {path(fromBackend + ", to: {address: {cidr: 203.0.113.0, ips: [203.0.113.10]}}, ports: [{port: 443}]"), "write a range such as"},
		"an address outside its range":         {path(fromBackend + ", to: {address: {cidr: 203.0.113.0/24, ips: [198.51.100.1]}}, ports: [{port: 443}]"), "every one of ips must lie in cidr"},
		"an address that is none":              {path(fromBackend + ", to: {address: {ips: [203.0.113]}}, ports: [{port: 443}]"), "write an address such as"},
		"a host that is no DNS name":           {path(fromBackend + ", to: {host: 'http://x'}, ports: [{port: 443}]"), "write a DNS name such as"},
		"a host with an empty label":           {path(fromBackend + ", to: {host: a..b}, ports: [{port: 443}]"), "write a DNS name such as"},
		"a query that is no DNS name":          {path(fromBackend + ", dns: {names: ['not a name']}"), "write a DNS name such as"},
		"an unknown DNS transport":             {path(fromBackend + ", dns: {names: [a.], transports: [DoH]}"), "supported values"},
		"dns with all its fields":              {path(fromBackend + ", dns: {names: [db], type: AAAA, transports: [TCP], search: true, answer: {addresses: ['fd00::1', 'fd00::2']}}"), ""},
		"an answer, with the default type":     {path(fromBackend + ", dns: {names: [db.], answer: {addresses: [10.0.0.1]}}"), ""},
		"an answer that is an alias":           {path(fromBackend + ", dns: {names: [db.], answer: {cname: db.example.org}}"), ""},
		"an answer that is none":               {path(fromBackend + ", dns: {names: [db.], type: TXT, answer: {notFound: true}}"), ""},
		"an answer on a denied path":           {strings.Replace(path(fromBackend+", dns: {names: [db.], answer: {notFound: true}}"), "Allow", "Deny", 1), "for a name that must not exist, write expect: Allow"},
		"two answers":                          {path(fromBackend + ", dns: {names: [db.], answer: {cname: a., notFound: true}}"), "answer takes exactly one of addresses, cname and notFound: true"},
		"an empty answer":                      {path(fromBackend + ", dns: {names: [db.], answer: {}}"), "answer takes exactly one of"},
		"an answer that is not absent":         {path(fromBackend + ", dns: {names: [db.], answer: {notFound: false}}"), "answer takes exactly one of"},
		"an IPv6 address of type A":            {path(fromBackend + ", dns: {names: [db.], answer: {addresses: ['fd00::1']}}"), "IPv4 addresses with type A, IPv6 addresses with type AAAA"},
		"an IPv4 address of type AAAA":         {path(fromBackend + ", dns: {names: [db.], type: AAAA, answer: {addresses: [10.0.0.1]}}"), "IPv4 addresses with type A, IPv6 addresses with type AAAA"},
		"an address of another type":           {path(fromBackend + ", dns: {names: [db.], type: TXT, answer: {addresses: [10.0.0.1]}}"), "IPv4 addresses with type A, IPv6 addresses with type AAAA"},
		"an alias of another type":             {path(fromBackend + ", dns: {names: [db.], type: SRV, answer: {cname: a.}}"), "answer.cname belongs to type A, AAAA or CNAME"},
		"an answer that is no address":         {path(fromBackend + ", dns: {names: [db.], answer: {addresses: [10.0.0]}}"), "write an address such as"},
		"an answer without addresses":          {path(fromBackend + ", dns: {names: [db.], answer: {addresses: []}}"), "should have at least 1 items"},
		"an alias that is no name":             {path(fromBackend + ", dns: {names: [db.], answer: {cname: 'a b'}}"), "write a DNS name such as"},
		"an unknown record type":               {path(fromBackend + ", dns: {names: [a.], type: ANY}"), "supported values"},
		"a service name with a dot":            {path(fromBackend + ", to: {service: {name: a.b}}, " + tcp), "a Service name is"},
		"a namespace name with a dot":          {path("from: {namespace: a.b, podSelector: {matchLabels: {a: b}}}, " + toMongo + ", " + tcp), "a namespace name is"},
		"an interval that is too short":        {path(fromBackend+", "+toMongo+", "+tcp) + "\nprobe: {intervalSeconds: 5}", "greater than or equal to 10"},
		"a timeout that is too long":           {path(fromBackend+", "+toMongo+", "+tcp) + "\nprobe: {timeoutMilliseconds: 10001}", "less than or equal to 10000"},
		"a single attempt":                     {path(fromBackend+", "+toMongo+", "+tcp) + "\nprobe: {attempts: 1}", "greater than or equal to 2"},
		"no settle window":                     {path(fromBackend+", "+toMongo+", "+tcp) + "\nprobe: {settleSeconds: 0}", "greater than or equal to 1"},
		"too many sources":                     {path(fromBackend+", "+toMongo+", "+tcp) + "\ncoverage: {maxSources: 11}", "less than or equal to 10"},
		"no target at all":                     {path(fromBackend+", "+toMongo+", "+tcp) + "\ncoverage: {maxTargets: 0}", "greater than or equal to 1"},
		"an unknown spread":                    {path(fromBackend+", "+toMongo+", "+tcp) + "\ncoverage: {spread: Zone}", "supported values"},
		"an unknown mode":                      {path(fromBackend+", "+toMongo+", "+tcp) + "\nprobe: {mode: Exec}", "supported values"},
	}
	v, err := New(crdFile)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			errs := v.Validate(t.Context(), expectation(t, tc.spec))
			switch got := errs.ToAggregate(); {
			case tc.wantErr == "" && got != nil:
				t.Errorf("got refused: %v", got)
			case tc.wantErr != "" && got == nil:
				t.Errorf("got accepted, want an error with %q", tc.wantErr)
			case tc.wantErr != "" && !strings.Contains(got.Error(), tc.wantErr):
				t.Errorf("got %v\nwant an error with %q", got, tc.wantErr)
			}
		})
	}
}

// What one object has no values for must not be left out for the next.
func TestRulesDoNotDependOnEarlierObjects(t *testing.T) {
	v, err := New(crdFile)
	if err != nil {
		t.Fatal(err)
	}
	bad := path(fromBackend + ", to: {}, " + tcp)
	for range 2 * maxSets {
		if errs := v.Validate(t.Context(), expectation(t, "paths: []")); errs.ToAggregate() == nil {
			t.Fatal("no paths at all were accepted")
		}
		if errs := v.Validate(t.Context(), expectation(t, bad)); !strings.Contains(fmt.Sprint(errs.ToAggregate()), "to takes exactly one of") {
			t.Fatalf("got %v", errs.ToAggregate())
		}
	}
}

func TestDefaults(t *testing.T) {
	v, err := New(crdFile)
	if err != nil {
		t.Fatal(err)
	}
	obj := expectation(t, path(fromBackend+", "+toMongo+", "+tcp))
	if errs := v.Validate(t.Context(), obj); len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	spec := obj["spec"].(map[string]any)
	probe := spec["probe"].(map[string]any)
	for field, want := range map[string]any{
		"intervalSeconds": int64(300), "timeoutMilliseconds": int64(1000), "attempts": int64(3),
		"mode": "OneShot", "onChange": true, "settleSeconds": int64(10),
	} {
		if probe[field] != want {
			t.Errorf("probe.%s defaults to %v, want %v", field, probe[field], want)
		}
	}
	coverage := spec["coverage"].(map[string]any)
	for field, want := range map[string]any{"maxSources": int64(2), "maxTargets": int64(3), "spread": "Node"} {
		if coverage[field] != want {
			t.Errorf("coverage.%s defaults to %v, want %v", field, coverage[field], want)
		}
	}
	port := spec["paths"].([]any)[0].(map[string]any)["ports"].([]any)[0].(map[string]any)
	if port["protocol"] != "TCP" {
		t.Errorf("protocol defaults to %v, want TCP", port["protocol"])
	}
}

// The API server refuses a CRD whose rules could cost too much, so this is the
// test that all lists, maps and strings are bounded well enough.
func TestCRDIsAccepted(t *testing.T) {
	raw, err := os.ReadFile(crdFile)
	if err != nil {
		t.Fatal(err)
	}
	crd := &apiextv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict(raw, crd); err != nil {
		t.Fatal(err)
	}
	apiextv1.SetDefaults_CustomResourceDefinition(crd)
	apiextv1.SetDefaults_CustomResourceDefinitionSpec(&crd.Spec)
	internal := &apiext.CustomResourceDefinition{}
	if err := apiextv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(crd, internal, nil); err != nil {
		t.Fatal(err)
	}
	internal.Status.StoredVersions = []string{"v1alpha1"}
	for _, err := range apiextvalidation.ValidateCustomResourceDefinition(t.Context(), internal) {
		t.Errorf("%v", err)
	}
}

func manyPaths(n int) string {
	var b strings.Builder
	b.WriteString("paths:\n")
	for i := range n {
		b.WriteString("- {name: p" + strings.Repeat("x", i%50) + string(rune('a'+i%26)) + string(rune('a'+i/26)) + ", expect: Allow, " + fromBackend + ", " + toMongo + ", " + tcp + "}\n")
	}
	return b.String()
}
