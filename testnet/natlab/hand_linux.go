package natlab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Furnish starts what a lab is asked about by hand: all pillars, the home pillar
// at that place, if it is not "", and a node, told the first pillar, at every
// other place. Nothing has to be connected when it returns: behind some gateways
// nothing ever is.
func (l *Lab) Furnish(ctx context.Context, home string) error {
	if err := l.StartPillars(ctx); err != nil {
		return err
	}
	if home != "" {
		if err := l.StartHome(ctx, home); err != nil {
			return err
		}
	}
	places := append([]string(nil), l.topology.Public...)
	for _, g := range l.topology.Gateways {
		places = append(places, g.Behind...)
	}
	for _, place := range places {
		if place == home {
			continue
		}
		if _, err := l.StartNode(ctx, place, l.public()[0]); err != nil {
			return err
		}
	}
	return nil
}

// Asker writes a shell script that asks the processes which run now, each where it
// is, and returns its path: asker NAME COMMAND [FLAG]…
func (l *Lab) Asker(binary string) (string, error) {
	binary, err := filepath.Abs(binary)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("#!/bin/sh\n# Asks one of the lab's processes: ask NAME COMMAND [FLAG]...\ncase ${1-} in\n")
	for _, p := range l.Processes() {
		fmt.Fprintf(&b, "%s) at='%s' data='%s' ;;\n", p.Name, strings.Join(l.box.exec(placeOf(p.Role, p.Name)), " "), p.Data)
	}
	fmt.Fprintf(&b, "*) echo 'ask: NAME COMMAND [FLAG]...; there are: %s' >&2; exit 2 ;;\nesac\nshift\nexec $at '%s' \"$@\" --data \"$data\"\n",
		strings.Join(l.names(), " "), binary)
	path := filepath.Join(l.Dir(), "ask")
	return path, os.WriteFile(path, []byte(b.String()), 0o700)
}

func (l *Lab) names() []string {
	var names []string
	for _, p := range l.Processes() {
		names = append(names, p.Name)
	}
	return names
}
