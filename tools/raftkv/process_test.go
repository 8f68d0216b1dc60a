package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/stele-wal/stele/tools/raftkv/peer"
	"github.com/stele-wal/stele/wal"
)

const election = time.Second // as the flags have it

// A member stands for election after one to two election timeouts without a leader, and the first
// one to stand is mostly elected. If two stand at once neither may be, and they begin anew; each
// time the term is counted up. So the claim is two timeouts for each term that it took, and it must
// have taken one in most cases.
func TestAfterALeaderDiesWritesGoOnWithinTwoElectionTimeouts(t *testing.T) {
	c := newCluster(t, raftkv(), 3, 0)
	c.start()
	term := func(name string) uint64 {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s, err := pb.NewMaintenanceClient(c.conn(name)).Status(ctx, &pb.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return s.RaftTerm
	}
	const deaths = 3
	atOnce := 0
	for range deaths {
		lead := c.leads(c.names()...)
		rest := slices.DeleteFunc(c.names(), func(name string) bool { return name == lead })
		for _, name := range rest {
			eventually(t, "a write before", func() bool { return put(c.conn(name), "before", "1", election) == nil })
		}
		before := term(rest[0])
		_ = c.members[lead].end(syscall.SIGKILL)
		began := time.Now()
		for i := 0; ; i++ {
			// A request that comes while there is no leader waits for one.
			if err := put(c.conn(rest[i%2]), "after", "1", 3*election); err == nil {
				break
			}
			if time.Since(began) > enough {
				t.Fatal("no writes")
			}
		}
		took := time.Since(began)
		terms := term(rest[0]) - before
		t.Logf("writes went on after %.2f election timeouts, in which %d leaders were voted for", took.Seconds()/election.Seconds(), terms)
		if terms == 1 {
			atOnce++
		}
		// A clock's step is a tenth.
		if limit := time.Duration(terms)*2*election + 2*election/10; took > limit {
			t.Errorf("writes went on after %v, which is more than %v", took, limit)
		}
		c.start(lead)
	}
	if 2*atOnce < deaths {
		t.Errorf("only %d of %d elections were decided at once", atOnce, deaths)
	}
}

func TestAMemberThatIsToldToStopLosesNoOperationThatIsRetried(t *testing.T) {
	c := newCluster(t, raftkv(), 3, 0)
	c.start()
	c.leads("n1", "n2", "n3")
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var written, worst atomic.Int64
	conns := []*grpc.ClientConn{c.dial("n1"), c.dial("n2"), c.dial("n3")}
	const clientCount = 6
	counts := make([]int, clientCount)
	for id := range clientCount {
		clients.Add(1)
		go func() {
			defer clients.Done()
			for n, at := 0, id; ; n++ {
				select {
				case <-stop:
					counts[id] = n
					return
				default:
				}
				began := time.Now()
				for tries := 0; ; tries++ {
					err := put(conns[at%3], fmt.Sprintf("%d/%d", id, n), "v", 2*time.Second)
					if err == nil {
						break
					}
					at++
					if tries > 20 {
						t.Errorf("after %d attempts: %v", tries, err)
						counts[id] = n
						return
					}
				}
				written.Add(1)
				worst.Store(max(worst.Load(), int64(time.Since(began))))
			}
		}()
	}
	for _, name := range []string{"n1", "n2", "n3"} {
		more := func() {
			target := written.Load() + 200
			eventually(t, "writes", func() bool { return written.Load() >= target })
		}
		more()
		if err := c.members[name].end(syscall.SIGTERM); err != nil {
			t.Errorf("%s ended with %v", name, err)
		}
		more()
		c.start(name)
	}
	close(stop)
	clients.Wait()
	t.Logf("%d writes, of which the slowest took %v", written.Load(), time.Duration(worst.Load()))
	total := 0
	for _, n := range counts {
		total += n
	}
	for i, conn := range conns {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		resp, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true}, grpc.WaitForReady(true))
		cancel()
		if err != nil || resp.Count != int64(total) {
			t.Errorf("member %d has %d keys of %d (%v)", i+1, resp.GetCount(), total, err)
		}
	}
}

