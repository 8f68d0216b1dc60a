module github.com/stele-wal/stele/tools/waldump

go 1.26.0

require (
	github.com/spf13/cobra v1.10.2
	github.com/stele-wal/stele v0.0.0
)

require (
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/klauspost/crc32 v1.3.0 // indirect
	github.com/spf13/pflag v1.0.9 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/stele-wal/stele => ../..
