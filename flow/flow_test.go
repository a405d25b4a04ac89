package flow

import (
	"net/netip"
	"regexp"
	"testing"

	"pgregory.net/rapid"
)

// IDs name pods and findings. They must be the same in every release: these were
// computed once, and a change of them is a change of the format.
func TestIDIsStable(t *testing.T) {
	cases := map[string]struct {
		parts []string
		want  string
	}{
		"nothing":             {nil, "4oymiquy7qobjgx3"},
		"one empty part":      {[]string{""}, "xj3iwmy73bwozab3"},
		"one part":            {[]string{"a"}, "ifrp3xjzupscexuo"},
		"parts of a workload": {[]string{"source", "production", "app=web,tier=front"}, "pd2ko7hbtq45nqks"},
		"not only ASCII":      {[]string{"päth"}, "zeoixt5qzzxbkfxy"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := ID(tc.parts...); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestIDTellsPartsApart(t *testing.T) {
	seen := map[string][]string{}
	for _, parts := range [][]string{{}, {""}, {"", ""}, {"ab", "c"}, {"a", "bc"}, {"abc"}, {"abc", ""}, {"", "abc"}, {"1:a"}, {"a1:b"}, {"a", "b"}} {
		id := ID(parts...)
		if other, ok := seen[id]; ok {
			t.Errorf("%q and %q have the same ID", parts, other)
		}
		seen[id] = parts
	}
}

// An ID becomes the end of a pod's name.
func TestIDFitsIntoNames(t *testing.T) {
	label := regexp.MustCompile(`^[a-z2-7]{16}$`)
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOf(rapid.String()).Draw(t, "parts")
		if id := ID(parts...); !label.MatchString(id) || id != ID(parts...) {
			t.Errorf("%q has the ID %q", parts, id)
		}
	})
}

func TestFormatLabels(t *testing.T) {
	cases := map[string]struct {
		labels map[string]string
		want   string
	}{
		"no labels":                 {nil, ""},
		"one":                       {map[string]string{"app": "web"}, "app=web"},
		"sorted by key":             {map[string]string{"tier": "x", "app": "web", "app.kubernetes.io/name": "y"}, "app=web,app.kubernetes.io/name=y,tier=x"},
		"a value may be empty":      {map[string]string{"job": ""}, "job="},
		"upper case sorts in bytes": {map[string]string{"b": "1", "B": "2"}, "B=2,b=1"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			for range 20 {
				if got := FormatLabels(tc.labels); got != tc.want {
					t.Fatalf("got %q, want %q", got, tc.want)
				}
			}
		})
	}
}

func TestPortRange(t *testing.T) {
	cases := map[string]struct {
		r    PortRange
		want string
		in   []uint16
		out  []uint16
	}{
		"one port":         {PortRange{TCP, 80, 80}, "TCP/80", []uint16{80}, []uint16{79, 81, 0}},
		"a range":          {PortRange{UDP, 8000, 8099}, "UDP/8000-8099", []uint16{8000, 8050, 8099}, []uint16{7999, 8100}},
		"up to the end":    {PortRange{SCTP, 1, 65535}, "SCTP/1-65535", []uint16{1, 65535}, []uint16{0}},
		"an inverted one":  {PortRange{TCP, 90, 80}, "TCP/90", nil, []uint16{80, 85, 90}},
		"without protocol": {PortRange{First: 53, Last: 53}, "/53", nil, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := tc.r.String(); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
			for _, port := range tc.in {
				if !tc.r.Contains(tc.r.Protocol, port) {
					t.Errorf("%s does not contain %d", tc.r, port)
				}
				if tc.r.Contains("ICMP", port) {
					t.Errorf("%s contains port %d of another protocol", tc.r, port)
				}
			}
			for _, port := range tc.out {
				if tc.r.Contains(tc.r.Protocol, port) {
					t.Errorf("%s contains %d", tc.r, port)
				}
			}
		})
	}
}

func TestNamesOfEndpoints(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.1")
	cases := map[string]struct {
		end                   Endpoint
		want                  string
		wantPod, wantIdentity bool
	}{
		"a pod":                             {Endpoint{Namespace: "ns", Pod: "web-1", Addr: addr}, "ns/web-1", true, false},
		"an identity":                       {Endpoint{Namespace: "ns", Labels: map[string]string{"b": "2", "a": "1"}}, "ns/{a=1,b=2}", false, true},
		"an identity without labels":        {Endpoint{Namespace: "ns"}, "ns/{}", false, true},
		"an address":                        {Endpoint{Addr: addr}, "192.0.2.1", false, false},
		"a pod without a namespace is none": {Endpoint{Pod: "web-1"}, "?", false, false},
		"nothing":                           {Endpoint{}, "?", false, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if tc.end.String() != tc.want || tc.end.IsPod() != tc.wantPod || tc.end.IsIdentity() != tc.wantIdentity {
				t.Errorf("got %q, pod %v, identity %v", tc.end, tc.end.IsPod(), tc.end.IsIdentity())
			}
		})
	}
	f := Flow{From: Endpoint{Namespace: "ns", Pod: "web-1"}, To: Endpoint{Addr: addr}, Protocol: TCP, Port: 443}
	if got, want := f.String(), "ns/web-1 -> 192.0.2.1 TCP/443"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
