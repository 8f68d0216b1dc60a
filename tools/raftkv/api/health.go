package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"
)

// How long a connection that is no gRPC may take to ask, and how long it stays open for the next
// question.
const (
	askTimeout  = 10 * time.Second
	idleTimeout = 2 * time.Minute
)

// NewHTTP returns a server of a handler. A connection that asks nothing, or slowly, is closed.
func NewHTTP(handler http.Handler) *http.Server {
	return &http.Server{Handler: handler, ReadHeaderTimeout: askTimeout, IdleTimeout: idleTimeout}
}

// HTTP returns the handler of /metrics, /version, and etcd's probes: /livez, /readyz and /health.
// What they answer is what etcd answers.
func (s *Server) HTTP() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.Metrics.Registry, promhttp.HandlerOpts{}))
	s.probe(mux, "livez", probed{"serializable_read", s.readable})
	s.probe(mux, "readyz", probed{"data_corruption", s.uncorrupted}, probed{"serializable_read", s.readable},
		probed{"linearizable_read", s.linearizable}, probed{"non_learner", s.voter})
	mux.HandleFunc("GET /health", s.health)
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// Of the API that is spoken: it is what clients go by. Strings always encode.
		b, _ := json.Marshal(version.Versions{Server: version.Version, Cluster: storageVersion, Storage: storageVersion})
		_, _ = w.Write(b)
	})
	if s.Profiles {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// probed is one of the things that a probe looks at, by etcd's name. It returns what is wrong.
type probed struct {
	name  string
	check func(context.Context) error
}

// readable returns why not even what this member has can be read.
func (s *Server) readable(context.Context) error {
	if err := s.Node.Err(); err != nil {
		return err
	}
	_, err := s.Node.Store().Range(&pb.RangeRequest{Key: []byte{0}, KeysOnly: true, Limit: 1})
	return err
}

// linearizable returns why a client could not read what was written last.
func (s *Server) linearizable(ctx context.Context) error {
	if err := translate(s.Node.ReadIndex(ctx)); err != nil {
		return errors.New(rpctypes.ErrorDesc(err))
	}
	return s.readable(ctx)
}

func (s *Server) uncorrupted(context.Context) error {
	for _, a := range s.Node.Alarms() {
		if a.Alarm == pb.AlarmType_CORRUPT {
			return fmt.Errorf("alarm activated: %s", a.Alarm)
		}
	}
	return nil
}

func (s *Server) voter(context.Context) error {
	if s.Node.Status().Learner {
		return errors.New("not supported for learner")
	}
	return nil
}

// probe serves a probe that looks at several things, and each of them below it. With ?exclude=name
// it leaves one out, and with ?verbose it lists those that pass, too.
func (s *Server) probe(mux *http.ServeMux, name string, all ...probed) {
	answer := func(w http.ResponseWriter, r *http.Request, all []probed) {
		query := r.URL.Query()
		var report strings.Builder
		well := true
		for _, p := range all {
			err := p.check(r.Context())
			s.Metrics.probed(name, p.name, err)
			if err != nil {
				well = false
				fmt.Fprintf(&report, "[-]%s failed: %v\n", p.name, err)
			} else {
				fmt.Fprintf(&report, "[+]%s ok\n", p.name)
			}
		}
		if !well {
			http.Error(w, report.String(), http.StatusServiceUnavailable)
			return
		}
		if !query.Has("verbose") {
			report.Reset()
		}
		fmt.Fprintln(w, report.String()+"ok")
	}
	mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, r *http.Request) {
		excluded := r.URL.Query()["exclude"]
		answer(w, r, slices.DeleteFunc(slices.Clone(all), func(p probed) bool { return slices.Contains(excluded, p.name) }))
	})
	for i, p := range all {
		mux.HandleFunc("GET /"+name+"/"+p.name, func(w http.ResponseWriter, r *http.Request) { answer(w, r, all[i:i+1]) })
	}
}

// health serves etcd's older probe, which knows alarms. With ?exclude=NOSPACE it passes an alarm
// over, and with ?serializable=true it asks this member alone.
func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	reason := s.illness(r)
	s.Metrics.health(reason == "")
	b, _ := json.Marshal(struct { // which has no way to fail
		Health string `json:"health"`
		Reason string `json:"reason"`
	}{fmt.Sprint(reason == ""), reason})
	if reason != "" {
		http.Error(w, string(b), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write(b)
}

// illness returns what /health says is wrong, or nothing.
func (s *Server) illness(r *http.Request) string {
	query := r.URL.Query()
	for _, a := range s.Node.Alarms() {
		if !slices.Contains(query["exclude"], a.Alarm.String()) {
			return "ALARM " + a.Alarm.String()
		}
	}
	err := s.readable(r.Context())
	if query.Get("serializable") != "true" && err == nil {
		if s.Node.Status().Leader == 0 {
			return "RAFT NO LEADER"
		}
		err = s.linearizable(r.Context())
	}
	if err != nil {
		return "RANGE ERROR:" + err.Error()
	}
	return ""
}
