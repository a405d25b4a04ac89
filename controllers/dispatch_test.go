package controllers

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestWritesGoSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var list []int
		for i := range 2*maxWrites + 1 {
			list = append(list, i)
		}
		bad := errors.New("odd")
		start := time.Now()
		errs := sideBySide(list, func(i int) error {
			time.Sleep(time.Second)
			if i%2 == 1 {
				return fmt.Errorf("%d: %w", i, bad)
			}
			return nil
		})
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("%d writes of a second took %v, want 3s: %d at a time", len(list), took, maxWrites)
		}
		for i, err := range errs {
			if odd := i%2 == 1; odd != errors.Is(err, bad) || (odd && err.Error() != fmt.Sprintf("%d: odd", i)) {
				t.Errorf("write %d ended with %v", i, err)
			}
		}
		if errs := sideBySide(nil, func(int) error { return bad }); len(errs) != 0 {
			t.Errorf("nothing to write ended with %v", errs)
		}
	})
}
