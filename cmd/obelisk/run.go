package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/relay"
)

const (
	rolePillar = "pillar"
	roleNode   = "node"
	// drainTime is how long a pillar that is told to stop waits for its nodes to
	// move to another.
	drainTime = 5 * time.Second
	// startTime bounds the start, above all finding out which network this is.
	startTime = time.Minute
)

// runOptions are the flags of run.
type runOptions struct {
	config, role, data, name                       string
	listen, announce, join, pillar                 []string
	networkKey, admission                          string
	home, rejoin                                   bool
	concern, maxPeers, perIP, perSubnet            int
	storeLimit, memory                             int64
	registration, admin, adminTLSCert, adminTLSKey string
	adminInsecure                                  bool
	keyType                                        string
	rsaBits                                        int
	api, direct, presence, logLevel, logFormat     string
}

// register adds the flags to fs. Their defaults stand here and nowhere else.
func (o *runOptions) register(fs *pflag.FlagSet) {
	o.keyType, o.registration, o.direct, o.presence = "ed25519", "open", "on", "contacts"
	o.logLevel, o.logFormat, o.memory = "info", "text", obelisk.DefaultMemory
	both, pillar, node := "", rolePillar, roleNode
	fs.StringVar(&o.config, "config", "", "YAML `FILE` with options; see config example")
	option := func(role, name string) {
		f := fs.Lookup(name)
		f.Annotations = map[string][]string{inConfig: {"yes"}}
		if role != "" {
			f.Annotations[ofRole] = []string{role}
			f.Usage += " (" + role + ")"
		}
	}
	text := func(role string, v *string, name, usage string) {
		fs.StringVar(v, name, *v, usage)
		option(role, name)
	}
	list := func(role string, v *[]string, name, usage string) {
		fs.StringArrayVar(v, name, nil, usage+"; repeatable")
		option(role, name)
	}
	choice := func(role string, v *string, name, usage string, choices ...string) {
		fs.Var(choiceValue{v, choices}, name, usage)
		option(role, name)
	}
	choice(both, &o.role, "role", "what to run", rolePillar, roleNode)
	text(both, &o.data, "data", "data `DIR` (default $XDG_DATA_HOME/obelisk/<role>)")
	list(both, &o.listen, "listen", "`MULTIADDR` to listen on (default: pillar UDP/QUIC and TCP 4001, node random)")
	list(pillar, &o.announce, "announce", "`MULTIADDR` others are told (default: what it listens on)")
	list(both, &o.join, "join", "`ADDR` of a pillar to start from: …/p2p/<id> or a join link; remembered")
	list(both, &o.pillar, "pillar", "`ADDR`: the same as --join")
	text(pillar, &o.networkKey, "network-key", "`FILE` of the network key (default <data>/network.key, made if there is neither --join nor --admission)")
	text(pillar, &o.admission, "admission", "`FILE` of an admission by who holds the network key (default <data>/admission)")
	fs.BoolVar(&o.home, "home", false, "behind a NAT: be reached through others")
	option(pillar, "home")
	fs.BoolVar(&o.rejoin, "rejoin", false, "be a pillar again although it left for good (pillar leave)")
	option(pillar, "rejoin")
	fs.IntVar(&o.concern, "concern", 2, "`N` copies before a message counts as replicated")
	option(both, "concern")
	fs.Var(sizeValue{&o.storeLimit}, "store-limit", "largest store (default 90 % of the disk)")
	option(both, "store-limit")
	fs.Var(sizeValue{&o.memory}, "memory", "how much memory to take")
	option(both, "memory")
	choice(pillar, &o.registration, "registration", "who may register; closed: accounts that network allow named", "open", "closed")
	count := func(v *int, name string, value int, usage string) {
		fs.IntVar(v, name, value, usage)
		option(pillar, name)
	}
	count(&o.maxPeers, "max-peers", relay.DefaultPillarPeers, "`N` nodes and pillars at once, of 70 KB of memory each")
	count(&o.perIP, "per-ip", relay.DefaultPillarPerIP, "`N` connections from an IPv4 address or IPv6 /56; whole towns share one")
	count(&o.perSubnet, "per-subnet", 0, "`N` connections from an IPv4 /24 or IPv6 /48 (default four times --per-ip)")
	o.admin = "127.0.0.1:4080"
	text(pillar, &o.admin, "admin", "`HOST:PORT` of the admin port, or off")
	text(pillar, &o.adminTLSCert, "admin-tls-cert", "PEM `FILE` with the admin port's certificate")
	text(pillar, &o.adminTLSKey, "admin-tls-key", "PEM `FILE` with its key")
	fs.BoolVar(&o.adminInsecure, "admin-insecure", false, "allow an admin port without TLS on any address")
	option(pillar, "admin-insecure")
	text(node, &o.name, "name", "claimed name in the directory; not unique, not trusted")
	choice(node, &o.keyType, "key-type", "of the account's key, when it is made", "ed25519", "rsa")
	fs.IntVar(&o.rsaBits, "rsa-bits", 3072, "size of an RSA key")
	option(node, "rsa-bits")
	text(node, &o.api, "api", "local API: unix:`PATH`, HOST:PORT or off (default unix:<data>/api.sock)")
	choice(node, &o.direct, "direct", "send to devices directly, too", "on", "off", "only")
	choice(node, &o.presence, "presence", "who may ask where this device is", "contacts", "anyone", "nobody")
	choice(both, &o.logLevel, "log-level", "of the log on standard error", "debug", "info", "warn", "error")
	choice(both, &o.logFormat, "log-format", "of the log", "text", "json")
}

