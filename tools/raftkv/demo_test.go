package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

func TestTheDemoTellsItsStagesInLinesWhereThereIsNoTerminal(t *testing.T) {
	t.Setenv(beRaftkv, "1") // its members are this program
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	t.Setenv("TMPDIR", t.TempDir())
	var out bytes.Buffer
	if err := demo(ctx, &out, false); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if strings.ContainsAny(out.String(), "\r\x1b") {
		t.Errorf("it writes over what it wrote: %q", out.String())
	}
	for _, stage := range []string{"three members run", "SIGKILL to", "writes go on", "starts again", "writes acknowledged", "is on all three members"} {
		if strings.Count(out.String(), stage) < 1 {
			t.Errorf("nothing says %q:\n%s", stage, out.String())
		}
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v (%v)", left, err)
	}
}