// A member that is down when it is removed learns it from the others when it comes back.
func TestAMemberThatWasRemovedWhileItWasDownStops(t *testing.T) {
	c := newCluster(t, raftkv(), 3, 0)
	c.start()
	c.settle()
	c.members["n3"].end(syscall.SIGKILL)
	id := fmt.Sprintf("%x", c.list()["n3"].ID)
	if out := c.ctl("", "member", "remove", id); !strings.Contains(out, "removed") {
		t.Fatal(out)
	}
	c.launch("n3")
	if err := c.ends("n3"); err == nil || !strings.Contains(c.members["n3"].log.String(), "removed from the cluster") {
		t.Errorf("it ended with %v, and does not say why", err)
	}
}

// A member that is killed right after its first start has a log that says whose it is, and nothing
// else.
func TestAMemberWhoseLogIsStillEmptyJoinsAfterARestart(t *testing.T) {
	c := newCluster(t, raftkv(), 1, 1)
	c.start()
	c.settle()
	if err := put(c.conn("n1"), "a", "b", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), enough)
	defer cancel()
	n2 := c.members["n2"]
	added, err := pb.NewClusterClient(c.conn("n1")).MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{n2.peer}, IsLearner: true})
	if err != nil {
		t.Fatal(err)
	}
	metadata, err := proto.Marshal(&pb.Metadata{NodeID: &added.Member.ID, ClusterID: &added.Header.ClusterId})
	if err != nil {
		t.Fatal(err)
	}
	w, err := wal.Create(filepath.Join(n2.dir, "member", "wal"), metadata, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	c.start("n2")
	eventually(t, "n2 to have what n1 has", func() bool {
		r, err := pb.NewKVClient(c.conn("n2")).Range(ctx, &pb.RangeRequest{Key: []byte("a"), Serializable: true})
		return err == nil && r.Count == 1
	})
}

