package check

import (
	"encoding/xml"
	"fmt"
)

// The elements of JUnit's format that test reporters agree on.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		File    string        `xml:"file,attr,omitempty"`
		Line    int           `xml:"line,attr,omitempty"`
		Failure *junitMessage `xml:"failure,omitempty"`
		Error   *junitMessage `xml:"error,omitempty"`
	}
	junitMessage struct {
		Type    string `xml:"type,attr"`
		Message string `xml:"message,attr"`
	}
)

// JUnit renders the report as JUnit XML: drift is a failure; what is undetermined,
// and bad input, is an error.
func (r *Report) JUnit() ([]byte, error) {
	out := junitSuites{Name: "pathproof"}
	for _, row := range r.Rows {
		if n := len(out.Suites); n == 0 || out.Suites[n-1].Name != row.Expectation {
			out.Suites = append(out.Suites, junitSuite{Name: row.Expectation})
		}
		c := junitCase{Class: row.Expectation + "." + row.Path, Name: fmt.Sprintf("%s: %s to %s %s is %s", row.Path, row.From, row.To, row.Port, declaredState(row.Declared)), File: row.File, Line: row.Line}
		message := &junitMessage{Type: string(row.Result), Message: row.message()}
		switch row.Result {
		case Drift:
			c.Failure = message
		case Undetermined:
			c.Error = message
		case Holds:
		}
		out.Suites[len(out.Suites)-1].add(c)
	}
	input := junitSuite{Name: "input"}
	for _, p := range r.Problems {
		input.add(junitCase{Class: "input", Name: p, Error: &junitMessage{Type: "BadInput", Message: p}})
	}
	for _, k := range r.Unmodelled {
		input.add(junitCase{Class: "input", Name: k, Error: &junitMessage{Type: string(Undetermined), Message: "not evaluated: " + k}})
	}
	if input.Tests > 0 {
		out.Suites = append(out.Suites, input)
	}
	for _, s := range out.Suites {
		out.Tests, out.Failures, out.Errors = out.Tests+s.Tests, out.Failures+s.Failures, out.Errors+s.Errors
	}
	text, err := xml.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the report: %w", err)
	}
	return append([]byte(xml.Header), append(text, '\n')...), nil
}

func (s *junitSuite) add(c junitCase) {
	s.Cases = append(s.Cases, c)
	s.Tests++
	if c.Failure != nil {
		s.Failures++
	}
	if c.Error != nil {
		s.Errors++
	}
}

// declaredState puts a declaration into a word about the path.
func declaredState(declared string) string {
	if declared == "Allow" {
		return "open"
	}
	return "closed"
}

// message says in a sentence what is wrong with a row.
func (r *Row) message() string {
	return fmt.Sprintf("%s to %s %s is declared %s and predicted %s: %s", r.From, r.To, r.Port, r.Declared, r.Predicted, r.Why)
}
