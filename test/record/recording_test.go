package main

import (
	"math"
	"testing"
)

// missing is a scrape without the series, and late one that was not made.
var missing, skipped = math.NaN(), math.Inf(-1)

func TestNotation(t *testing.T) {
	for want, values := range map[string][]float64{
		"1":                         {1},
		"1+0x3":                     {1, 1, 1, 1},
		"5+5x2 0+5x1":               {5, 10, 15, 0, 5},
		"9-3x3":                     {9, 6, 3, 0},
		"_x2 1+0x1":                 {missing, missing, 1, 1},
		"1+0x1 stale _x2 3":         {1, 1, missing, missing, missing, 3},
		"1 stale 1 stale":           {1, missing, 1, missing},
		"3+1x1 +Inf +Inf +Inf 5":    {3, 4, math.Inf(1), math.Inf(1), math.Inf(1), 5},
		"1 _ stale":                 {1, skipped, missing},
		"1+0x1 _ 1+0x1 stale _ _x1": {1, 1, skipped, 1, 1, missing, skipped, missing},
		"_ _x1 1":                   {skipped, missing, 1},
		"_x3":                       {missing, missing, missing},
	} {
		var views []view
		for _, value := range values {
			v := view{"y": 1}
			switch {
			case math.IsInf(value, -1):
				v = nil
			case !math.IsNaN(value):
				v["x"] = value
			}
			views = append(views, v)
		}
		if got := notation("x", views); got != want {
			t.Errorf("got %q of %v, want %q", got, values, want)
		}
	}
}

func TestViews(t *testing.T) {
	v := view{`a{job="j",x="1"}`: 1, `a{job="j",x="2"}`: 2, `ab{x="1"}`: 9}
	if n, m := v.count([]string{"a{"}), v.max([]string{"a{"}); n != 2 || m != 2 {
		t.Errorf("got %d series of at most %v, want 2 of 2", n, m)
	}
	if n := v.count([]string{"a{", label("job", "j")}, label("x", "1")); n != 1 {
		t.Errorf("got %d series with both labels", n)
	}
	if m := v.max([]string{"c{"}); m != 0 {
		t.Errorf("got %v of no series", m)
	}
}
