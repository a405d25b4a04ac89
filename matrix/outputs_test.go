package matrix

import (
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/utils/ptr"

	"github.com/pathproof/pathproof/evaluator"
)

func write(t testing.TB, format func(io.Writer) error) string {
	t.Helper()
	var b strings.Builder
	if err := format(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (m *Matrix) plain(w io.Writer) error { return m.Table(w, TextStyle{}) }

// many makes a table of pods that nothing made, half of which let nobody in.
func many(t testing.TB, n int) *Matrix {
	t.Helper()
	var pods []Pod
	for i := range n {
		pods = append(pods, pod(fmt.Sprintf("ns-%d/pod-%d", i%3, i), KindPod, fmt.Sprintf("pod-%d", i), fmt.Sprintf("app=%d", i%2), ""))
	}
	return build(t, pods, nil)
}

// hostile has names that no cluster admits.
func hostile(t testing.TB) *Matrix {
	t.Helper()
	m := every(t)
	for i := range m.Rows {
		r := &m.Rows[i]
		r.Namespace += `<script>alert("n")</script>`
		r.Name += "\"><b>&'\x01"
		r.Pods[0] += `</title><i x='`
		r.Kind += "<"
	}
	return m
}

// elements counts the elements of a document, which must be well-formed.
func elements(t *testing.T, text string, html bool) map[string]int {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(text))
	if html {
		// What HTML adds to XML: elements without an end, and names of characters.
		d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	}
	counts, depth := map[string]int{}, 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			counts[e.Name.Local]++
			depth++
		case xml.EndElement:
			depth--
		}
	}
	if depth != 0 {
		t.Errorf("%d elements are not closed", depth)
	}
	return counts
}

func TestPicturesAreWellFormed(t *testing.T) {
	for name, m := range map[string]*Matrix{"every state": every(t), "hostile names": hostile(t), "many rows": many(t, 30)} {
		t.Run(name, func(t *testing.T) {
			n := len(m.Rows)
			svg := elements(t, write(t, m.SVG), false)
			legend := len(ptr.To(m.Count()).legend())
			if svg["symbol"] != int(states) || svg["use"] != n*n+legend || svg["title"] != n*n {
				t.Errorf("an SVG of %d rows has %v", n, svg)
			}
			namespaces := len(m.namespaces())
			html := elements(t, write(t, m.HTML), true)
			if html["tbody"] != namespaces || html["td"] != n*n+namespaces || html["th"] != 1+2*(n+namespaces) {
				t.Errorf("an HTML page of %d rows has %v", n, html)
			}
			if html["script"] != 1 || html["b"] != legend || html["i"] != 0 || svg["script"] != 0 || svg["b"] != 0 {
				t.Errorf("a name became an element: %v, %v", html, svg)
			}
		})
	}
}

func TestPicturesNeedNothingElse(t *testing.T) {
	m := every(t)
	for name, text := range map[string]string{"SVG": write(t, m.SVG), "HTML": write(t, m.HTML)} {
		text = strings.ReplaceAll(text, `xmlns="http://www.w3.org/2000/svg"`, "")
		if found := regexp.MustCompile(`(?i)https?:|src=|@import|url\(|<link`).FindString(text); found != "" {
			t.Errorf("%s refers to %q", name, found)
		}
	}
}

// Whoever sees no colours tells the states apart by their shapes.
func TestStatesDifferWithoutColours(t *testing.T) {
	shape := regexp.MustCompile(`(?s)<symbol id="(\w)"[^>]*>(.*?)</symbol>`)
	colour := regexp.MustCompile(`(fill|stroke)="#[0-9a-f]+"`)
	shapes, seen := map[string]string{}, map[string]State{}
	for _, match := range shape.FindAllStringSubmatch(write(t, every(t).SVG), -1) {
		shapes[match[1]] = colour.ReplaceAllString(match[2], "$1")
	}
	for s := range states {
		for _, mark := range []string{glyphs[s], classes[s], meaning(s), shapes[classes[s]]} {
			if other, ok := seen[mark]; ok || mark == "" {
				t.Errorf("%s and %s are both shown as %q", s, other, mark)
			}
			seen[mark] = s
		}
		if utf8.RuneCountInString(glyphs[s]) != 1 {
			t.Errorf("the glyph of %s is %q", s, glyphs[s])
		}
	}
}

func TestTooltipsSayWhy(t *testing.T) {
	const want = "b/client -&gt; a/web&#xA;TCP/80: allowed (egress: not isolated; ingress: allowed by rule 0 of a/web)&#xA;TCP/9090: denied (ingress: no rule of a/web allows it)"
	m := every(t)
	if svg := write(t, m.SVG); !strings.Contains(svg, "<title>"+want+"</title>") {
		t.Errorf("the SVG lacks %s", want)
	}
	html := write(t, m.HTML)
	if !strings.Contains(html, `<td class="m e" title="`+want+`" aria-label="mixed">±</td>`) {
		t.Errorf("the HTML lacks %s", want)
	}
	for _, scope := range []string{`scope="row"`, `scope="col"`, `scope="rowgroup"`, `scope="colgroup"`} {
		if !strings.Contains(html, scope) {
			t.Errorf("the HTML lacks %s", scope)
		}
	}
}

