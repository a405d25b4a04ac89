package image

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "app")
	if err := os.WriteFile(binary, []byte("program"), 0o644); err != nil {
		t.Fatal(err)
	}
	for title, tc := range map[string]struct {
		spec           Spec
		wantEntrypoint string
		wantFiles      []string
	}{
		"the first binary is the entrypoint": {
			spec:           Spec{Binaries: []string{binary, binary + ":other"}},
			wantEntrypoint: "/app", wantFiles: []string{"app", "other", "tmp/"},
		},
		"another one can be chosen": {
			spec:           Spec{Binaries: []string{binary, binary + ":other"}, Entrypoint: "other"},
			wantEntrypoint: "/other", wantFiles: []string{"app", "other", "tmp/"},
		},
	} {
		t.Run(title, func(t *testing.T) {
			archive := filepath.Join(t.TempDir(), "out.tar")
			tc.spec.Reference = "example.com/app:dev"
			if err := Write(tc.spec, archive); err != nil {
				t.Fatal(err)
			}
			tag, err := name.NewTag("example.com/app:dev")
			if err != nil {
				t.Fatal(err)
			}
			img, err := tarball.ImageFromPath(archive, &tag)
			if err != nil {
				t.Fatal(err)
			}
			config, err := img.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{tc.wantEntrypoint}, config.Config.Entrypoint); diff != "" {
				t.Errorf("entrypoint (-want +got):\n%s", diff)
			}
			if config.Config.User != "65532:65532" {
				t.Errorf("user %q", config.Config.User)
			}
			layers, err := img.Layers()
			if err != nil || len(layers) != 1 {
				t.Fatalf("%d layers, %v, want one", len(layers), err)
			}
			content, err := layers[0].Uncompressed()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.wantFiles, names(t, content)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

func names(t *testing.T, layer io.Reader) []string {
	t.Helper()
	var out []string
	for r := tar.NewReader(layer); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag == tar.TypeReg && header.Mode != 0o755 {
			t.Errorf("%s has mode %o", header.Name, header.Mode)
		}
		out = append(out, header.Name)
	}
}

// What a binary is allowed to do goes with it, and nothing where it is allowed nothing.
func TestFileCapabilitiesAreKept(t *testing.T) {
	dir := t.TempDir()
	plain, capable := filepath.Join(dir, "plain"), filepath.Join(dir, "capable")
	for _, file := range []string{plain, capable} {
		if err := os.WriteFile(file, []byte("program"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// struct vfs_cap_data: version 2, CAP_NET_RAW permitted.
	want := "\x00\x00\x00\x02\x00\x20\x00\x00" + strings.Repeat("\x00", 12)
	if err := unix.Setxattr(capable, capabilityAttribute, []byte(want), 0); err != nil {
		t.Skipf("skipping: giving a file capabilities takes root and a file system that keeps them: %v", err)
	}
	l, _, err := layer([]string{plain, capable})
	if err != nil {
		t.Fatal(err)
	}
	content, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for r := tar.NewReader(content); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[header.Name] = header.PAXRecords["SCHILY.xattr.security.capability"]
	}
	if diff := cmp.Diff(map[string]string{"plain": "", "capable": want, "tmp/": ""}, got); diff != "" {
		t.Errorf("capabilities (-want +got):\n%s", diff)
	}
}

func TestWriteRefuses(t *testing.T) {
	for title, spec := range map[string]Spec{
		"no binary":        {Reference: "example.com/app:dev"},
		"a missing binary": {Reference: "example.com/app:dev", Binaries: []string{"/nonexistent"}},
		"an unusable name": {Reference: "Example Com:dev", Binaries: []string{"/bin/true"}},
	} {
		out := filepath.Join(t.TempDir(), "out.tar")
		if err := Write(spec, out); err == nil {
			t.Errorf("%s: no error", title)
		}
	}
}
