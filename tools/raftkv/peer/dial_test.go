package peer

import (
	"net"
	"testing"
)

func listener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// unused returns an address at which no process listens.
func unused(t *testing.T) string {
	t.Helper()
	l := listener(t)
	defer l.Close()
	return l.Addr().String()
}

func TestAPeerIsReachedAtWhicheverOfItsURLsAnswers(t *testing.T) {
	a, b := newSide(t, self, 0), newSide(t, other, 0)
	elsewhere := unused(t)
	a.transport.SetPeer(other, []string{"http://" + unused(t), "http://" + elsewhere, b.url(), "http://" + unused(t)})
	talking(t, a, b, other)
	b.end()
	wait(t, "the loss to be noticed", a.unreachable)
	b.address = elsewhere // it comes back at another of them
	b.listen(t)
	talking(t, a, b, other)
}

func TestOneUselessURLIsAnErrorOfAll(t *testing.T) {
	for _, urls := range [][]string{{"http://a:1", "b:1"}, {"http://a:1", "https://b:1"}} {
		if c, err := dialAll(urls, nil); err == nil {
			c.Close()
			t.Errorf("%q are taken", urls)
		}
	}
}

func TestAMemberIsAskedAtWhicheverOfItsURLsAnswers(t *testing.T) {
	b := newSide(t, other, 0)
	info, err := Ask(t.Context(), "http://"+unused(t)+","+b.url(), nil)
	if err != nil || info.ClusterID != testCluster {
		t.Errorf("%+v, %v", info, err)
	}
	if _, err := Ask(t.Context(), "http://"+unused(t)+",http://"+unused(t), nil); err == nil {
		t.Error("there was an answer")
	}
}
