package check

import (
	"encoding/json"
	"fmt"
	"path/filepath"
)

// The parts of SARIF 2.1.0 that code hosts show.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool        sarifTool         `json:"tool"`
		Invocations []sarifInvocation `json:"invocations"`
		Results     []sarifResult     `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version,omitempty"`
		URI     string      `json:"informationUri"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID    string    `json:"id"`
		Short sarifText `json:"shortDescription"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifInvocation struct {
		Successful bool `json:"executionSuccessful"`
	}
	sarifResult struct {
		RuleID    string          `json:"ruleId"`
		Level     string          `json:"level"`
		Message   sarifText       `json:"message"`
		Locations []sarifLocation `json:"locations,omitempty"`
	}
	sarifLocation struct {
		Physical sarifPhysical `json:"physicalLocation"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   *sarifRegion  `json:"region,omitempty"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine int `json:"startLine"`
	}
)

// SARIF renders what does not hold as SARIF, for code scanning.
func (r *Report) SARIF(version string) ([]byte, error) {
	run := sarifRun{
		Tool: sarifTool{sarifDriver{Name: "pathproof", Version: version, URI: "https://github.com/pathproof/pathproof", Rules: []sarifRule{
			{string(Drift), sarifText{"The policies do not say what was declared"}},
			{string(Undetermined), sarifText{"Whether the policies say what was declared cannot be determined"}},
			{"BadInput", sarifText{"The input cannot be used"}},
		}}},
		Invocations: []sarifInvocation{{Successful: len(r.Problems) == 0}},
		Results:     []sarifResult{},
	}
	for i := range r.Rows {
		row := &r.Rows[i]
		level := map[Outcome]string{Drift: "error", Undetermined: "warning"}[row.Result]
		if level == "" {
			continue
		}
		result := sarifResult{RuleID: string(row.Result), Level: level, Message: sarifText{row.Path + ": " + row.message()}}
		if row.File != "" {
			location := sarifPhysical{Artifact: sarifArtifact{filepath.ToSlash(row.File)}}
			if row.Line > 0 {
				location.Region = &sarifRegion{row.Line}
			}
			result.Locations = []sarifLocation{{location}}
		}
		run.Results = append(run.Results, result)
	}
	for _, p := range r.Problems {
		run.Results = append(run.Results, sarifResult{RuleID: "BadInput", Level: "error", Message: sarifText{p}})
	}
	for _, k := range r.Unmodelled {
		run.Results = append(run.Results, sarifResult{RuleID: string(Undetermined), Level: "warning", Message: sarifText{"not evaluated: " + k}})
	}
	text, err := json.MarshalIndent(sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the report: %w", err)
	}
	return append(text, '\n'), nil
}
