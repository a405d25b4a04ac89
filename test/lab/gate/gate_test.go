package gate

import (
	"bytes"
	"encoding/json"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const previous = `{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.244.1.5/24"},{"version":"6","address":"fd70::5/64"}]}`

func TestAddAnnouncesAndPassesTheResultOn(t *testing.T) {
	socket := filepath.Join(t.TempDir(), SocketName)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	announced := make(chan Announcement, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		var a Announcement
		_ = json.NewDecoder(conn).Decode(&a)
		announced <- a
		_, _ = conn.Write([]byte{'.'})
	}()
	t.Setenv("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u1")
	var out bytes.Buffer
	stdin := strings.NewReader(`{"cniVersion":"0.4.0","socket":"` + socket + `","prevResult":` + previous + `}`)
	if err := run("ADD", stdin, &out); err != nil {
		t.Fatal(err)
	}
	if out.String() != previous {
		t.Errorf("result %s, want the previous plugin's", out.String())
	}
	want := Announcement{Namespace: "shop", Name: "web", UID: "u1", Addrs: []netip.Addr{netip.MustParseAddr("10.244.1.5"), netip.MustParseAddr("fd70::5")}}
	if diff := cmp.Diff(want, <-announced, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("announced (-want +got):\n%s", diff)
	}
}

func TestAddWithoutAnAgentLetsThePodStart(t *testing.T) {
	var out bytes.Buffer
	stdin := strings.NewReader(`{"socket":"` + filepath.Join(t.TempDir(), "none") + `","prevResult":` + previous + `}`)
	if err := run("ADD", stdin, &out); err != nil || out.String() != previous {
		t.Errorf("%v, %s; want the previous plugin's result", err, out.String())
	}
}

func TestAddWithoutAnAddressFails(t *testing.T) {
	if err := run("ADD", strings.NewReader(`{"prevResult":{}}`), &bytes.Buffer{}); err == nil {
		t.Error("no error")
	}
}

func TestVersionAndDelete(t *testing.T) {
	var out bytes.Buffer
	if err := run("VERSION", strings.NewReader(""), &out); err != nil || !strings.Contains(out.String(), "0.4.0") {
		t.Errorf("VERSION: %v, %s", err, out.String())
	}
	if err := run("DEL", strings.NewReader("{}"), &bytes.Buffer{}); err != nil {
		t.Errorf("DEL: %v", err)
	}
}
