package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"
)

const (
	envPrefix = "OBELISK_"
	// maxConfigFile bounds a configuration file in bytes.
	maxConfigFile = 256 << 10
	// inConfig marks the flags that have a key in the configuration file.
	inConfig = "config"
	// ofRole marks the flags of one role.
	ofRole = "role"
)

// envName is the environment variable of a flag.
func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// applySettings gives every flag that is not on the command line the value that
// the environment has for it, else that of the configuration file.
func (a *app) applySettings(flags *pflag.FlagSet) error {
	var err error
	flags.VisitAll(func(f *pflag.Flag) {
		if err != nil || f.Changed || f.Name == "help" {
			return
		}
		if v, ok := a.env(envName(f.Name)); ok && v != "" {
			if err = setFlag(f, splitList(f, v)); err != nil {
				err = fmt.Errorf("%s: %w", envName(f.Name), err)
			}
			f.Changed = true
			mark(f, fromEnv)
		}
	})
	if err != nil {
		return err
	}
	f := flags.Lookup("config")
	if f == nil || f.Value.String() == "" {
		return nil
	}
	values, err := readConfig(f.Value.String())
	if err != nil {
		return err
	}
	return values.apply(flags)
}

const (
	source  = "source"
	fromEnv = "environment"
)

func mark(f *pflag.Flag, what string) {
	if f.Annotations == nil {
		f.Annotations = make(map[string][]string)
	}
	f.Annotations[source] = []string{what}
}

// splitList splits what the environment has for a repeatable flag.
func splitList(f *pflag.Flag, v string) []string {
	if _, ok := f.Value.(pflag.SliceValue); !ok {
		return []string{v}
	}
	return strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
}

func setFlag(f *pflag.Flag, values []string) error {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		return list.Replace(values)
	}
	if len(values) != 1 {
		return fmt.Errorf("want one value, not %d", len(values))
	}
	return f.Value.Set(values[0])
}

// fileSettings are the keys of a configuration file.
type fileSettings struct {
	path   string
	keys   []string // in the order of the file
	values map[string][]string
}

// readConfig reads a YAML file of flag names and values; a repeatable flag
// takes a list.
func readConfig(path string) (*fileSettings, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxConfigFile+1))
	if err == nil && len(b) > maxConfigFile {
		err = fmt.Errorf("more than %d bytes", maxConfigFile)
	}
	if err != nil {
		return nil, fmt.Errorf("--config %s: %w", path, err)
	}
	s := &fileSettings{path: path, values: make(map[string][]string)}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("--config %s: %w", path, err)
	}
	if len(doc.Content) == 0 { // nothing but comments
		return s, nil
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("--config %s: want lines of option: value", path)
	}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		values, err := scalars(value)
		if _, twice := s.values[key.Value]; twice {
			err = errors.New("stands there twice")
		}
		if err != nil {
			return nil, fmt.Errorf("--config %s: line %d: %s: %w", path, key.Line, key.Value, err)
		}
		s.keys = append(s.keys, key.Value)
		s.values[key.Value] = values
	}
	return s, nil
}

func scalars(n *yaml.Node) ([]string, error) {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return nil, nil
	case n.Kind == yaml.ScalarNode:
		return []string{n.Value}, nil
	case n.Kind == yaml.SequenceNode:
		list := []string{}
		for _, c := range n.Content {
			if c.Kind != yaml.ScalarNode {
				return nil, errors.New("want a list of plain values")
			}
			list = append(list, c.Value)
		}
		return list, nil
	default:
		return nil, errors.New("want a value or a list of values")
	}
}

// apply gives flags that nobody has set the file's values. Keys must be known,
// though not by this command.
func (s *fileSettings) apply(flags *pflag.FlagSet) error {
	var all runOptions
	known := pflag.NewFlagSet("", pflag.ContinueOnError)
	all.register(known)
	for _, key := range s.keys {
		k := known.Lookup(key)
		if k == nil || k.Annotations[inConfig] == nil {
			return fmt.Errorf("--config %s: there is no option %q: `obelisk config example` lists them", s.path, key)
		}
		values := s.values[key]
		if values == nil {
			continue
		}
		f := flags.Lookup(key)
		if f == nil {
			f = k // checked all the same
		}
		if f.Changed {
			continue
		}
		if err := setFlag(f, values); err != nil {
			return fmt.Errorf("--config %s: %s: %w", s.path, key, err)
		}
		f.Changed = true
	}
	return nil
}

// checkRole refuses flags of the other role. What the environment has for them
// is meant for another process of this user.
func checkRole(flags *pflag.FlagSet, role string) error {
	var err error
	flags.VisitAll(func(f *pflag.Flag) {
		if of := f.Annotations[ofRole]; f.Changed && of != nil && of[0] != role && !slices.Contains(f.Annotations[source], fromEnv) && err == nil {
			err = usage("--%s is an option of a %s, not of a %s", f.Name, of[0], role)
		}
	})
	return err
}
