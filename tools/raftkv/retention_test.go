package main

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stele-wal/stele/tools/raftkv/mvcc"
)

func TestTheFlagsOfCompactionMeanWhatTheyMeanToEtcd(t *testing.T) {
	for _, test := range []struct {
		mode, value string
		want        retention
		ok          bool
	}{
		{"periodic", "0", retention{}, true},
		{"periodic", "2", retention{period: 2 * time.Hour}, true},
		{"periodic", "90m", retention{period: 90 * time.Minute}, true},
		{"periodic", "0s", retention{}, true},
		{"revision", "0", retention{}, true},
		{"revision", "1000", retention{revisions: 1000}, true},
		{"revision", "1h", retention{}, false},
		{"periodic", "1ms", retention{}, false},
		{"periodic", "-1", retention{}, false},
		{"periodic", "-1h", retention{}, false},
		{"periodic", "", retention{}, false},
		{"periodic", "soon", retention{}, false},
		{"", "1", retention{}, false},
		{"hourly", "1", retention{}, false},
	} {
		got, err := parseRetention(test.mode, test.value)
		if got != test.want || (err == nil) != test.ok {
			t.Errorf("%q %q: %+v, %v", test.mode, test.value, got, err)
		}
	}
}

func TestRevisionsAreForgottenOnceTheirTimeIsOver(t *testing.T) {
	start := time.Unix(0, 0)
	for _, test := range []struct {
		name  string
		r     retention
		looks int
		want  []string // when, and up to which; a look adds ten revisions
	}{
		{"half an hour", retention{period: 30 * time.Minute}, 35, []string{"30m0s: 10", "1h0m0s: 110", "1h30m0s: 210"}},
		{"two hours", retention{period: 2 * time.Hour}, 41, []string{"2h0m0s: 10", "3h0m0s: 110", "4h0m0s: 210"}},
		{"25 revisions", retention{revisions: 25}, 5, []string{"10m0s: 5", "15m0s: 15", "20m0s: 25"}},
	} {
		p := past{retention: test.r}
		var got []string
		for i := range test.looks {
			now := start.Add(time.Duration(i) * test.r.step())
			if rev := p.look(now, int64(10*(i+1))); rev != 0 {
				got = append(got, fmt.Sprintf("%v: %d", now.Sub(start), rev))
				p.compacted = sight{now, rev}
			}
			if len(p.seen) > 10*int(test.r.period/test.r.pause())+1 {
				t.Fatalf("%s: %d sights are kept", test.name, len(p.seen))
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	// When nothing is written there is nothing to forget, and a new store has nothing old.
	p := past{retention: retention{period: time.Minute}}
	for i := range 50 {
		if rev := p.look(start.Add(time.Duration(i)*time.Minute), 1); rev != 0 {
			t.Errorf("of an empty store revision %d is to be compacted", rev)
		}
	}
}

// scripted is a compactor that is told at each look what there is, and says what it was asked.
type scripted struct {
	states  []state
	answers []error
	asked   []int64
}

type state struct {
	rev   int64
	leads bool
}

func (s *scripted) newest() (int64, bool) {
	now := s.states[0]
	s.states = s.states[1:]
	return now.rev, now.leads
}

func (s *scripted) compact(rev int64) error {
	s.asked = append(s.asked, rev)
	err := s.answers[0]
	s.answers = s.answers[1:]
	return err
}

func TestOnlyTheLeaderCompactsAndTriesAgainIfItFails(t *testing.T) {
	s := &scripted{
		states:  []state{{100, false}, {100, true}, {100, true}, {100, true}, {110, true}, {111, false}},
		answers: []error{errors.New("no leader any more"), mvcc.ErrCompacted, nil},
	}
	looks := len(s.states)
	p := past{retention: retention{revisions: 10}}
	ticks, stop, ended := make(chan time.Time), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		p.run(stop, ticks, s)
	}()
	for i := range looks {
		ticks <- time.Unix(0, 0).Add(time.Duration(i) * revPause)
	}
	close(stop)
	<-ended
	if want := []int64{90, 90, 100}; !slices.Equal(s.asked, want) || len(s.states) != 0 {
		t.Errorf("it was asked for %v, want %v", s.asked, want)
	}
}
