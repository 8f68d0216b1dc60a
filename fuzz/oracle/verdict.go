package oracle

import (
	"fmt"
)

// A Verdict is what kind of failure a failure is.
type Verdict string

// The verdicts of a campaign; see the package.
const (
	Refused  Verdict = "refused"
	Lost     Verdict = "lost"
	Invented Verdict = "invented"
)

// Failure is what went wrong, before the history knows of it.
type Failure struct {
	Verdict Verdict
	Detail  string
}

func (f *Failure) Error() string { return string(f.Verdict) + ": " + f.Detail }

func Failf(v Verdict, format string, args ...any) error {
	return &Failure{v, fmt.Sprintf(format, args...)}
}
