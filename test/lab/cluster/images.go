package cluster

import (
	"context"
	"debug/elf"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pathproof/pathproof/test/lab/image"
)

// loadOwnImages packs the sandbox and DNS images and loads them on all nodes.
func (l *Lab) loadOwnImages(ctx context.Context) error {
	for reference, binary := range map[string]string{pauseImage: l.binaries.Pause, coreDNSImage: l.binaries.CoreDNS} {
		file := filepath.Join(State, filepath.Base(binary)+".tar")
		if err := image.Write(image.Spec{Reference: reference, Binaries: []string{binary}}, file); err != nil {
			return err
		}
		if err := l.importImage(ctx, file); err != nil {
			return err
		}
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return nil
}

// Load loads a docker archive on every node, or a static binary, which is
// packed first. It returns the name of the image that a binary became.
func (l *Lab) Load(ctx context.Context, path string) (reference string, _ error) {
	if _, err := l.Nodes(""); err != nil {
		return "", err
	}
	if f, err := elf.Open(path); err == nil {
		_ = f.Close()
		reference = "pathproof.dev/lab/" + strings.ToLower(filepath.Base(path)) + ":lab"
		packed := filepath.Join(State, "load.tar")
		defer func() { _ = os.Remove(packed) }()
		if err := image.Write(image.Spec{Reference: reference, Binaries: []string{path}}, packed); err != nil {
			return "", err
		}
		path = packed
	}
	return reference, l.importImage(ctx, path)
}

// Unload removes an image from every node. Containers that were made of it go on.
func (l *Lab) Unload(ctx context.Context, reference string) error {
	nodes, err := l.Nodes("")
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if err := run(ctx, "ctr", "--address", n.containerd(), "--namespace", "k8s.io", "images", "remove", reference); err != nil {
			return fmt.Errorf("removing %s from %s: %w", reference, n.Name, err)
		}
	}
	return nil
}

func (l *Lab) importImage(ctx context.Context, file string) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range l.nodes {
		g.Go(func() error {
			err := l.await(ctx, "containerd of "+n.Name, []string{l.containerdSpec(n).Name}, func(ctx context.Context) error {
				dialer := net.Dialer{Timeout: time.Second}
				conn, err := dialer.DialContext(ctx, "unix", n.containerd())
				if err != nil {
					return err
				}
				return conn.Close()
			})
			if err != nil {
				return err
			}
			if err := run(ctx, "ctr", "--address", n.containerd(), "--namespace", "k8s.io",
				"images", "import", "--snapshotter", snapshotter(), file); err != nil {
				return fmt.Errorf("loading %s on %s: %w", file, n.Name, err)
			}
			return nil
		})
	}
	return g.Wait()
}
