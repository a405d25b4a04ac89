package diagnosis

import (
	"bufio"
	"fmt"
	"html"
	"io"
	"strings"

	"github.com/pathproof/pathproof/canary"
)

// pageStyle keeps words in front: cells are told apart by their words and borders, and
// colours only help.
const pageStyle = `
:root{color-scheme:light dark}
body{margin:1.5rem;font:14px/1.5 system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;max-width:80rem}
h1{font-size:1.25rem}
h2{font-size:1rem;margin:1.2rem 0 .3rem}
p.verdict{font-size:1.1rem;border:2px solid;border-left-width:.6rem;padding:.5rem .8rem}
.frame{overflow:auto;margin:1rem 0}
table{border-collapse:collapse}
th,td{border:1px solid #8b949e;padding:.3rem .5rem;text-align:left;vertical-align:top}
td p{margin:0;font-size:12px;max-width:22rem}
td.NotEnforced,p.NotEnforced{border:3px solid #c2410c}
td.NotEnforced b{text-decoration:underline}
td.Unknown{border:2px dashed #8a6d00}
td.Unsupported{font-style:italic}
ul{margin:.2rem 0;padding-left:1.2rem}
@media print{.frame{overflow:visible}}
`

// HTML writes the report as a page that needs no other file.
func (r *Report) HTML(out io.Writer) error {
	w := bufio.NewWriter(out)
	fmt.Fprintf(w, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n")
	fmt.Fprintf(w, "<title>Are NetworkPolicies enforced?</title>\n<style>%s</style>\n</head>\n<body>\n<h1>Are NetworkPolicies enforced?</h1>\n", pageStyle)
	fmt.Fprintf(w, "<p class=\"verdict %s\"><b>%s.</b> %s</p>\n", r.Verdict, verdictWords(r.Verdict), html.EscapeString(r.Summary))
	fmt.Fprintf(w, "<ul>\n<li>Cluster: %s, %s</li>\n", html.EscapeString(r.Server), r.StartedAt.Format("2006-01-02 15:04:05 UTC"))
	if len(r.Nodes) > 0 {
		fmt.Fprintf(w, "<li>Network: %s</li>\n<li>Tested: %s</li>\n", html.EscapeString(r.networkWords()), r.testedWords())
	}
	fmt.Fprint(w, "</ul>\n")
	if len(r.Nodes) > 0 {
		r.pageTable(w)
	}
	for _, s := range r.sections() {
		fmt.Fprintf(w, "<h2>%s</h2>\n<ul>\n", s.title)
		for _, line := range s.lines {
			fmt.Fprintf(w, "<li>%s</li>\n", html.EscapeString(line))
		}
		fmt.Fprint(w, "</ul>\n")
	}
	fmt.Fprint(w, "</body>\n</html>\n")
	return w.Flush()
}

func verdictWords(v canary.Verdict) string {
	switch v {
	case canary.Enforced:
		return "Yes"
	case canary.NotEnforced:
		return "No"
	default:
		return "Unknown"
	}
}

// pageTable writes a row for each node and a column for each feature, with the reasons in
// the cells.
func (r *Report) pageTable(w *bufio.Writer) {
	fmt.Fprint(w, "<div class=\"frame\" tabindex=\"0\" role=\"region\" aria-label=\"Nodes and features\">\n<table>\n<thead>\n<tr><th scope=\"col\">Node</th>")
	for _, f := range r.Features {
		fmt.Fprintf(w, "<th scope=\"col\">%s</th>", f)
	}
	fmt.Fprint(w, "</tr>\n</thead>\n<tbody>\n")
	for i := range r.Nodes {
		n := &r.Nodes[i]
		fmt.Fprintf(w, "<tr><th scope=\"row\">%s</th>", html.EscapeString(n.Name))
		for _, f := range r.Features {
			c := n.cell(f)
			fmt.Fprintf(w, "<td class=\"%s\"><b>%s</b>", c.verdict, c.text)
			for _, row := range n.Rows {
				if row.Feature == f && row.Reason != "" {
					fmt.Fprintf(w, "<p>%s: %s</p>", strings.ToLower(string(row.Direction)), html.EscapeString(row.Reason))
				}
			}
			fmt.Fprint(w, "</td>")
		}
		fmt.Fprint(w, "</tr>\n")
	}
	fmt.Fprint(w, "</tbody>\n</table>\n</div>\n")
}
