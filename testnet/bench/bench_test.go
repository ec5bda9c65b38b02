package main

import (
	"bytes"
	"errors"
	"flag"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		err  error
	}{
		{nil, nil},
		{[]string{"--pillars", "3", "--senders", "64", "--messages", "1000", "--size", "512", "--concern", "2", "--json"}, nil},
		{[]string{"--mode", "catchup"}, nil},
		{[]string{"-h"}, flag.ErrHelp},
		{[]string{"--mode", "resync", "--missing", "5", "--total", "100", "--where", "newest", "--explained"}, nil},
		{[]string{"--mode", "partition", "--pillars", "10", "--rate", "200", "--seconds", "60"}, nil},
		{[]string{"--mode", "join", "--pillars", "50", "--idle", "0.5"}, nil},
		{[]string{"--mode", "failover", "--runs", "4", "--transport", "quic"}, nil},
		{[]string{"--mode", "storm", "--nodes", "5000", "--address", "192.0.2.1", "--per-ip", "5000"}, nil},
		{[]string{"--mode", "storm", "--address", "here"}, errUsage},
		{[]string{"--mode", "failover", "--pillars", "1", "--concern", "1"}, errUsage},
		{[]string{"--mode", "resync", "--missing", "5", "--total", "4"}, errUsage},
		{[]string{"--mode", "resync", "--where", "here"}, errUsage},
		{[]string{"--mode", "partition", "--rate", "0"}, errUsage},
		{[]string{"--mode", "sideways"}, errUsage},
		{[]string{"--senders", "0"}, errUsage},
		{[]string{"--senders", "2", "--clients", "3"}, errUsage},
		{[]string{"--pillars", "1"}, errUsage}, // cannot make two copies
		{[]string{"--size", "1000000"}, errUsage},
		{[]string{"stray"}, errUsage},
		{[]string{"--no-such-flag"}, errUsage},
	} {
		var said bytes.Buffer
		s, err := parse(c.args, &said)
		if !errors.Is(err, c.err) {
			t.Errorf("%q: %v, want %v", c.args, err, c.err)
		}
		if err != nil && said.Len() == 0 {
			t.Errorf("%q: nothing was said", c.args)
		}
		if err == nil && (s.clients < 1 || s.clients > s.senders || s.warmup > s.messages) {
			t.Errorf("%q: %+v", c.args, s)
		}
	}
}

// A message counts as acknowledged when it has its copies, whether the first
// answer or a later watermark says so, and its sender is free from then on.
func TestAcknowledgement(t *testing.T) {
	t.Parallel()
	c := newClient(nil, nil, nil, "", 4)
	l := &load{concern: 2, clients: []*client{c}}
	var batch []*flight
	for range 4 {
		batch = append(batch, &flight{began: time.Now(), raw: []byte{0}})
	}
	c.free = 0
	if m := c.number(batch, 2); m.First != 0 || len(m.Records) != 4 || m.Concern != 2 {
		t.Fatalf("submitted as %+v", m)
	}
	log := overlay.LogID{1}
	step := func(free int, what string) {
		t.Helper()
		if c.free != free || int(l.acked.Load()) != free {
			t.Fatalf("%s: %d senders are free and %d messages acknowledged, want %d", what, c.free, l.acked.Load(), free)
		}
	}
	answer := func(n, seq, copies uint64, err *overlay.Error) error {
		return c.result(l, &overlay.ResultLine{N: n, Err: err, Dot: overlay.Dot{Log: log, Seq: seq}, Copies: copies}, time.Now())
	}
	for n, copies := range []uint64{2, 1, 1} {
		if err := answer(uint64(n), uint64(n+1), copies, nil); err != nil {
			t.Fatal(err)
		}
	}
	step(1, "a result with two copies")
	c.watermark(l, &overlay.Watermark{Log: log, From: 1, To: 3, Copies: 1}, time.Now())
	step(1, "a watermark of one copy")
	c.watermark(l, &overlay.Watermark{Log: overlay.LogID{2}, From: 1, To: 3, Copies: 2}, time.Now())
	step(1, "a watermark of another log")
	c.watermark(l, &overlay.Watermark{Log: log, From: 1, To: 2, Copies: 2}, time.Now())
	step(2, "a watermark up to 2")
	c.watermark(l, &overlay.Watermark{Log: log, From: 3, To: 9, Copies: 3}, time.Now())
	step(3, "a watermark from 3")
	if err := answer(3, 0, 0, overlay.Refuse(overlay.CodeInvalid, "no")); err == nil {
		t.Error("a final refusal passed for an answer")
	}
	if err := answer(3, 4, 2, nil); err == nil {
		t.Error("two answers to one submission passed")
	}
}

func TestSample(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line, name string
		value      float64
		ok         bool
	}{
		{"# HELP go_goroutines Number", "", 0, false},
		{"", "", 0, false},
		{"go_goroutines 57", "go_goroutines", 57, true},
		{`obelisk_x_total{code="a b",b="{"} 1.5e+03`, "obelisk_x_total", 1500, true},
		{"nonsense", "", 0, false},
		{"bad value", "bad", 0, false},
	} {
		name, value, ok := sample(c.line)
		if ok != c.ok || ok && (name != c.name || value != c.value) {
			t.Errorf("%q: %q %v %v", c.line, name, value, ok)
		}
	}
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	var times []time.Duration
	for i := range 100 {
		times = append(times, time.Duration(100-i)*time.Millisecond)
	}
	if got := quantilesOf(times); got != (quantiles{51, 100}) {
		t.Errorf("got %+v", got)
	}
	if got := quantilesOf(nil); got != (quantiles{}) {
		t.Errorf("of nothing: %+v", got)
	}
}
