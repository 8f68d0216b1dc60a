package peer

import (
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// proxied names the environment variable in which a test that starts itself anew says where to
// dial: the environment's proxies are read once.
const proxied = "RAFTKV_TEST_DIAL"

func TestAMemberIsDialledThroughTheProxyOfTheEnvironment(t *testing.T) {
	if url := os.Getenv(proxied); url != "" {
		_, _ = Ask(t.Context(), url, nil) // what the proxy hears is what is looked at
		return
	}
	asked := make(chan string, 10)
	proxy := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case asked <- r.Method + " " + r.Host:
		default:
		}
		w.WriteHeader(http.StatusForbidden)
	})}
	l := listener(t)
	go func() { _ = proxy.Serve(l) }()
	defer proxy.Close()
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), proxied+"=http://member.example:2380", "HTTPS_PROXY=http://"+l.Addr().String(), "NO_PROXY=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := wait(t, "the proxy to be asked", asked); !strings.EqualFold(got, "CONNECT member.example:2380") {
		t.Errorf("the proxy is asked to %s", got)
	}
}
