package matrix

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// HTML writes the table as a page that needs no other file.
func (m *Matrix) HTML(out io.Writer) error {
	if err := m.pictured(); err != nil {
		return err
	}
	p := page{m: m, w: bufio.NewWriterSize(out, 1<<16), counts: m.Count()}
	_, _ = p.w.WriteString("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n")
	lines := m.subtitle()
	fmt.Fprintf(p.w, "<title>%s</title>\n<style>%s</style>\n</head>\n<body>\n<h1>%[1]s</h1>\n<p>%[3]s</p>\n", escape(m.title()), p.style(), escape(strings.Join(lines[:], " ")))
	p.legend()
	p.table()
	p.remarks()
	_, _ = p.w.WriteString(pageScript + "</body>\n</html>\n")
	return p.w.Flush()
}

// page writes the parts of the page.
type page struct {
	m      *Matrix
	w      *bufio.Writer
	counts Counts
}

// style is the style sheet. Heads stay in sight; colours follow the reader's scheme.
func (p *page) style() string {
	return strings.NewReplacer("ALLOWED", allowedColor, "DENIED", deniedColor, "PALE", deniedBack, "OPEN", undefinedColor, "GREY", undefinedBack).Replace(`
:root{color-scheme:light dark;--page:#fff;--text:#1b1f24;--soft:#5f6873;--line:#d5d9de;--edge:#8b949e;--head:#f3f5f7;--mark:#ffe9a8;
--a:ALLOWED;--at:#fff;--d:PALE;--dt:DENIED;--u:GREY;--ut:OPEN}
@media (prefers-color-scheme:dark){:root{--page:#14171b;--text:#e6e9ed;--soft:#a0a8b2;--line:#333a42;--edge:#77808a;--head:#20252b;--mark:#5a4a12;
--a:#1f9c78;--at:#04120d;--d:#3c2417;--dt:#ff9d5c;--u:#2c2c44;--ut:#b9b9ea}}
body{margin:1.5rem;background:var(--page);color:var(--text);font:14px/1.45 system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
h1{font-size:1.3rem;margin:0 0 .3rem}
p,ul{margin:.3rem 0}
.legend{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.3rem 1.2rem}
.legend b,td{display:inline-block;box-sizing:border-box;width:1.6rem;height:1.6rem;line-height:1.6rem;text-align:center;font-weight:700;border-radius:3px}
.frame{overflow:auto;max-height:85vh;margin:1rem 0;border:1px solid var(--edge);width:fit-content;max-width:100%}
table{border-collapse:separate;border-spacing:0}
td{display:table-cell;padding:0;border-radius:0;border:solid var(--line);border-width:0 1px 1px 0}
th{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;white-space:nowrap;background:var(--head);padding:.25rem .5rem;text-align:left}
thead{position:sticky;top:0;z-index:2}
thead th{vertical-align:bottom;border-right:1px solid var(--line)}
thead th span.v{writing-mode:vertical-rl;transform:rotate(180deg)}
thead th.p{padding:.4rem 0;text-align:center;min-width:1.6rem;box-sizing:border-box}
tbody th{position:sticky;left:0;z-index:1;border-right:1px solid var(--edge);border-bottom:1px solid var(--line)}
tbody th.g,thead th.g{font-weight:700}
thead th.g{text-align:center}
thead tr.top th{border-bottom:1px solid var(--edge)}
thead tr.names th{border-bottom:1px solid var(--edge);font-weight:400}
tbody th.r{font-weight:400;padding-left:1.2rem}
tbody tr.g td{height:auto;border-bottom:1px solid var(--edge);border-right:0;background:var(--head)}
tbody tr.g th{border-bottom:1px solid var(--edge);border-right:0}
.e{border-right:1px solid var(--edge)!important}
th.corner{position:sticky;left:0;z-index:3;font-weight:400;color:var(--soft)}
small{font-size:11px;color:var(--soft)}
.a{background:var(--a);color:var(--at)}
.d{background:var(--d);color:var(--dt)}
.m{background:radial-gradient(circle,var(--page) 0 36%,transparent 40%),linear-gradient(135deg,var(--a) 49%,var(--d) 51%);color:var(--text)}
.u{background:repeating-linear-gradient(45deg,var(--u) 0 4px,var(--page) 4px 8px);color:var(--ut)}
.n{color:var(--soft)}
tbody tr:hover th.r,th.now{background:var(--mark)}
tbody td[title]:hover{outline:2px solid var(--text);outline-offset:-2px}
dt{margin-top:.5rem;font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
dd{margin-left:1.6rem}
@media (max-height:45rem){.frame{max-height:none}thead{position:static}}
@media print{.frame{max-height:none;overflow:visible}}
`)
}

