package oracle

import (
	"fmt"
)

// A Verdict is what kind of failure a failure is.
type Verdict string

// The verdicts of all campaigns; see the package.
const (
	Refused  Verdict = "refused"
	Lost     Verdict = "lost"
	Invented Verdict = "invented"
)

// A Failure is a promise that was not kept.
type Failure struct {
	Verdict Verdict
	Detail  string
}

func (f *Failure) Error() string { return string(f.Verdict) + ": " + f.Detail }

// Failf returns a *Failure.
func Failf(v Verdict, format string, args ...any) error {
	return &Failure{v, fmt.Sprintf(format, args...)}
}
