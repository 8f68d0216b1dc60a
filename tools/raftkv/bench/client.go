package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// A Workload is what the clients do, as arguments of etcd's benchmark tool.
type Workload struct {
	Name string
	Args []string
}

// Sizes of what is written and read, in bytes, and how many keys random puts choose from.
const (
	keySize   = 8
	valueSize = 256
	keySpace  = 100_000
)

// readKey is the key that reads ask for.
const readKey = "read-key"

// Workloads are those that there are, in the order in which they run.
var Workloads = []Workload{
	{"put", put("--key-space-size", strconv.Itoa(keySpace))},
	{"put sequential", put("--key-space-size", strconv.Itoa(1<<40), "--sequential-keys")},
	{"read linearizable", []string{"range", readKey, "--consistency", "l"}},
	{"read serializable", []string{"range", readKey, "--consistency", "s"}},
}

func put(args ...string) []string {
	return append([]string{"put", "--key-size", strconv.Itoa(keySize), "--val-size", strconv.Itoa(valueSize)}, args...)
}

// A Figure is what one run of a workload gave.
type Figure struct {
	Rate float64       // operations a second
	P99  time.Duration // of an operation
	CPU  time.Duration // of all servers together, for one operation
}

// run has clients do a workload, total operations of it, and returns what the tool says and how
// much processor time the servers took.
func (c *cluster) run(ctx context.Context, tool string, w Workload, clients, total int) (Figure, error) {
	args := append(w.Args[:len(w.Args):len(w.Args)], "--endpoints", c.endpoints(), "--target-leader", "--precise",
		"--clients", strconv.Itoa(clients), "--conns", strconv.Itoa(connections(clients)), "--total", strconv.Itoa(total))
	cmd := exec.CommandContext(ctx, tool, args...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	before, err := c.cpu()
	if err != nil {
		return Figure{}, err
	}
	if err := cmd.Run(); err != nil {
		return Figure{}, fmt.Errorf("benchmark %s: %w\n%s", strings.Join(args, " "), err, problems.Bytes())
	}
	after, err := c.cpu()
	if err != nil {
		return Figure{}, err
	}
	f, err := parseReport(out.Bytes())
	if err != nil {
		return Figure{}, fmt.Errorf("benchmark %s: %w\n%s", strings.Join(args, " "), err, out.Bytes())
	}
	f.CPU = (after - before) / time.Duration(total)
	return f, nil
}

// connections is how many connections clients share: eight each, as processes with a few goroutines
// do.
func connections(clients int) int { return (clients + 7) / 8 }

// parseReport reads what the benchmark tool prints. A report of errors is an error: what was not
// done must not count as fast.
func parseReport(report []byte) (Figure, error) {
	var f Figure
	var err error
	lines := bufio.NewScanner(bytes.NewReader(report))
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch {
		case len(words) == 2 && words[0] == "Requests/sec:":
			if f.Rate, err = strconv.ParseFloat(words[1], 64); err != nil {
				return f, err
			}
		case len(words) == 4 && words[0] == "99%" && words[1] == "in":
			seconds, err := strconv.ParseFloat(words[2], 64)
			if err != nil {
				return f, err
			}
			f.P99 = time.Duration(seconds * float64(time.Second))
		case len(words) > 0 && words[0] == "Error":
			return f, errors.New("some operations failed")
		}
	}
	if f.Rate == 0 || f.P99 == 0 {
		return f, errors.New("no rate or no 99th percentile in the report")
	}
	return f, lines.Err()
}
