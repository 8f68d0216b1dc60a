package bench

import (
	"cmp"
	"fmt"
	"os"
	"runtime"
	"time"
)

// A Machine is the state of the machine since a moment.
type Machine struct {
	began     time.Time
	busy, own time.Duration
	platform  string
}

// Watch returns the state of the machine from now on.
func Watch() (*Machine, error) {
	m := &Machine{began: time.Now(), platform: platform()}
	var err error
	if m.busy, err = busy(); err != nil {
		return nil, err
	}
	m.own, err = own()
	return m, err
}

// Describe says what a reader of figures has to know of the machine that they come from, and how
// busy others have kept it meanwhile. dir is where the members wrote.
func (m *Machine) Describe(dir string) (string, error) {
	b, err := busy()
	if err != nil {
		return "", err
	}
	o, err := own()
	if err != nil {
		return "", err
	}
	dir = cmp.Or(dir, os.TempDir())
	all := time.Since(m.began) * time.Duration(runtime.NumCPU())
	others := max(0, (b-m.busy)-(o-m.own))
	text := fmt.Sprintf("%d processors, %s, %s before; others took %.0f %% of them meanwhile; the members wrote below %s",
		runtime.NumCPU(), runtime.Version(), m.platform, 100*float64(others)/float64(all), dir)
	if inMemory(dir) {
		text += ", WHICH IS IN MEMORY: a sync means nothing there, and the rates of puts mean nothing either"
	}
	return text, nil
}
