package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk"
)

func newBundle(a *app) *cobra.Command {
	return group("bundle", "Carry records as a file to a pillar that no network reaches", newBundleExport(a), newBundleImport(a))
}

func newBundleExport(a *app) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use:   "export FILE",
		Short: "Write all records of the running pillar into a new file",
		Long: `Write all unexpired records of the running pillar, and the roster, into a new
file. Bodies in it are sealed as everywhere; who writes to whom can be read.`,
		Args: cobra.ExactArgs(1),
		RunE: a.act(func(cmd *cobra.Command, args []string) error {
			r, err := t.find(rolePillar)
			if err != nil {
				return err
			}
			if _, err := os.Lstat(args[0]); err == nil {
				return usage("%s exists: name a new file", args[0])
			}
			done, err := r.pillar.ExportBundle(cmd.Context())
			if err != nil {
				return err
			}
			if err := move(done.Path, args[0]); err != nil {
				return fmt.Errorf("the bundle stays in %s: %w", done.Path, err)
			}
			done.Path = args[0]
			if t.json {
				return printJSON(a.out, done)
			}
			_, err = fmt.Fprintf(a.out, "%d records, %d bytes, in %s\n", done.Records, done.Bytes, done.Path)
			return err
		}),
	})
}

func newBundleImport(a *app) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use:   "import FILE",
		Short: "Give the records of a file to the running pillar",
		Long: `Give the records of a file that bundle export wrote to the running pillar. Each is
checked as if another pillar had sent it; doing it twice does no harm.`,
		Args: cobra.ExactArgs(1),
		RunE: a.act(func(cmd *cobra.Command, args []string) error {
			if t.data == "" && t.admin != "" {
				return usage("name the pillar's data directory with --data: the file is put there for it to read")
			}
			r, err := t.find(rolePillar)
			if err != nil {
				return err
			}
			dir, err := t.dir()
			if err != nil {
				return err
			}
			placed, err := place(args[0], obelisk.BundleDir(dir))
			if err != nil {
				return err
			}
			defer os.Remove(placed)
			done, err := r.pillar.ImportBundle(cmd.Context(), filepath.Base(placed))
			if err != nil {
				return err
			}
			if t.json {
				return printJSON(a.out, done)
			}
			_, err = fmt.Fprintf(a.out, "%d records: %d are held now, %d were refused\n", done.Records, done.Taken, done.Refused)
			return err
		}),
	})
}

// move brings a file to a place where there is none, also on another disk.
func move(from, to string) error {
	if os.Link(from, to) == nil {
		return os.Remove(from)
	}
	if err := copyFile(from, to); err != nil {
		return err
	}
	return os.Remove(from)
}

// place copies a file into dir under a fresh name.
func place(file, dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, "import-*.bundle")
	if err != nil {
		return "", err
	}
	name := f.Name()
	if err := f.Close(); err != nil {
		return "", err
	}
	if err := os.Remove(name); err != nil {
		return "", err
	}
	return name, copyFile(file, name)
}

// copyFile copies into a new file, or leaves none.
func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	if e := out.Close(); err == nil {
		err = e
	}
	if err != nil {
		_ = os.Remove(to)
	}
	return err
}
