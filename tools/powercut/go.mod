module github.com/stele-wal/stele/tools/powercut

go 1.26.0

replace github.com/stele-wal/stele => ../..

require (
	github.com/hanwen/go-fuse/v2 v2.12.1
	github.com/stele-wal/stele v0.0.0-00010101000000-000000000000
	golang.org/x/sys v0.49.0
)

require github.com/klauspost/crc32 v1.3.0 // indirect
