package crash_test

import (
	"fmt"

	"github.com/stele-wal/stele/fuzz/crash"
)

// A campaign on a disk that keeps its word finds nothing; on one that does not, it finds what is
// lost by that.
func Example() {
	r, err := crash.Run(crash.Config{Seed: 1, States: 500})
	fmt.Println(r.Bad(), err)

	for _, s := range crash.Saboteurs() {
		if s.Name == "no data is synced" {
			r, err = crash.Run(crash.Config{Seed: 1, States: 500, Saboteur: &s})
			fmt.Println(r.Bad(), err != nil)
		}
	}
	// Output:
	// 0 <nil>
	// 1 true
}
