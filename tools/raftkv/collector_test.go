package main

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/stele-wal/stele/tools/raftkv/peer"
)

func TestAMemberWithLittleStateIsNotKeptBusyByTheCollector(t *testing.T) {
	c := newCluster(t, raftkv(), 1, 0)
	c.start()
	conn, err := peer.Dial(c.members["n1"].client, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	metric := func(name string) float64 {
		response, err := http.Get(c.members["n1"].client + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(text)
		if found == nil {
			t.Fatalf("no metric %s", name)
		}
		v, err := strconv.ParseFloat(string(found[1]), 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	const allocated, collections = "go_memstats_alloc_bytes_total", "go_gc_duration_seconds_count"
	if resident := metric("process_resident_memory_bytes"); resident > ballastSize {
		t.Errorf("%.0f bytes resident at the start: the ballast takes memory", resident)
	}
	bytes, count := metric(allocated), metric(collections)
	value := make([]byte, 16<<10)
	for metric(allocated) < bytes+ballastSize {
		for range 50 {
			if _, err := pb.NewKVClient(conn).Put(context.Background(), &pb.PutRequest{Key: []byte("k"), Value: value}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := metric(collections) - count; n > 3 {
		t.Errorf("%.0f collections for %.0f bytes of garbage", n, metric(allocated)-bytes)
	}
}
