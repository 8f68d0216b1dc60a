// Raftkv is a replicated key-value store on the stele log. It speaks the etcd v3 API, so that
// etcdctl and etcd's client libraries are its clients, and takes etcd's flags. It is there to prove
// the log under a real system; it has no watches, no leases and no users.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func main() {
	root := &cobra.Command{
		Use:           "raftkv",
		Short:         "A replicated key-value store on the stele log that speaks the etcd v3 API",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(serveCommand(), restoreCommand(), demoCommand(), benchCommand())
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "raftkv:", err)
		os.Exit(1)
	}
}
