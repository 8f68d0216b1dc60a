package main

import (
	"context"

	"github.com/stele-wal/stele/tools/interop"
)

// The whole form of what etcd is put to. It reads real files, which is slow.
const (
	controlStates = 20_000
	controlEvery  = 8   // every nth of the bits, words and lengths; sectors and files all
	controlFaults = 500 // faults at least
)

// control puts etcd's own log package to the same crashes and the same rot as ours, of logs with
// the same content. What it does not lose there, the other stages could not see us lose.
func control(_ context.Context, s *settings, p *progress) []row {
	cfg := interop.ControlConfig{Seed: s.seed, States: s.of(controlStates), Every: s.sample(controlEvery), Workers: s.workers}
	p.at("crashes")
	crashes, err := interop.ControlCrashes(cfg)
	rows := []row{beside("model, beside etcd", crashes, "stele, etcd's bytes", err)}
	rows[0].atLeast("states", rows[0].states, cfg.States)
	p.at("opened")
	opened, err := interop.ControlOpened(cfg)
	rows = append(rows, beside("model, then etcd", []interop.Tally{opened}, opened.By, err))
	rows[1].atLeast("states", opened.States, cfg.States)
	rows[1].atLeast("gaps", opened.Gaps, cfg.States/4000) // more of them are in a test
	p.at("rot")
	rot, err := interop.ControlRot(cfg)
	line := beside("rot, beside etcd", rot, "stele", err)
	if line.etcd != nil {
		line.refused, line.etcd.refused = 0, -1 // to refuse what is damaged is right
	}
	line.atLeast("faults", line.states, controlFaults)
	return append(rows, line)
}

// beside is the row of a comparison.
func beside(stage string, tallies []interop.Tally, ours string, err error) row {
	line := row{stage: stage}
	if err != nil {
		line.broken = err.Error()
	}
	for _, t := range tallies {
		r := row{states: t.States, seconds: t.Seconds, lost: t.Lost, refused: t.Refused, silent: t.Silent + t.Panics}
		switch t.By {
		case ours:
			line.states, line.lost, line.refused, line.silent = r.states, r.lost, r.refused, r.silent
		case "etcd":
			line.etcd = &r
		}
		line.seconds += t.Seconds
	}
	if line.etcd != nil && line.etcd.lost+line.etcd.silent == 0 && err == nil {
		line.missed = append(line.missed, "etcd loses nothing here: the campaign is too weak")
	}
	return line
}
