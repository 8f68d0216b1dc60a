// Waldump shows, checks and repairs write-ahead logs in etcd's format: those of etcd members of any
// version from 3.0 on, and those that package wal writes.
//
//	waldump dump PATH           print every record
//	waldump verify PATH         say whether the log is whole, and if not, where and what to do
//	waldump info PATH           say what is in it
//	waldump repair PATH         say what a repair would remove; with --apply, do it
//
// PATH is the directory of a log, the data directory of an etcd member, one segment, or a .tar.gz
// of any of these. All commands but repair --apply only read, and may be used on the log of a
// member that is running.
//
// The exit code says what the log is: 0 clean, 1 a torn end as a crash leaves it, 2 corrupt or
// incomplete, 3 it could not be read or is no log. A mistake on the command line is 64.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/stele-wal/stele/fileutil"
	"github.com/stele-wal/stele/wal"
)

// Exit codes.
const (
	exitClean   = 0
	exitTorn    = 1  // a crash left an unfinished batch at the end
	exitCorrupt = 2  // what was durable is damaged or gone
	exitFailed  = 3  // the log could not be read or is none
	exitUsage   = 64 // EX_USAGE of sysexits.h
)

func main() {
	a := &app{stdout: os.Stdout, stderr: os.Stderr, fs: fileutil.OS{}}
	// When the reader of the output exits, as head does, a write fails. To die of the signal
	// instead would leave an unpacked archive.
	signal.Ignore(syscall.SIGPIPE)
	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-stopped
		a.cleanUp()
		os.Exit(130)
	}()
	os.Exit(a.run(os.Args[1:]))
}

// run is the whole program, as tests call it.
func run(args []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: stderr, fs: fileutil.OS{}}
	return a.run(args)
}

// app is one run of the program.
type app struct {
	stdout, stderr io.Writer
	fs             fileutil.FS
	code           int // what the log is, once that is known

	mu       sync.Mutex
	unpacked string // a temporary directory, to be removed at the end
}

// failure is an error that says what to do next. Its code is the program's.
type failure struct {
	code int
	err  error
	next string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// run runs one command and returns the exit code.
func (a *app) run(args []string) int {
	defer a.cleanUp()
	root := a.commands()
	root.SetArgs(args)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.Execute()
	var f *failure
	switch {
	case err == nil:
		return a.code
	case errors.Is(err, syscall.EPIPE):
		return a.code // the reader of the output has seen enough
	case errors.As(err, &f):
		fmt.Fprintf(a.stderr, "waldump: %v\n", f.err)
		if f.next != "" {
			fmt.Fprintf(a.stderr, "next: %s\n", f.next)
		}
		return f.code
	}
	fmt.Fprintf(a.stderr, "waldump: %v\nnext: waldump --help\n", err)
	return exitUsage
}

func (a *app) commands() *cobra.Command {
	root := &cobra.Command{
		Use:   "waldump",
		Short: "Show, check and repair write-ahead logs in etcd's format",
		Long: `Waldump shows, checks and repairs write-ahead logs in etcd's format: those of etcd
members of any version from 3.0 on, and those that stele writes.

PATH is the directory of a log, the data directory of an etcd member, one segment
(*.wal), or a .tar.gz of any of these; what follows the name of an archive is a
directory inside it. All commands but "repair --apply" only read, and may be used
on the log of a member that is running.

Exit codes, of every command:
   0  clean
   1  a torn end: a crash left an unfinished batch, and nothing durable is lost
   2  corrupt, or a segment is missing: what was durable is damaged or gone
   3  it could not be read, or is no log
  64  a mistake on the command line`,
		Example: `  waldump verify /var/lib/etcd
  waldump dump --from 100 --to 120 /var/lib/etcd
  waldump dump -o ndjson member.tar.gz | jq -c 'select(.type == "entry")'`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(a.dumpCommand(), a.verifyCommand(), a.infoCommand(), a.repairCommand(), a.versionCommand())
	return root
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			version, goVersion := "unknown", "unknown"
			if info, ok := debug.ReadBuildInfo(); ok {
				version, goVersion = info.Main.Version, info.GoVersion
			}
			return a.wrote(fmt.Fprintf(a.stdout, "waldump %s %s\n", version, goVersion))
		},
	}
}

// options are those that all commands give to package wal.
func (a *app) options() *wal.Options { return &wal.Options{FS: a.fs} }

// wrote turns the outcome of a write to standard output into the error of a command.
func (a *app) wrote(_ int, err error) error {
	if err != nil {
		return &failure{code: exitFailed, err: err}
	}
	return nil
}

// cleanUp removes what was unpacked.
func (a *app) cleanUp() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unpacked != "" {
		if err := os.RemoveAll(a.unpacked); err != nil {
			fmt.Fprintf(a.stderr, "waldump: %v\n", err)
		}
		a.unpacked = ""
	}
}
