module github.com/stele-wal/stele/tools/waldump

go 1.26.0

require github.com/stele-wal/stele v0.0.0

replace github.com/stele-wal/stele => ../..
