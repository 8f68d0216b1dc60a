package member

import (
	"slices"
	"strings"
	"testing"
)

func TestURLsAreAHostAndAPort(t *testing.T) {
	got, err := ParseURLs([]string{"https://b:2", " HTTP://a:1", "http://[::1]:65535"})
	if want := []string{"http://[::1]:65535", "http://a:1", "https://b:2"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{
		"", "a:1", "localhost:2379", "127.0.0.1:2379", "ftp://a:1", "unix://a:1", "unixs:///tmp/s", "://a:1",
		"http://", "http://a", "http://:1", "http://a:", "http://a:0", "http://a:65536", "http://a:http", "http://a:-1", "http://%", "http://a b:1",
		"http://a:1/", "http://a:1/b", "http://a:1?b", "http://a:1?", "http://a:1#b", "http://u@a:1", "http:a:1",
	} {
		got, err := ParseURLs([]string{"http://a:1", bad})
		if err == nil {
			t.Errorf("%q: %v", bad, got)
		} else if !strings.Contains(err.Error(), bad) || !strings.Contains(err.Error(), "as in http") {
			t.Errorf("%q: the error does not name it, or does not say how it should be: %v", bad, err)
		}
	}
	if _, err := ParseURLs(nil); err == nil {
		t.Error("no URLs at all")
	}
}

func TestOnlyAnAddressOfThisMachineIsListenedAt(t *testing.T) {
	for _, good := range []string{"http://localhost:1", "http://127.0.0.1:1", "https://0.0.0.0:1", "http://[::]:1"} {
		if _, err := ParseListenURLs([]string{good}); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"http://example.com:1", "localhost:1", "http://:1", "unix://a"} {
		if got, err := ParseListenURLs([]string{"http://localhost:1", bad}); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v, %v", bad, got, err)
		}
	}
}