// All that is written in an SVG lies inside of it, also where names are long.
func TestHeadsAreNotCutOff(t *testing.T) {
	long := strings.Repeat("w", 63)
	m := build(t, []Pod{
		pod("a/"+long, KindPod, long, "app=1", "", tcp("", 10001), tcp("", 10002), tcp("", 10003)),
		pod(long+"/a", KindPod, "a", "app=1", ""),
	}, nil)
	svg := write(t, m.SVG)
	size := regexp.MustCompile(`width="(\d+)" height="(\d+)" viewBox`).FindStringSubmatch(svg)
	heads := regexp.MustCompile(`translate\((\d+) (\d+)\) rotate\(-45\)">(.*?)</text>`).FindAllStringSubmatch(svg, -1)
	sides := regexp.MustCompile(`<text class="k[^"]*" x="(\d+)" y="\d+">(.*?)</text>`).FindAllStringSubmatch(svg, -1)
	grid := regexp.MustCompile(`M(\d+) (\d+)v`).FindStringSubmatch(svg)
	if size == nil || grid == nil || len(heads) != 4 || len(sides) != 4 {
		t.Fatalf("size %v, grid %v, %d heads, %d sides", size, grid, len(heads), len(sides))
	}
	number := func(s string) float64 {
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	length := func(s string) float64 {
		return float64(utf8.RuneCountInString(regexp.MustCompile(`<.*?>`).ReplaceAllString(s, ""))) * charWidth
	}
	for _, h := range heads {
		reach := length(h[3]) * slope
		if x, y := number(h[1])+reach, number(h[2])-reach; x > number(size[1]) || y < topSpace {
			t.Errorf("%s ends at %.0f, %.0f of %s and below %d", h[3], x, y, size[1], topSpace)
		}
	}
	for _, s := range sides {
		if end := number(s[1]) + length(s[2]); end > number(grid[1]) {
			t.Errorf("%s ends at %.0f, and the grid begins at %s", s[2], end, grid[1])
		}
	}
}

func TestPicturesAreBounded(t *testing.T) {
	m := many(t, MaxPicture+1)
	for _, format := range []func(io.Writer) error{m.SVG, m.HTML} {
		var b strings.Builder
		var big *TooBigError
		if err := format(&b); !errors.As(err, &big) || big.Rows != MaxPicture+1 || b.Len() > 0 {
			t.Errorf("%v, and %d bytes", err, b.Len())
		}
	}
	// The others have no bound.
	for _, format := range []func(io.Writer) error{m.JSON, m.CSV, m.plain} {
		if err := format(io.Discard); err != nil {
			t.Error(err)
		}
	}
}

func TestJSONHoldsAllVerdicts(t *testing.T) {
	m := every(t)
	var doc struct {
		Letters   map[string]string
		Cells     map[string]int
		Workloads []struct {
			Namespace, Name, Kind, Workload string
			Pods, Ports                     []string
			PortAssumed                     bool
		}
		Verdicts []string
	}
	d := json.NewDecoder(strings.NewReader(write(t, m.JSON)))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Workloads) != len(m.Rows) || len(doc.Verdicts) != len(m.Rows) || doc.Cells["mixed"] != 1 {
		t.Fatalf("got %+v", doc)
	}
	for from, line := range doc.Verdicts {
		cells := strings.Split(line, " ")
		for to, cell := range cells {
			if len(doc.Workloads[to].Ports) == 0 {
				if cell != "-" {
					t.Errorf("%d to %d is %q without a port", from, to, cell)
				}
				continue
			}
			for i, letter := range cell {
				if got, want := doc.Letters[string(letter)], m.Verdict(from, to, i).String(); got != want {
					t.Errorf("%d to %d at %d is %s, want %s", from, to, i, got, want)
				}
			}
		}
		if len(cells) != len(m.Rows) {
			t.Errorf("row %d has %d cells", from, len(cells))
		}
	}
}

// A thousand pods have a million cells: two bytes each, not an object.
func TestJSONIsCompact(t *testing.T) {
	const n = 300
	size := len(write(t, many(t, n).JSON))
	if most := n*n*2 + n*200; size > most {
		t.Errorf("%d rows take %d bytes, want at most %d", n, size, most)
	}
}

