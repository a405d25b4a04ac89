package matrix

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"unicode/utf8"
)

// Measures of the picture, in pixels. Names are in a fixed-width font, so that their
// widths are known: its characters are 0.61 of its size in all common fonts, or less.
const (
	pitch     = 22 // of rows and columns
	margin    = 20
	nameSize  = 12.0
	charWidth = nameSize * 0.61
	topSpace  = 112 // for title, subtitle and legend
	// lean is the angle of the heads of columns.
	lean = 45
)

// slope is how far a head of a column goes up and to the right for each pixel of its
// length.
var slope = math.Sin(lean * math.Pi / 180)

// drawing places the parts of the picture.
type drawing struct {
	m *Matrix
	w *bufio.Writer
	// at is where a row and a column begins, from the corner of the grid.
	at []int
	// size is that of the grid, and left and top are where it begins.
	size, left, top int
	width, height   int
	counts          Counts
}

// SVG writes the table as a picture. A namespace is a strip of its own in front of
// its rows and its columns, so that its name has room however few they are.
func (m *Matrix) SVG(out io.Writer) error {
	if err := m.pictured(); err != nil {
		return err
	}
	d := drawing{m: m, w: bufio.NewWriterSize(out, 1<<16), counts: m.Count()}
	d.measure()
	fmt.Fprintf(d.w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" role="img" aria-label="%s">`+"\n",
		d.width, d.height, escape(m.title()))
	fmt.Fprintf(d.w, svgHead, nameSize, deniedColor, deniedBack, allowedColor, undefinedColor, undefinedBack)
	d.caption()
	d.grid()
	d.heads()
	d.cells()
	_, _ = d.w.WriteString("</svg>\n")
	return d.w.Flush()
}

// svgHead has the styles and the shapes of the states. The picture has a background,
// so that it is readable on any page.
const svgHead = `<style>
text{font-family:system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;font-size:13px;fill:#1b1f24}
.k{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:%gpx}
.h{font-weight:bold}
.p{fill:#5f6873}
.t{font-size:18px;font-weight:bold}
.b{fill:#eef1f4}
.o{fill:#d3dae1}
.l{stroke:#e3e6ea;stroke-width:1}
.s{stroke:#8b949e;stroke-width:1.5}
use:hover{stroke:#000;stroke-width:1}
</style>
<defs>
<symbol id="a" viewBox="0 0 18 18"><rect width="18" height="18" rx="3" fill="%[4]s"/><path d="M4.5 9.5l3 3 6-7" fill="none" stroke="#fff" stroke-width="2.2"/></symbol>
<symbol id="d" viewBox="0 0 18 18"><rect x=".5" y=".5" width="17" height="17" rx="3" fill="%[3]s" stroke="#e9bf9f"/><path d="M5.5 5.5l7 7m0-7l-7 7" fill="none" stroke="%[2]s" stroke-width="2"/></symbol>
<symbol id="m" viewBox="0 0 18 18"><rect x=".5" y=".5" width="17" height="17" rx="3" fill="%[3]s" stroke="%[4]s"/><path d="M3.5 .5h11.5L.5 15v-11.500a3 3 0 0 1 3-3z" fill="%[4]s"/><path d="M3.200 6l1.500 1.600 3.200-3.800" fill="none" stroke="#fff" stroke-width="1.600"/><path d="M10.500 10.500l4 4m0-4l-4 4" fill="none" stroke="%[2]s" stroke-width="1.600"/></symbol>
<symbol id="u" viewBox="0 0 18 18"><rect x="1" y="1" width="16" height="16" rx="3" fill="%[6]s" stroke="%[5]s" stroke-width="1.500" stroke-dasharray="3 2"/><path d="M6.300 6.800a2.700 2.700 0 1 1 4.300 2.200c-1 .7-1.600 1.200-1.600 2.200" fill="none" stroke="%[5]s" stroke-width="1.800"/><circle cx="9" cy="13.700" r="1.200" fill="%[5]s"/></symbol>
<symbol id="n" viewBox="0 0 18 18"><rect width="18" height="18" fill="#fff"/><circle cx="9" cy="9" r="1.800" fill="#8b949e"/></symbol>
</defs>
`

// heading is what is written in front of a row or above a column.
func (r *Row) heading() string { return r.label() }

// target is what is written above a column: with the ports, unless all are asked
// about the same.
func (d *drawing) target(r *Row) (name, ports string) {
	if d.m.Asked != "" {
		return r.heading(), ""
	}
	return r.heading(), r.portLabel()
}