// Each member in turn is killed in the middle of writes, and what was acknowledged is on all three.
func TestKillingMembersLosesNoAcknowledgedWrite(t *testing.T) {
	c := newCluster(t, raftkv(), 3, 0, "--snapshot-count", "300", "--snapshot-catchup-entries", "20", "--wal-segment-bytes", "65536")
	c.start()
	c.leads("n1", "n2", "n3")
	var replicas []*replica
	for _, name := range c.names() {
		conn := c.dial(name)
		replicas = append(replicas, &replica{name: name, conn: conn, kv: pb.NewKVClient(conn), maintenance: pb.NewMaintenanceClient(conn)})
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l := newLoad(ctx, replicas, 8)
	for range 2 {
		for _, name := range c.names() {
			l.waitFor(ctx, l.acknowledged.Load()+150)
			c.members[name].end(syscall.SIGKILL)
			l.waitFor(ctx, l.acknowledged.Load()+150)
			c.start(name)
		}
	}
	l.stop()
	table, lost, err := compare(ctx, replicas, l.written())
	if err != nil || lost > 0 {
		t.Errorf("%d writes lost, %v\n%s", lost, err, table)
	}
	t.Logf("%d writes acknowledged\n%s", l.acknowledged.Load(), table)
}

func TestASnapshotIsRestoredAsANewClusterWithTheSameKeys(t *testing.T) {
	c := newCluster(t, raftkv(), 3, 0)
	c.start()
	c.settle()
	for i := range 50 {
		if err := put(c.dial("n1"), fmt.Sprint("k", i%20), fmt.Sprint(i), 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(c.dir, "saved")
	if out := c.ctl("", "snapshot", "save", file, "--endpoints", c.members["n2"].client); !strings.Contains(out, "Snapshot saved") {
		t.Fatal(out)
	}
	want := c.ctl("", "get", "--prefix", "k", "-w", "json", "--endpoints", c.members["n1"].client)
	for _, m := range c.members {
		m.end(syscall.SIGKILL)
	}

	d := newCluster(t, raftkv(), 3, 0)
	restore := func(name, file string) ([]byte, error) {
		m := d.members[name]
		var all []string
		for _, other := range d.names() {
			all = append(all, other+"="+d.members[other].peer)
		}
		cmd := exec.Command(os.Args[0], "restore", file, "--name", name, "--data-dir", m.dir, "--initial-cluster", strings.Join(all, ","),
			"--initial-advertise-peer-urls", m.peer)
		cmd.Env = append(os.Environ(), beRaftkv+"=1")
		return cmd.CombinedOutput()
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, damaged := range [][]byte{b[:len(b)-1], b[:len(b)-512], append([]byte{b[0] ^ 1}, b[1:]...)} {
		bad := filepath.Join(c.dir, "damaged")
		if err := os.WriteFile(bad, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := restore("n1", bad); err == nil {
			t.Errorf("a damaged snapshot was restored: %s", out)
		}
	}
	for _, name := range d.names() {
		if out, err := restore(name, file); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	d.start()
	d.settle()
	blank := func(s string) string { _, kvs, _ := strings.Cut(s, `"kvs"`); return kvs }
	for _, name := range d.names() {
		if got := d.ctl("", "get", "--prefix", "k", "-w", "json", "--endpoints", d.members[name].client); blank(got) != blank(want) || blank(got) == "" {
			t.Errorf("%s has\n%s\nwant\n%s", name, got, want)
		}
	}
	if err := put(d.dial("n1"), "k", "new", 5*time.Second); err != nil {
		t.Error(err)
	}
}

// certificates makes an authority and a certificate that it signed, in a directory.
func certificates(t *testing.T, dir, name string) (ca, cert, key string) {
	t.Helper()
	write := func(file, kind string, der []byte) string {
		path := filepath.Join(dir, name+file)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	newKey := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	authorityKey := newKey()
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey)
	if err != nil {
		t.Fatal(err)
	}
	ca = write("-ca.pem", "CERTIFICATE", der)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "member"}, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.ParseIP(loopback())},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	leafKey := newKey()
	der, err = x509.CreateCertificate(rand.Reader, leaf, authority, leafKey.Public(), authorityKey)
	if err != nil {
		t.Fatal(err)
	}
	cert = write(".pem", "CERTIFICATE", der)
	der, err = x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	return ca, cert, write("-key.pem", "PRIVATE KEY", der)
}

func TestWithTLSNobodyGetsInWithoutACertificateOfTheAuthority(t *testing.T) {
	dir := t.TempDir()
	ca, cert, key := certificates(t, dir, "ours")
	_, otherCert, otherKey := certificates(t, dir, "other")
	c := newCluster(t, raftkv(), 3, 0,
		"--cert-file", cert, "--key-file", key, "--trusted-ca-file", ca, "--client-cert-auth",
		"--peer-cert-file", cert, "--peer-key-file", key, "--peer-trusted-ca-file", ca, "--peer-client-cert-auth")
	for _, m := range c.members {
		m.client, m.peer = strings.Replace(m.client, "http:", "https:", 1), strings.Replace(m.peer, "http:", "https:", 1)
	}
	c.start()
	config := func(cert, key string) *tls.Config {
		o := tlsOptions{cert: cert, key: key, ca: ca}
		config, err := o.client(slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
	bare := config(cert, key)
	bare.GetClientCertificate = nil
	n1 := c.members["n1"]
	try := func(url string, config *tls.Config) error {
		conn, err := peer.Dial(url, config)
		if err != nil {
			return err
		}
		defer conn.Close()
		return put(conn, "a", "b", 2*time.Second)
	}
	ok := func() error {
		var err error
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			if err = try(n1.client, config(cert, key)); err == nil {
				return nil
			}
		}
		return err
	}
	if err := ok(); err != nil {
		t.Fatalf("with a certificate: %v", err) // and the members have found each other over theirs
	}
	for _, test := range []struct {
		name   string
		url    string
		config *tls.Config
	}{
		{"no certificate", n1.client, bare},
		{"a certificate of another authority", n1.client, config(otherCert, otherKey)},
		{"no TLS", strings.Replace(n1.client, "https:", "http:", 1), nil},
	} {
		if err := try(test.url, test.config); err == nil {
			t.Errorf("clients: %s: let in", test.name)
		}
		url := strings.Replace(n1.peer, n1.peer[:strings.Index(n1.peer, ":")], test.url[:strings.Index(test.url, ":")], 1)
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		if _, err := peer.Ask(ctx, url, test.config); err == nil {
			t.Errorf("peers: %s: let in", test.name)
		}
		cancel()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if _, err := peer.Ask(ctx, n1.peer, config(cert, key)); err != nil {
		t.Errorf("peers: with a certificate: %v", err)
	}
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: config(cert, key)}}
	resp, err := web.Get(n1.client + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	for _, series := range []string{"etcd_disk_wal_fsync_duration_seconds_bucket", "etcd_server_has_leader 1", "etcd_server_proposals_committed_total"} {
		if !strings.Contains(string(b), series) {
			t.Errorf("/metrics lacks %s (%v)", series, err)
		}
	}
	if resp, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: bare}}).Get(n1.client + "/livez"); err == nil {
		resp.Body.Close()
		t.Error("/livez answers without a certificate")
	}
}