func TestCSVHasALineForEachPort(t *testing.T) {
	m := every(t)
	lines, err := csv.NewReader(strings.NewReader(write(t, m.CSV))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	ports := 0
	for _, r := range m.Rows {
		ports += len(r.Ports)
	}
	if len(lines) != 1+len(m.Rows)*ports {
		t.Fatalf("got %d lines of %d rows with %d ports", len(lines), len(m.Rows), ports)
	}
	want := []string{"b/client", "a/web", "TCP", "9090", "Denied", "ingress: no rule of a/web allows it"}
	if !slices.ContainsFunc(lines, func(l []string) bool { return slices.Equal(l, want) }) {
		t.Errorf("there is no line %q in %q", want, lines)
	}
	for _, l := range lines[1:] {
		if l[5] == "" || !slices.Contains([]string{"Allowed", "Denied", "Undefined"}, l[4]) {
			t.Errorf("a line is %q", l)
		}
	}
}

// Fields with what separates others are read as they were written.
func TestCSVFieldsAreQuoted(t *testing.T) {
	for _, field := range []string{"a", "", "a,b", `say "a"`, "two\nlines", `",`, "ä"} {
		text := string(appendField(appendField(nil, field), "")) + ",end\n"
		got, err := csv.NewReader(strings.NewReader(text)).Read()
		if err != nil || len(got) != 2 || got[0] != field || got[1] != "end" {
			t.Errorf("%q became %q: %v", field, got, err)
		}
	}
}

// A table that is wider than the terminal goes on below, with all of its columns.
func TestTablesFitTheTerminal(t *testing.T) {
	m := many(t, 60)
	const width = 80
	text := write(t, func(w io.Writer) error { return m.Table(w, TextStyle{Width: width}) })
	var columns []string
	tens := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if n := utf8.RuneCountInString(line); n > width && !strings.HasPrefix(line, "Rows are") {
			t.Errorf("a line of %d: %s", n, line)
		}
		// The numbers stand upright: their last digits are in the line of the heads, and
		// those before them in the one above.
		if at := strings.Index(line, portsHead); at >= 0 {
			for i := at + len(portsHead); i < len(line); i++ {
				if line[i] != ' ' && line[i] != '|' {
					columns = append(columns, strings.TrimSpace((tens + strings.Repeat(" ", len(line)))[i:i+1]+line[i:i+1]))
				}
			}
		}
		tens = line
	}
	if len(columns) != 60 || columns[0] != "1" || columns[59] != "60" {
		t.Errorf("the columns are %v", columns)
	}
	// However narrow it is, there is progress.
	if text := write(t, func(w io.Writer) error { return m.Table(w, TextStyle{Width: 5}) }); strings.Count(text, portsHead) != 60 {
		t.Error("a narrow terminal loses columns")
	}
}

func TestTablesHaveColoursOnlyIfAsked(t *testing.T) {
	m := every(t)
	colored := write(t, func(w io.Writer) error { return m.Table(w, TextStyle{Color: true}) })
	stripped := regexp.MustCompile("\x1b\\[\\d+m").ReplaceAllString(colored, "")
	if plain := write(t, m.plain); plain != stripped || plain == colored {
		t.Errorf("with colours:\n%s\nwithout:\n%s", stripped, plain)
	}
}

func TestRemarksAreBoundedAndCounted(t *testing.T) {
	var pods []Pod
	for i := range 4 {
		pods = append(pods, pod(fmt.Sprintf("a/p-%d", i), KindPod, fmt.Sprintf("p-%d", i), "app=1", fmt.Sprintf("10.0.0.%d", i+1)))
	}
	m := build(t, pods, nil)
	list, more := m.remarks(10)
	if len(list) != 0 || more != 0 {
		t.Fatalf("remarks on what is allowed: %v", list)
	}
	np := policy("a", "np", "app=1", "10.0.0.0/29")
	m = build(t, pods, []*networkingv1.NetworkPolicy{np})
	// Three sources of each of four targets are undefined for one reason.
	list, more = m.remarks(10)
	if len(list) != 4 || more != 0 || list[0].String() != "a/p-1 and 2 more -> a/p-0" {
		t.Errorf("%d remarks and %d more: %s", len(list), more, list[0])
	}
	if list, more = m.remarks(3); len(list) != 3 || more != 3 {
		t.Errorf("%d remarks and %d more", len(list), more)
	}
	if v := list[0].answers[0].verdict; v != evaluator.Undefined {
		t.Errorf("got %s", v)
	}
}

// failing is an output that takes some bytes, and then no more.
type failing struct{ left int }

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestErrorsOfTheOutputAreReturned(t *testing.T) {
	m := many(t, 100)
	for name, format := range map[string]func(io.Writer) error{"table": m.plain, "JSON": m.JSON, "CSV": m.CSV, "HTML": m.HTML, "SVG": m.SVG} {
		for _, left := range []int{0, 5000} {
			if err := format(&failing{left}); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
