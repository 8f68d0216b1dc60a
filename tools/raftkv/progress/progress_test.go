package progress

import (
	"bytes"
	"testing"
)

func TestOnlyATerminalHasALineThatChanges(t *testing.T) {
	for _, test := range []struct {
		terminal bool
		want     string
	}{
		{false, "one begins\ndone\ntwo begins\n"},
		{true, "one begins\r\x1b[K1 %\r\x1b[K2 %\r\x1b[Kdone\ntwo begins\r\x1b[K"},
	} {
		var b bytes.Buffer
		p := To(&b)
		if p.terminal {
			t.Error("a buffer is taken for a terminal")
		}
		p.terminal = test.terminal
		p.Stage("%s begins", "one")
		p.Show("%d %%", 1)
		p.Show("%d %%", 2)
		p.Say("done")
		p.Stage("%s begins", "two")
		p.Clear()
		p.Clear()
		if got := b.String(); got != test.want {
			t.Errorf("terminal %v: %q, want %q", test.terminal, got, test.want)
		}
	}
}
