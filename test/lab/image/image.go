// Package image packs static binaries into a container image without a
// container engine: one layer, no shell, no root.
package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"
)

// user is the customary "nonroot" of distroless images.
const user = "65532:65532"

// Spec is an image to build.
type Spec struct {
	// Reference is NAME:TAG.
	Reference string
	// Binaries are put into the root folder: PATH, or PATH:NAME to rename.
	Binaries []string
	// Entrypoint names one of them; the first by default.
	Entrypoint string
}

// Write builds the image and writes it as a docker archive.
func Write(s Spec, to string) error {
	tag, err := name.NewTag(s.Reference)
	if err != nil {
		return fmt.Errorf("reading the image's name: %w", err)
	}
	img, err := build(s)
	if err != nil {
		return err
	}
	if err := tarball.WriteToFile(to, tag, img); err != nil {
		return fmt.Errorf("writing %s: %w", to, err)
	}
	return nil
}

func build(s Spec) (v1.Image, error) {
	if len(s.Binaries) == 0 {
		return nil, errors.New("an image needs at least one binary")
	}
	layer, first, err := layer(s.Binaries)
	if err != nil {
		return nil, err
	}
	entrypoint := path.Join("/", s.Entrypoint)
	if s.Entrypoint == "" {
		entrypoint = first
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config = v1.Config{User: user, Entrypoint: []string{entrypoint}, WorkingDir: "/"}
	return mutate.ConfigFile(img, file)
}

// layer packs the binaries. All times are the epoch, so that equal binaries
// give an equal image.
func layer(binaries []string) (_ v1.Layer, first string, _ error) {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, b := range binaries {
		source, target, renamed := strings.Cut(b, ":")
		if !renamed {
			target = filepath.Base(source)
		}
		if first == "" {
			first = path.Join("/", target)
		}
		if err := add(w, source, target); err != nil {
			return nil, "", fmt.Errorf("packing %s: %w", source, err)
		}
	}
	// Many programs expect to be able to write here.
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777, ModTime: time.Unix(0, 0)}); err != nil {
		return nil, "", err
	}
	if err := w.Close(); err != nil {
		return nil, "", err
	}
	// Nothing is downloaded, so compression would only cost time, twice.
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buffer.Bytes())), nil
	}, tarball.WithCompressionLevel(gzip.NoCompression))
	return l, first, err
}

func add(w *tar.Writer, source, target string) error {
	data, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	header := &tar.Header{
		Typeflag: tar.TypeReg, Name: strings.TrimPrefix(target, "/"), Mode: 0o755, Size: int64(len(data)), ModTime: time.Unix(0, 0),
	}
	if c := capability(source); c != "" {
		// How docker, BuildKit and containerd write an extended attribute (tar(5), pax).
		header.PAXRecords = map[string]string{"SCHILY.xattr." + capabilityAttribute: c}
	}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// capabilityAttribute holds what a file is allowed to do when it is run (capabilities(7)).
const capabilityAttribute = "security.capability"

// capability returns the file capabilities of a binary, or an empty string if it has
// none or the file system knows of none.
func capability(file string) string {
	value := make([]byte, 64) // struct vfs_ns_cap_data has 24
	n, err := unix.Getxattr(file, capabilityAttribute, value)
	if err != nil {
		return ""
	}
	return string(value[:n])
}
