package manifests

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Options are how to read.
type Options struct {
	// Namespace is that of objects that name none; empty means "default".
	Namespace string
	// IgnoredKinds are kinds of policy that decide nothing, by kind, in any case, or by
	// kind.group. What an object of another kind of policy could decide is Undefined.
	IgnoredKinds []string
	// Stdin is what the path "-" stands for.
	Stdin io.Reader
	// ClusterDNS names the Service that pods resolve names with, as namespace/name.
	// If the input has expectations about DNS and no such Service, one is assumed.
	// Empty means that none is.
	ClusterDNS string
	// Cluster is what the input is laid over, as if it were applied there; nil means
	// that there is nothing but the input. It is not changed, but for what an API
	// server would have added, and may serve several times.
	Cluster *Cluster
}

// Read reads files and folders (recursively: .yaml, .yml and .json; what begins
// with a dot is left out). It returns whatever the input is; what is wrong with it
// is in the problems.
func Read(paths []string, o Options) *Result {
	o.Namespace = cmp.Or(o.Namespace, "default")
	c := newCollection(o)
	queue := make(chan chan []parsed, 4*runtime.GOMAXPROCS(0))
	p := &producer{queue: queue, slots: make(chan struct{}, runtime.GOMAXPROCS(0)), stdin: o.Stdin}
	go func() {
		defer close(queue)
		p.run(paths)
	}()
	for answer := range queue {
		for _, p := range <-answer {
			c.take(p)
		}
	}
	if o.Cluster != nil {
		c.overlay(o.Cluster)
	}
	c.finish()
	c.result.requireInput(paths, p.found)
	complete(c.result, o)
	return c.result
}

// requireInput has a problem if the paths hold nothing at all, or a Kustomization and nothing
// beside it, which must not look like manifests that change nothing: the command before a pipe
// may have failed.
func (r *Result) requireInput(paths []string, found bool) {
	if len(paths) == 0 || len(r.Problems) > 0 {
		return
	}
	if !found {
		r.Problems = []Problem{{Place: Place{File: paths[0]}, Message: "is empty: write manifests, or look whether the command that makes them has failed"}}
		return
	}
	hinted := slices.IndexFunc(r.Skipped, func(s Skipped) bool { return s.Hint != "" })
	if len(r.Skipped) == 1 && hinted == 0 && r.read == 0 {
		s := r.Skipped[0]
		r.Problems = []Problem{{Place: s.First, Message: fmt.Sprintf("there is a %s and nothing beside it, and it is not applied: %s", s.Kind, s.Hint)}}
	}
}

// producer splits files into documents and has them parsed, on all processors. The
// queue keeps their order, and its length bounds how many are in memory.
type producer struct {
	queue chan<- chan []parsed
	slots chan struct{}
	stdin io.Reader
	read  map[string]bool
	// found tells that there was a document.
	found bool
	// folders are those that were read, or are being read: links may lead to them again.
	folders map[string]bool
}

func (p *producer) run(paths []string) {
	p.read, p.folders = map[string]bool{}, map[string]bool{}
	for _, path := range paths {
		p.path(path)
	}
}

// now queues what needs no work.
func (p *producer) now(items ...parsed) {
	answer := make(chan []parsed, 1)
	answer <- items
	p.queue <- answer
}

// later queues work for another goroutine.
func (p *producer) later(work func() []parsed) {
	answer := make(chan []parsed, 1)
	p.queue <- answer
	p.slots <- struct{}{}
	go func() {
		defer func() { <-p.slots }()
		answer <- work()
	}()
}

func (p *producer) fail(place Place, message string) { p.now(failed(place, message)) }

// path reads a file, a folder or the standard input.
func (p *producer) path(path string) {
	if path == "-" {
		if p.first("-") {
			p.stream(p.stdin, "-")
		}
		return
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.fail(Place{File: path}, "there is no such file or folder")
	case err != nil:
		p.fail(Place{File: path}, "cannot be read: "+err.Error())
	case !info.IsDir():
		p.file(path)
	case !p.folder(path):
		p.fail(Place{File: path}, "the folder holds no .yaml, .yml or .json file")
	}
}

// folder reads a folder and what links in it lead to. It returns false if that holds no file.
func (p *producer) folder(root string) (found bool) {
	dir, err := filepath.EvalSymlinks(root)
	if err != nil {
		p.fail(Place{File: root}, "cannot be read: "+err.Error())
		return true
	}
	if p.folders[dir] {
		return true // it was read already
	}
	p.folders[dir] = true
	err = filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		// It is called as it was named.
		below, _ := filepath.Rel(dir, at) // which it is
		path := filepath.Join(root, below)
		switch hidden := at != dir && strings.HasPrefix(d.Name(), "."); {
		case err != nil:
			p.fail(Place{File: path}, "cannot be read: "+err.Error())
			return fs.SkipDir
		case hidden && d.IsDir():
			return fs.SkipDir
		case hidden || d.IsDir():
			return nil
		case d.Type()&fs.ModeSymlink != 0:
			if info, err := os.Stat(path); err == nil && info.IsDir() {
				found = p.folder(path) || found
				return nil
			}
		}
		switch strings.ToLower(filepath.Ext(path)) {
		case ".yaml", ".yml", ".json":
			found = true
			p.file(path)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.SkipDir) {
		p.fail(Place{File: root}, "cannot be read: "+err.Error())
	}
	return found
}

