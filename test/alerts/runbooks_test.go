package alerts

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const runbooks = "https://github.com/pathproof/pathproof/blob/main/docs/alerts.md#"

var (
	section = regexp.MustCompile(`(?m)^## (Pathproof\w+)$`)
	// parts are what whoever is paged looks for, in this order.
	parts = []string{"**Meaning.**", "**Impact.**", "**First steps.**", "**Likely causes.**", "**Silencing.**"}
)

// Every alert has a runbook that its annotation leads to, and every runbook an alert.
func TestEveryAlertHasARunbook(t *testing.T) {
	text := string(read(t, root+"/docs/alerts.md"))
	sections := map[string]string{}
	places := section.FindAllStringSubmatchIndex(text, -1)
	for i, m := range places {
		end := len(text)
		if i+1 < len(places) {
			end = places[i+1][0]
		}
		sections[text[m[2]:m[3]]] = text[m[1]:end]
	}
	parsed, _ := groups(t)
	var alerts []string
	for _, g := range parsed.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			alerts = append(alerts, r.Alert)
			for _, a := range []string{"summary", "description", "runbook_url"} {
				if strings.TrimSpace(r.Annotations[a]) == "" {
					t.Errorf("%s has no %s", r.Alert, a)
				}
			}
			if got, want := r.Annotations["runbook_url"], runbooks+strings.ToLower(r.Alert); got != want {
				t.Errorf("%s leads to %s, want %s", r.Alert, got, want)
			}
			if s := r.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s has the severity %q", r.Alert, s)
			}
			body, ok := sections[r.Alert]
			if !ok {
				t.Errorf("docs/alerts.md has no section %s", r.Alert)
				continue
			}
			checkRunbook(t, r.Alert, body, r.Labels["severity"], time.Duration(r.For))
		}
	}
	if len(alerts) < 5 {
		t.Fatalf("found %d alerts: the test looks in the wrong place", len(alerts))
	}
	for name := range sections {
		if !slices.Contains(alerts, name) {
			t.Errorf("docs/alerts.md has a section for %s, which is no alert", name)
		}
	}
}

func checkRunbook(t *testing.T, name, body, severity string, wait time.Duration) {
	t.Helper()
	at := 0
	for _, p := range parts {
		i := strings.Index(body[at:], p)
		if i < 0 {
			t.Errorf("the runbook of %s has no part %q where it belongs", name, p)
			return
		}
		at += i
	}
	if !strings.Contains(body, "```\nkubectl ") {
		t.Errorf("the runbook of %s has no command", name)
	}
	if !strings.Contains(body, "`"+severity+"`") {
		t.Errorf("the runbook of %s does not say that it is %s", name, severity)
	}
	if minutes := int(wait.Minutes()); minutes > 1 && !strings.Contains(body, (time.Duration(minutes) * time.Minute).String()[:1]+" minutes") {
		t.Errorf("the runbook of %s does not say that it waits for %s", name, wait)
	}
}