// measure finds out how much room names take.
func (d *drawing) measure() {
	at := 0
	d.at = make([]int, len(d.m.Rows))
	for _, s := range d.m.namespaces() {
		at += pitch
		for i := s.first; i <= s.last; i++ {
			d.at[i] = at
			at += pitch
		}
	}
	d.size = at
	names, up, right := 0.0, 0.0, 0.0
	head := func(text string, x int) {
		length := float64(utf8.RuneCountInString(text))*charWidth + nameSize
		up = max(up, length*slope)
		right = max(right, float64(x)+pitch/2+length*slope)
	}
	for i := range d.m.Rows {
		r := &d.m.Rows[i]
		names = max(names, float64(utf8.RuneCountInString(r.heading()))*charWidth)
		name, ports := d.target(r)
		head(name+" "+ports, d.at[i])
	}
	for _, s := range d.m.namespaces() {
		names = max(names, float64(utf8.RuneCountInString(s.namespace))*charWidth)
		head(s.namespace, d.at[s.first]-pitch)
	}
	d.left = margin + int(math.Ceil(names)) + 20
	d.top = topSpace + margin + int(math.Ceil(up))
	text := max(float64(len(d.m.title()))*11, float64(len(d.m.subtitle()[1]))*7.2, float64(len(footer))*7, d.legendWidth())
	d.width = max(d.left+int(math.Ceil(max(float64(d.size), right)))+margin, margin*2+int(text))
	d.height = d.top + d.size + margin*2
}

// legendText is what is written beside the shape of a state.
func (d *drawing) legendText(s State) string {
	return fmt.Sprintf("%d %s", d.counts[s], meaning(s))
}

// legendStep is the width of an entry of the legend.
func (d *drawing) legendStep(s State) float64 {
	return 24 + float64(len(d.legendText(s)))*7.7 + 16
}

func (d *drawing) legendWidth() float64 {
	width := 0.0
	for _, s := range d.counts.legend() {
		width += d.legendStep(s)
	}
	return width
}

// caption writes the title and the legend.
func (d *drawing) caption() {
	fmt.Fprintf(d.w, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", d.width, d.height)
	fmt.Fprintf(d.w, `<text class="t" x="%d" y="36">%s</text>`+"\n", margin, escape(d.m.title()))
	for i, line := range d.m.subtitle() {
		fmt.Fprintf(d.w, `<text class="p" x="%d" y="%d">%s</text>`+"\n", margin, 58+18*i, escape(line))
	}
	x := float64(margin)
	for _, s := range d.counts.legend() {
		fmt.Fprintf(d.w, `<use href="#%s" x="%.0f" y="90" width="18" height="18"/><text x="%.0f" y="104">%s</text>`+"\n",
			classes[s], x, x+24, escape(d.legendText(s)))
		x += d.legendStep(s)
	}
	fmt.Fprintf(d.w, `<text class="p" x="%d" y="%d">%s</text>`+"\n", margin, d.top+d.size+margin+8, footer)
}

// grid draws lines that lead the eye, and bolder ones around namespaces.
func (d *drawing) grid() {
	reach := d.left - margin
	for _, s := range d.m.namespaces() {
		at := d.at[s.first] - pitch
		fmt.Fprintf(d.w, `<rect class="b" x="%d" y="%d" width="%d" height="%d"/>`+"\n", margin, d.top+at, reach+d.size, pitch)
		fmt.Fprintf(d.w, `<rect class="b" x="%d" y="%d" width="%d" height="%d"/>`+"\n", d.left+at, d.top, pitch, d.size)
	}
	for _, at := range d.at {
		fmt.Fprintf(d.w, `<rect class="o" x="%d" y="%d" width="%d" height="%[3]d"/>`+"\n", d.left+at, d.top+at, pitch)
	}
	line := func(class string, at int) {
		fmt.Fprintf(d.w, `<path class="%s" d="M%d %dh%dM%d %dv%d"/>`+"\n", class, margin, d.top+at, reach+d.size, d.left+at, d.top, d.size)
	}
	for _, s := range d.m.namespaces() {
		for i := s.first; i <= s.last; i++ {
			line("l", d.at[i])
		}
	}
	for _, s := range d.m.namespaces() {
		line("s", d.at[s.first]-pitch)
	}
	line("s", d.size)
}

// heads writes the names of namespaces, rows and columns.
func (d *drawing) heads() {
	side := func(class, text string, at int) {
		fmt.Fprintf(d.w, `<text class="%s" x="%d" y="%d">%s</text>`+"\n", class, margin, d.top+at+15, escape(text))
	}
	above := func(class, name, ports string, at int) {
		if ports != "" {
			ports = ` <tspan class="p">` + escape(ports) + `</tspan>`
		}
		fmt.Fprintf(d.w, `<text class="%s" transform="translate(%d %d) rotate(-%d)">%s%s</text>`+"\n",
			class, d.left+at+pitch/2+6, d.top-5, lean, escape(name), ports)
	}
	for _, s := range d.m.namespaces() {
		at := d.at[s.first] - pitch
		side("k h", s.namespace, at)
		above("k h", s.namespace, "", at)
		for i := s.first; i <= s.last; i++ {
			r := &d.m.Rows[i]
			side("k", r.heading(), d.at[i])
			name, ports := d.target(r)
			above("k", name, ports, d.at[i])
		}
	}
}

// cells draws the verdicts, each with its reason for those who point at it.
func (d *drawing) cells() {
	const inset = (pitch - 18) / 2
	for from := range d.m.Rows {
		for to := range d.m.Rows {
			fmt.Fprintf(d.w, `<use href="#%s" x="%d" y="%d" width="18" height="18"><title>%s</title></use>`+"\n",
				classes[d.m.State(from, to)], d.left+d.at[to]+inset, d.top+d.at[from]+inset, escape(d.m.tooltip(from, to)))
		}
	}
}
