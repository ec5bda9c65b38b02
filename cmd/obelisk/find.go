package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/admin"
)

// target is where a command finds its process.
type target struct {
	config, data, api, admin string
	tokenFile, adminCert     string
	json                     bool
}

// register adds the flags that say where. --json is there for every command
// that prints something.
func (t *target) register(cmd *cobra.Command) *cobra.Command {
	f := cmd.Flags()
	f.StringVar(&t.config, "config", "", "YAML `FILE` with options")
	f.StringVar(&t.data, "data", "", "data `DIR` of a node or pillar (default: the only running one of the default directories)")
	f.StringVar(&t.api, "api", "", "local API of a node: unix:`PATH` or HOST:PORT")
	f.StringVar(&t.admin, "admin", "", "admin port of a pillar: `HOST:PORT` or https://HOST:PORT")
	f.StringVar(&t.tokenFile, "token-file", "", "`FILE` with the bearer token (default: in the data directory)")
	f.StringVar(&t.adminCert, "admin-tls-cert", "", "PEM `FILE` with the certificate to trust at an https admin port")
	f.BoolVar(&t.json, "json", false, "print JSON")
	return cmd
}

// running is a process that was found: exactly one of node and pillar is set.
type running struct {
	info   obelisk.RunInfo // empty if only its address is known
	at     admin.Target
	node   *admin.NodeClient
	pillar *admin.PillarClient
}

// find finds the process by --api, --admin or --data, or else the only running
// one of the default directories. With role only one of that role will do.
func (t *target) find(role string) (*running, error) {
	api, adm := t.api, t.admin
	if api == obelisk.Off {
		api = ""
	}
	if adm == obelisk.Off {
		adm = ""
	}
	if api != "" && adm != "" {
		switch role {
		case roleNode:
			adm = ""
		case rolePillar:
			api = ""
		default:
			return nil, usage("--api names a node and --admin a pillar: give one of them")
		}
	}
	var r *running
	var err error
	switch {
	case api != "":
		r, err = t.connect(obelisk.RunInfo{Role: roleNode, API: api}, t.data)
	case adm != "":
		r, err = t.connect(obelisk.RunInfo{Role: rolePillar, Admin: adm}, t.data)
	default:
		var dir string
		var info obelisk.RunInfo
		if dir, info, err = t.runningDir(); err == nil {
			r, err = t.connect(info, dir)
		}
	}
	if err != nil {
		return nil, err
	}
	if role == roleNode && r.node == nil || role == rolePillar && r.pillar == nil {
		return nil, usage("this needs a %s, and what runs there is none: name one with --data", role)
	}
	return r, nil
}

// runningDir is the data directory of the process: --data, or the only running
// one of the default directories.
func (t *target) runningDir() (string, obelisk.RunInfo, error) {
	if t.data != "" {
		info, err := obelisk.ReadRun(t.data)
		if errors.Is(err, obelisk.ErrNotRunning) {
			return "", info, coded(exitNotRunning, "nothing is running in %s: start it with `obelisk run --data %s`", t.data, t.data)
		}
		return t.data, info, err
	}
	var dir string
	var info obelisk.RunInfo
	dirs, err := defaultDirs()
	if err != nil {
		return "", info, err
	}
	for _, d := range dirs {
		i, err := obelisk.ReadRun(d)
		if errors.Is(err, obelisk.ErrNotRunning) {
			continue
		}
		if err != nil {
			return "", info, err
		}
		if dir != "" {
			return "", info, usage("two are running, say which one: --data %s or --data %s", dir, d)
		}
		dir, info = d, i
	}
	if dir == "" {
		return "", info, coded(exitNotRunning, "nothing is running in %s or %s: start it with `obelisk run`, or say where it is with --data, --api or --admin", dirs[0], dirs[1])
	}
	return dir, info, nil
}

func defaultDirs() ([]string, error) {
	var dirs []string
	for _, role := range []obelisk.Role{obelisk.RolePillar, obelisk.RoleNode} {
		d, err := obelisk.DefaultDir(role)
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, d)
	}
	return dirs, nil
}

// connect makes the client for a process whose data directory is dir, "" if
// that is not known.
func (t *target) connect(info obelisk.RunInfo, dir string) (*running, error) {
	r := &running{info: info}
	at := admin.Target{Addr: info.API}
	if info.Role == rolePillar {
		at = admin.Target{Addr: info.Admin, RootCert: t.adminCert}
	}
	if at.Addr == "" {
		return nil, coded(exitNotRunning, "the %s in %s (process %d) runs without a port to ask it: start it without --%s off",
			info.Role, dir, info.PID, map[string]string{rolePillar: "admin", roleNode: "api"}[info.Role])
	}
	var err error
	if at.Token, err = t.token(roleOf(info.Role), at.Addr, dir); err != nil {
		return nil, err
	}
	r.at = at
	if info.Role == rolePillar {
		r.pillar, err = admin.NewPillarClient(at)
	} else {
		r.node, err = admin.NewNodeClient(at)
	}
	return r, err
}

// token finds the bearer token: --token-file, the data directory's, or that of
// a default directory whose process listens at addr. None is no error: a socket
// and a pillar's reads need none.
func (t *target) token(role obelisk.Role, addr, dir string) (string, error) {
	if t.tokenFile != "" {
		return admin.LoadToken(t.tokenFile)
	}
	if dir == "" {
		d, err := obelisk.DefaultDir(role)
		if err != nil {
			return "", nil
		}
		info, err := obelisk.ReadRun(d)
		if err != nil || info.API != addr && info.Admin != addr {
			return "", nil
		}
		dir = d
	}
	token, err := admin.LoadToken(obelisk.TokenFile(dir, role))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return token, err
}

// dir is the data directory for a command that works on files: --data, else
// the running one, else the only one of the default directories that is there.
func (t *target) dir() (string, error) {
	if t.data != "" {
		return t.data, nil
	}
	dir, _, err := t.runningDir()
	if err == nil || exitCode(err) != exitNotRunning {
		return dir, err
	}
	dirs, derr := defaultDirs()
	if derr != nil {
		return "", derr
	}
	var found []string
	for _, d := range dirs {
		if _, err := os.Stat(d); err == nil {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 2:
		return "", usage("there are two, say which one: --data %s or --data %s", found[0], found[1])
	default:
		return "", coded(exitNotRunning, "there is neither %s nor %s: start one with `obelisk run`, or name it with --data", dirs[0], dirs[1])
	}
}

// identity is who lives in the data directory.
func (t *target) identity() (string, obelisk.Identity, error) {
	dir, err := t.dir()
	if err != nil {
		return "", obelisk.Identity{}, err
	}
	if _, err := os.Stat(dir); err != nil {
		return "", obelisk.Identity{}, fmt.Errorf("%s: %w: start one with `obelisk run`, or name another directory with --data", dir, obelisk.ErrNoIdentity)
	}
	id, err := obelisk.ReadIdentity(dir)
	return dir, id, err
}