// legend explains the glyphs.
func (p *page) legend() {
	_, _ = p.w.WriteString("<ul class=\"legend\">\n")
	for _, s := range p.counts.legend() {
		fmt.Fprintf(p.w, "<li><b class=\"%s\">%s</b> %d %s</li>\n", classes[s], glyphs[s], p.counts[s], meaning(s))
	}
	_, _ = p.w.WriteString("</ul>\n<p><small>" + footer + "</small></p>\n")
}

// table writes the heads of namespaces and of targets, then each namespace as a
// group of rows.
func (p *page) table() {
	spans := p.m.namespaces()
	fmt.Fprintf(p.w, "<div class=\"frame\" tabindex=\"0\" role=\"region\" aria-label=\"%s\">\n<table>\n<colgroup><col></colgroup>\n", escape(p.m.title()))
	for _, s := range spans {
		fmt.Fprintf(p.w, "<colgroup span=\"%d\"></colgroup>\n", s.last-s.first+1)
	}
	_, _ = p.w.WriteString("<thead>\n<tr class=\"top\"><th class=\"corner\" rowspan=\"2\">from &#x2193; &#xa0; to &#x2192;</th>")
	for _, s := range spans {
		// A name that is wider than its columns would spread them.
		columns, class := s.last-s.first+1, ""
		if utf8.RuneCountInString(s.namespace)*8+16 > columns*26 {
			class = ` class="v"`
		}
		fmt.Fprintf(p.w, `<th class="g e" scope="colgroup" colspan="%d"><span%s>%s</span></th>`, columns, class, escape(s.namespace))
	}
	_, _ = p.w.WriteString("</tr>\n<tr class=\"names\">")
	for _, s := range spans {
		for i := s.first; i <= s.last; i++ {
			r := &p.m.Rows[i]
			ports := ""
			if p.m.Asked == "" {
				ports = " <small>" + escape(r.portLabel()) + "</small>"
			}
			fmt.Fprintf(p.w, `<th class="p%s" scope="col" title="%s"><span class="v">%s%s</span></th>`,
				edge(i == s.last), escape(r.tooltip()), escape(r.label()), ports)
		}
	}
	_, _ = p.w.WriteString("</tr>\n</thead>\n")
	for _, s := range spans {
		fmt.Fprintf(p.w, "<tbody>\n<tr class=\"g\"><th class=\"g\" scope=\"rowgroup\">%s</th><td colspan=\"%d\"></td></tr>\n", escape(s.namespace), len(p.m.Rows))
		for i := s.first; i <= s.last; i++ {
			p.row(i, spans)
		}
		_, _ = p.w.WriteString("</tbody>\n")
	}
	_, _ = p.w.WriteString("</table>\n</div>\n")
}

// edge marks the last column of a namespace.
func edge(last bool) string {
	if last {
		return " e"
	}
	return ""
}

// tooltip lists what a head has no room for.
func (r *Row) tooltip() string {
	text := r.Kind + " " + r.String()
	if r.Kind != KindPod {
		text += "\npods: " + strings.Join(r.Pods, ", ")
	}
	if len(r.Ports) > 0 {
		text += "\nasked about " + portWords(r.Ports)
	}
	return text
}

func (p *page) row(from int, spans []span) {
	r := &p.m.Rows[from]
	fmt.Fprintf(p.w, `<tr><th class="r" scope="row" title="%s">%s</th>`, escape(r.tooltip()), escape(r.label()))
	for _, s := range spans {
		for to := s.first; to <= s.last; to++ {
			state := p.m.State(from, to)
			fmt.Fprintf(p.w, `<td class="%s%s" title="%s" aria-label="%s">%s</td>`,
				classes[state], edge(to == s.last), escape(p.m.tooltip(from, to)), state, glyphs[state])
		}
	}
	_, _ = p.w.WriteString("</tr>\n")
}

// remarks explains below the table what takes more than a glyph.
func (p *page) remarks() {
	const most = 200
	list, more := p.m.remarks(most)
	if len(list) == 0 {
		return
	}
	_, _ = p.w.WriteString("<h2>Mixed and undefined</h2>\n<dl>\n")
	for _, r := range list {
		fmt.Fprintf(p.w, "<dt>%s %s</dt>\n", glyphs[r.state], escape(r.String()))
		for i := range r.answers {
			fmt.Fprintf(p.w, "<dd>%s</dd>\n", escape(r.answers[i].String()))
		}
	}
	_, _ = p.w.WriteString("</dl>\n")
	if more > 0 {
		fmt.Fprintf(p.w, "<p>and %d more cells</p>\n", more)
	}
}

// pageScript marks the head of the column that is pointed at. Nothing else needs it.
const pageScript = `<script>
(function(){var now=null,heads=document.querySelectorAll("tr.names th");
document.addEventListener("mouseover",function(e){var c=e.target.closest("td[title]");
if(now){now.classList.remove("now");now=null}
if(c){now=heads[c.cellIndex-1];now.classList.add("now")}})})();
</script>
`
