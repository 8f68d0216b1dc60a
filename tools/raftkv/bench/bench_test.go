package bench

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// What the benchmark tool prints, shortened.
const report = `
Summary:
  Total:	0.107313 secs.
  Slowest:	0.0025 secs.
  Average:	0.000535 secs.
  Requests/sec:	1863.7

Response time histogram:
  0.0003 [1]	|
  0.0025 [1]	|

Latency distribution:
  50% in 0.000497 secs.
  99% in 0.00125 secs.
  99.9% in 0.0025 secs.
`

func TestParseReportReadsTheRateAndThe99thPercentile(t *testing.T) {
	f, err := parseReport([]byte(report))
	if want := (Figure{Rate: 1863.7, P99: 1250 * time.Microsecond}); err != nil || f != want {
		t.Errorf("%+v and %v, want %+v", f, err, want)
	}
}

func TestParseReportTakesNoRunInWhichAnythingFailed(t *testing.T) {
	for name, text := range map[string]string{
		"errors":  report + "\nError distribution:\n  [3]\tetcdserver: request timed out\n",
		"no rate": strings.Replace(report, "Requests/sec", "Requests", 1),
		"no p99":  strings.Replace(report, "  99% in", "  98% in", 1),
		"no sum":  strings.Replace(report, "1863.7", "NaN?", 1),
		"nothing": "",
	} {
		if f, err := parseReport([]byte(text)); err == nil {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

func TestATableHasTheMedianOfTheRatiosNotTheRatioOfTheMedians(t *testing.T) {
	table := Table{systems: [2]System{{Name: "a"}, {Name: "b"}}}
	at := cell{"put", 3, 16}
	for _, rates := range [][2]float64{{100, 300}, {400, 200}, {1000, 1000}} {
		table.add(at, [2]Figure{{rates[0], time.Millisecond, time.Microsecond}, {rates[1], 2 * time.Millisecond, 3 * time.Microsecond}})
	}
	table.add(cell{"put", 3, 256}, [2]Figure{{1, 1, 1}, {1, 1, 1}})
	var b strings.Builder
	if _, err := table.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	want := "| put | 3 | 16 | 400 | 300 | 1.00 | 1.00 ms | 2.00 ms | 2.00 | 1 µs | 3 µs | 3.00 |"
	if len(lines) != 4 || lines[2] != want {
		t.Errorf("%q, want a third line of %q", lines, want)
	}
	if m := median([]float64{4, 1, 2, 9}); m != 3 {
		t.Errorf("the median of 1, 2, 4 and 9 is %g", m)
	}
}

func TestProcessTimeCountsWhatAProcessWorks(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: processor times are known on Linux only")
	}
	read := func() time.Duration {
		d, err := processTime(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	before, began := read(), time.Now()
	for read() < before+200*time.Millisecond {
		if time.Since(began) > time.Minute {
			t.Fatalf("%v of processor time in a minute of work", read()-before)
		}
	}
	if took, limit := time.Since(began), 200*time.Millisecond/time.Duration(runtime.NumCPU()); took < limit-20*time.Millisecond {
		t.Errorf("%v of processor time in %v on %d processors", 200*time.Millisecond, took, runtime.NumCPU())
	}
}
