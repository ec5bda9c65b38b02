package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newConfig(a *app) *cobra.Command {
	return group("config", "Print an example of a configuration file, or check one", newConfigExample(a), newConfigCheck(a))
}

func newConfigExample(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "example", Short: "Print a configuration file with every option, commented", Args: cobra.NoArgs,
		RunE: a.act(func(*cobra.Command, []string) error {
			_, err := fmt.Fprint(a.out, configExample())
			return err
		}),
	}
}

// configExample writes every option as a comment: what it means, then its
// default.
func configExample() string {
	var o runOptions
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	fs.SortFlags = false
	o.register(fs)
	var b strings.Builder
	b.WriteString("# Options of `obelisk run`, for --config. The command line and the environment\n" +
		"# (OBELISK_<OPTION>) win over this file. Remove the # before what you set.\n")
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Annotations[inConfig] == nil {
			return
		}
		kind, text := pflag.UnquoteUsage(f)
		fmt.Fprintf(&b, "\n# %s\n", text)
		value := f.DefValue
		switch {
		case f.Value.Type() == "stringArray":
			fmt.Fprintf(&b, "#%s:\n#  - %s\n", f.Name, kind)
			return
		case f.Name == "role":
			value = rolePillar
		case value == "":
			value = strings.ToUpper(kind)
			if !strings.EqualFold(kind, value) || kind == "string" {
				value = "TEXT"
			}
		}
		if strings.ContainsAny(value, ":#") {
			value = fmt.Sprintf("%q", value)
		}
		fmt.Fprintf(&b, "#%s: %s\n", f.Name, value)
	})
	return b.String()
}

func newConfigCheck(a *app) *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use: "check FILE", Short: "Say what is wrong with a configuration file", Args: cobra.ExactArgs(1),
		RunE: a.act(func(_ *cobra.Command, args []string) error {
			values, err := readConfig(args[0])
			if err != nil {
				return usage("%w", err)
			}
			var o runOptions
			fs := pflag.NewFlagSet("", pflag.ContinueOnError)
			o.register(fs)
			if role != "" {
				if err := setFlag(fs.Lookup("role"), []string{role}); err != nil {
					return usage("--role: %w", err)
				}
				fs.Lookup("role").Changed = true
			}
			if err := values.apply(fs); err != nil {
				return usage("%w", err)
			}
			if err := o.checkConcern(); err != nil {
				return err
			}
			switch o.role {
			case rolePillar:
				if err := checkRole(fs, o.role); err != nil {
					return err
				}
				_, err = o.pillarConfig()
			case roleNode:
				if err := checkRole(fs, o.role); err != nil {
					return err
				}
				_, err = o.nodeConfig()
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "%s is fine\n", escape(args[0]))
			return err
		}),
	}
	cmd.Flags().StringVar(&role, "role", "", "check it for this role, if the file names none")
	return cmd
}