// first tells whether a file was not read yet: it may be named, and lie in a
// folder that is named too.
func (p *producer) first(path string) bool {
	key := path
	if target, err := filepath.EvalSymlinks(path); err == nil && path != "-" {
		key = target
	}
	if abs, err := filepath.Abs(key); err == nil && path != "-" {
		key = abs
	}
	if p.read[key] {
		return false
	}
	p.read[key] = true
	return true
}

func (p *producer) file(path string) {
	if !p.first(path) {
		return
	}
	f, err := os.Open(path)
	if err != nil {
		p.fail(Place{File: path}, "cannot be read: "+err.Error())
		return
	}
	defer f.Close()
	p.stream(f, path)
}

// stream reads a file to its end, or to where it cannot be read any more.
func (p *producer) stream(in io.Reader, file string) {
	buffered := bufio.NewReaderSize(in, 64<<10)
	head, _ := buffered.Peek(3)
	switch {
	case bytes.HasPrefix(head, []byte("\xef\xbb\xbf")):
		_, _ = buffered.Discard(3)
	case bytes.HasPrefix(head, []byte("\xfe\xff")), bytes.HasPrefix(head, []byte("\xff\xfe")):
		p.fail(Place{File: file}, "is UTF-16: save it as UTF-8")
		return
	}
	var err error
	if isJSON(buffered, file) {
		if _, err := buffered.Peek(1); err == nil {
			p.found = true
		}
		err = splitJSON(buffered, file, 1, func(o object) error {
			p.later(o.parse)
			return nil
		})
	} else {
		err = splitYAML(buffered, file, func(d document) error {
			p.found = true
			p.later(d.parse)
			return nil
		})
	}
	if err != nil {
		place := Place{File: file}
		if syntax := (*syntaxError)(nil); errors.As(err, &syntax) {
			place.Line = syntax.line
		}
		p.fail(place, err.Error())
	}
}

// isJSON tells whether a stream is to be read as JSON: by its name, or, if it has
// none, by its first character. YAML files that hold JSON documents are split as
// YAML.
func isJSON(in *bufio.Reader, file string) bool {
	if file != "-" {
		return strings.EqualFold(filepath.Ext(file), ".json")
	}
	for n := 1; ; n++ {
		head, err := in.Peek(n)
		if err != nil {
			return false
		}
		if c := head[n-1]; c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return c == '{'
		}
	}
}

// identity is what tells objects apart.
type identity struct {
	group, kind, namespace, name string
}

// collection puts together what the parsers return, in the order of the input.
type collection struct {
	result    *Result
	seen      map[identity]Place
	skipped   map[typeMeta]*Skipped
	namespace string
}

func newCollection(o Options) *collection {
	return &collection{result: &Result{ignored: o.IgnoredKinds}, seen: map[identity]Place{}, skipped: map[typeMeta]*Skipped{}, namespace: o.Namespace}
}

func (c *collection) take(p parsed) {
	c.result.Objects++
	c.result.Problems = append(c.result.Problems, p.problems...)
	if p.skipped {
		c.skip(p)
	}
	if p.object == nil || p.object.GetName() == "" {
		return
	}
	switch {
	case p.kind.cluster:
		p.object.SetNamespace("")
	case p.object.GetNamespace() == "":
		p.object.SetNamespace(c.namespace)
	}
	id := identity{groupOf(p.meta.APIVersion), p.meta.Kind, p.object.GetNamespace(), p.object.GetName()}
	if first, ok := c.seen[id]; ok {
		c.result.Problems = append(c.result.Problems, Problem{
			Place: p.place, Object: describe(p.meta.Kind, p.object),
			Message: fmt.Sprintf("is defined twice, the first time in %s: keep one definition", first),
		})
		return
	}
	c.seen[id] = p.place
	c.result.read++
	p.kind.add(c.result, p)
}

func (c *collection) skip(p parsed) {
	s := c.skipped[p.meta]
	if s == nil {
		s = &Skipped{APIVersion: p.meta.APIVersion, Kind: p.meta.Kind, Policy: p.cloud != nil, First: p.place, Hint: p.skip}
		c.skipped[p.meta] = s
	}
	s.Count++
	if p.cloud != nil && !s.ignored(c.result.ignored) {
		c.result.Snapshot.Unmodelled = append(c.result.Snapshot.Unmodelled, *p.cloud)
	}
}

func (c *collection) finish() {
	for _, s := range c.skipped {
		c.result.Skipped = append(c.result.Skipped, *s)
	}
	slices.SortFunc(c.result.Skipped, func(a, b Skipped) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.APIVersion, b.APIVersion))
	})
}
