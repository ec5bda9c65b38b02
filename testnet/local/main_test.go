package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"strings"
	"testing"

	"github.com/obelisk-network/obelisk/testnet"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args    string
		command string
		err     error
	}{
		{"", "demo", nil},
		{"--pillars 3 --nodes 2", "demo", nil},
		{"up --pillars 20 --nodes 50 --dir here", "up", nil},
		{"up --pillars 1 --nodes 0", "up", nil},
		{"chaos --seconds 5 --seed 7 --json", "chaos", nil},
		{"status --json", "status", nil},
		{"help", "", flag.ErrHelp},
		{"--help", "", flag.ErrHelp},
		{"fly", "", errUsage},
		{"demo --pillars 1", "", errUsage},
		{"demo --nodes 1", "", errUsage},
		{"up --pillars 0", "", errUsage},
		{"up stray", "", errUsage},
		{"up --no-such-flag", "", errUsage},
		{"chaos --seconds 0", "", errUsage},
	} {
		var said bytes.Buffer
		s, err := parse(strings.Fields(c.args), &said)
		if !errors.Is(err, c.err) {
			t.Errorf("%q: %v, want %v", c.args, err, c.err)
			continue
		}
		switch {
		case err != nil && said.Len() == 0:
			t.Errorf("%q: nothing was said", c.args)
		case err == nil && s.command != c.command:
			t.Errorf("%q: command %q, want %q", c.args, s.command, c.command)
		case err == nil && (s.command == "up" || s.command == "status") && s.dir == "":
			t.Errorf("%q: no directory", c.args)
		}
	}
}

func TestNothingThere(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"down", "status"} {
		var out, errs bytes.Buffer
		err := run(context.Background(), []string{command, "--dir", t.TempDir()}, &out, &errs)
		if !errors.Is(err, testnet.ErrNoNetwork) {
			t.Errorf("%s: %v, want ErrNoNetwork", command, err)
		}
	}
}

func TestSeveral(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	calls := make(chan int, 100)
	err := several(100, func(i int) error {
		calls <- i
		if i == 10 {
			return boom
		}
		return nil
	})
	if !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	if n := len(calls); n < 11 || n > 11+2*atOnce {
		t.Errorf("%d calls were made though the eleventh failed", n)
	}
}

func TestStory(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	s := newTeller(&b)
	s.title("One")
	if s.check(true, "holds"); len(s.failed) != 0 {
		t.Error("what held counts as failed")
	}
	if s.check(false, "%d does not", 2); len(s.failed) != 1 || s.failed[0] != "2 does not" {
		t.Errorf("failed: %q", s.failed)
	}
	if strings.Contains(b.String(), "\x1b") {
		t.Error("colours where nobody looks at a terminal")
	}
	for want, names := range map[string][]string{"nobody": nil, "a": {"a"}, "a and b": {"a", "b"}, "a, b and c": {"a", "b", "c"}} {
		if got := list(names); got != want {
			t.Errorf("list(%q) = %q", names, got)
		}
	}
}