func newRun(a *app) *cobra.Command {
	var opts runOptions
	cmd := &cobra.Command{
		Use:   "run --role pillar|node",
		Short: "Run a pillar or a node in the foreground",
		Long: `Run a pillar or a node in the foreground until SIGINT or SIGTERM.

Every option can also come from the environment (OBELISK_<OPTION>, dashes as
underscores) or from the file of --config; the command line wins, then the
environment.`,
		Args: cobra.NoArgs,
		RunE: a.act(func(cmd *cobra.Command, _ []string) error {
			if opts.role == "" {
				cmd.SetOut(a.errs)
				_ = cmd.Help()
				return usage("--role pillar or --role node is missing")
			}
			return a.run(cmd, &opts)
		}),
	}
	opts.register(cmd.Flags())
	return cmd
}

// process is what run needs of a Node or Pillar.
type process interface {
	Run() obelisk.RunInfo
	Done() <-chan struct{}
	Err() error
	Close() error
}

func (a *app) run(cmd *cobra.Command, o *runOptions) error {
	if err := checkRole(cmd.Flags(), o.role); err != nil {
		return err
	}
	if err := o.checkConcern(); err != nil {
		return err
	}
	log, err := a.logger(o)
	if err != nil {
		return err
	}
	relay.RouteLibraryLogs(libraryLogs{log.Handler()})
	debug.SetMemoryLimit(o.memory) // soft: the collector works harder near it
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p, err := o.open(ctx, log)
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return nil // stopped while starting
		}
		return err
	}
	if _, err := fmt.Fprintln(a.out, readyLine(p.Run())); err != nil {
		return errors.Join(fmt.Errorf("standard output: %w", err), p.Close())
	}
	select {
	case <-p.Done():
		return p.Err()
	case <-ctx.Done():
	}
	log.Info("stopping")
	stop() // from here on a second signal ends the process at once
	if pillar, ok := p.(*obelisk.Pillar); ok {
		drained, cancel := context.WithTimeout(context.Background(), drainTime)
		pillar.Drain(drained)
		cancel()
	}
	return p.Close()
}

func (o *runOptions) open(ctx context.Context, log *slog.Logger) (process, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if o.role == rolePillar {
		cfg, err := o.pillarConfig()
		if err != nil {
			return nil, err
		}
		cfg.Logger = log
		p, err := obelisk.OpenPillar(ctx, cfg)
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	cfg, err := o.nodeConfig()
	if err != nil {
		return nil, err
	}
	cfg.Logger = log
	n, err := obelisk.OpenNode(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return n, nil
}

// checkConcern refuses what a Config would take as "not said".
func (o *runOptions) checkConcern() error {
	if o.concern < 1 || o.concern > 255 {
		return usage("--concern %d: want 1 to 255 copies", o.concern)
	}
	return nil
}

// dir is the data directory: the one given or the role's default.
func (o *runOptions) dir() (string, error) {
	if o.data != "" {
		return o.data, nil
	}
	return obelisk.DefaultDir(roleOf(o.role))
}

func roleOf(name string) obelisk.Role {
	if name == rolePillar {
		return obelisk.RolePillar
	}
	return obelisk.RoleNode
}

func (o *runOptions) pillarConfig() (obelisk.PillarConfig, error) {
	dir, err := o.dir()
	if err != nil {
		return obelisk.PillarConfig{}, err
	}
	c := obelisk.PillarConfig{
		Dir: dir, Listen: o.listen, Announce: o.announce, Join: append(o.join, o.pillar...),
		NetworkKey: o.networkKey, Admission: o.admission, Home: o.home, Rejoin: o.rejoin, Concern: o.concern,
		StoreLimit: uint64(o.storeLimit), Memory: o.memory, Registration: obelisk.Registration(o.registration),
		MaxPeers: o.maxPeers, PerIP: o.perIP, PerSubnet: o.perSubnet,
		Admin: o.admin, AdminTLSCert: o.adminTLSCert, AdminTLSKey: o.adminTLSKey, AdminInsecure: o.adminInsecure,
	}
	return c, c.Validate()
}

func (o *runOptions) nodeConfig() (obelisk.NodeConfig, error) {
	dir, err := o.dir()
	if err != nil {
		return obelisk.NodeConfig{}, err
	}
	c := obelisk.NodeConfig{
		Dir: dir, Listen: o.listen, Join: append(o.join, o.pillar...), Name: o.name,
		KeyType: obelisk.KeyType(o.keyType), RSABits: o.rsaBits, Concern: o.concern,
		Direct: o.direct, Presence: o.presence, StoreLimit: uint64(o.storeLimit), API: o.api,
	}
	if c.API == "" {
		c.API = obelisk.APISocket(dir)
	}
	return c, c.Validate()
}

func readyLine(r obelisk.RunInfo) string {
	where := "admin=" + r.Admin
	if r.Role == roleNode {
		where = "api=" + r.API
	}
	if strings.HasSuffix(where, "=") {
		where += obelisk.Off
	}
	return fmt.Sprintf("ready role=%s id=%s listen=%s %s", r.Role, r.ID, strings.Join(r.Listen, ","), where)
}

func (a *app) logger(o *runOptions) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return nil, usage("--log-level: %w", err)
	}
	opts := &slog.HandlerOptions{Level: level}
	if o.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(a.errs, opts)), nil
	}
	return slog.New(slog.NewTextHandler(a.errs, opts)), nil
}

// libraryLogs passes only errors of libp2p: its warnings are about strangers
// that hang up.
type libraryLogs struct{ slog.Handler }

func (h libraryLogs) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelError && h.Handler.Enabled(ctx, l)
}

func (h libraryLogs) WithAttrs(attrs []slog.Attr) slog.Handler {
	return libraryLogs{h.Handler.WithAttrs(attrs)}
}

func (h libraryLogs) WithGroup(name string) slog.Handler {
	return libraryLogs{h.Handler.WithGroup(name)}
}
