package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit in which Linux gives processor times to programs, on every architecture that Go
// has.
const tick = 10 * time.Millisecond

// tmpfs is what the type of a file system in memory looks like in statfs.
const tmpfs = 0x01021994

// processTime returns the processor time that a process has used.
func processTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The program's name comes second, in brackets, and may hold anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	const user, system = 14 - 3, 15 - 3
	return ticks(fields[user], fields[system])
}

func ticks(fields ...string) (time.Duration, error) {
	var sum time.Duration
	for _, f := range fields {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// busy returns how long the processors together were not idle, since the machine started; what its
// host took from it counts.
func busy() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	// The line is: cpu user nice system idle iowait irq softirq steal.
	fields := strings.Fields(string(b[:bytes.IndexByte(b, '\n')]))
	return ticks(fields[1], fields[2], fields[3], fields[6], fields[7], fields[8])
}

// own returns the processor time of this process and of those that it has waited for.
func own() (time.Duration, error) {
	var sum time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			return 0, err
		}
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum, nil
}

// inMemory reports whether a directory is on a file system to which a sync means nothing.
func inMemory(dir string) bool {
	var s syscall.Statfs_t
	return syscall.Statfs(dir, &s) == nil && s.Type == tmpfs
}

// platform says what the machine runs, and how loaded it is.
func platform() string {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	load, _ := os.ReadFile("/proc/loadavg")
	short := strings.Fields(string(load))
	return fmt.Sprintf("Linux %s, load average %s", bytes.TrimSpace(release), strings.Join(short[:min(3, len(short))], " "))
}
