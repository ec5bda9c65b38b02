package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
	"github.com/obelisk-network/obelisk/relay"
	"github.com/obelisk-network/obelisk/store"
	"github.com/obelisk-network/obelisk/testnet"
)

// oneStream is the yardstick of catching up: what a log costs if it simply comes
// in one stream over a connection of the same kind, read from one disk, verified
// and stored on another, with no vectors, heads or acknowledgements. It reads the
// own logs on the disk of p, which is down, and returns how long they took, how
// many entries they have, and how many bytes those.
func (b *bench) oneStream(ctx context.Context, p *testnet.Process, network identity.NetworkID) (r streamed, err error) {
	key, err := identity.LoadPillarKey(filepath.Join(p.Data, "pillar.key"))
	if err != nil {
		return r, err
	}
	admit, err := identity.LoadNetworkKey(filepath.Join(b.pillars[0].Data, "network.key"))
	if err != nil {
		return r, err
	}
	from, err := openStore(p)
	if err != nil {
		return r, err
	}
	to, err := store.OpenPebble(store.PebbleConfig{Dir: filepath.Join(b.work, "one-stream"), Memory: 256 << 20})
	if err != nil {
		return r, errors.Join(err, from.Close())
	}
	defer func() { err = errors.Join(err, from.Close(), to.Close()) }()
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	run := func(key *identity.PillarKey, disk *store.Pebble) (*overlay.Pillar, error) {
		host := memnet.New().Host(peer.ID(key.ID()), "")
		core, err := overlay.NewPillar(overlay.PillarConfig{Network: network, Key: key, Store: disk, Links: host, Peers: host, Addrs: host.Addrs,
			Admit: func(now uint64) (identity.Admission, error) {
				return admit.Admit(key.ID(), now, now+overlay.DayMillis), nil
			}})
		if err != nil {
			host.Shutdown()
			return nil, err
		}
		running.Go(func() {
			_ = core.Run(ctx, overlay.NoMesh{}) // it fails only if run twice
			host.Shutdown()
		})
		return core, nil
	}
	provider, err := run(key, from)
	if err != nil {
		return r, err
	}
	follower, err := run(identity.NewPillarKey(), to)
	if err != nil {
		return r, err
	}
	for _, state := range provider.Logs() {
		if state.Pillar != key.ID() || state.Seq == 0 {
			continue
		}
		if err := r.copy(ctx, b.transport, network, key, state, provider, follower); err != nil {
			return r, err
		}
	}
	return r, nil
}

// streamed is what went through one stream.
type streamed struct {
	took    time.Duration
	entries int
	bytes   uint64 // of the records
}

// protoStream is what the yardstick's stream speaks.
const protoStream overlay.Protocol = "/obelisk/bench-stream/1"

// copy has one log go from a pillar to another.
func (r *streamed) copy(ctx context.Context, transport string, network identity.NetworkID, key *identity.PillarKey, state overlay.LogState, provider, follower *overlay.Pillar) error {
	listen := "/ip4/127.0.0.1/udp/0/quic-v1"
	if transport == "tcp" {
		listen = "/ip4/127.0.0.1/tcp/0"
	}
	addr, err := multiaddr.NewMultiaddr(listen)
	if err != nil {
		return err
	}
	server, err := relay.New(relay.Config{Key: identity.NewPillarKey().Private(), Role: relay.RolePillar, Listen: []multiaddr.Multiaddr{addr}})
	if err != nil {
		return err
	}
	defer server.Shutdown()
	failed := make(chan error, 1)
	server.Handle(protoStream, func(s overlay.Stream) {
		defer s.Close()
		failed <- serve(s, provider, state)
	})
	if err := server.Listen(); err != nil {
		return err
	}
	client, err := relay.New(relay.Config{Key: identity.NewDeviceKey().Private(), Role: relay.RoleNode})
	if err != nil {
		return err
	}
	defer client.Shutdown()
	if err := client.Connect(ctx, server.ID(), server.Addrs()); err != nil {
		return err
	}
	began := time.Now()
	s, err := client.Open(ctx, server.ID(), protoStream)
	if err != nil {
		return err
	}
	defer s.Reset()
	if _, err := s.Write([]byte{0}); err != nil { // a stream is seen with its first byte
		return err
	}
	if err := r.take(ctx, s, network, key, state, follower); err != nil {
		return err
	}
	r.took += time.Since(began)
	return <-failed
}

// serve writes a log to a stream, as it lies on the disk.
func serve(s overlay.Stream, provider *overlay.Pillar, state overlay.LogState) error {
	if _, err := s.Read(make([]byte, 1)); err != nil {
		return err
	}
	var frame []byte
	for from := uint64(1); from <= state.Seq; {
		entries, err := provider.Read(state.Log, from, overlay.FrameTarget)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return fmt.Errorf("log %s ends at %d of %d", state.Log, from-1, state.Seq)
		}
		batch := &overlay.Batch{Log: state.Log, From: from, Entries: entries}
		for i := range entries {
			from += entries[i].Len()
		}
		frame = overlay.AppendFrame(frame[:0], batch)
		if _, err := s.Write(frame); err != nil {
			return err
		}
	}
	return s.CloseWrite()
}

// take verifies and stores what comes. While one batch is stored the next is
// read and its hashes computed.
func (r *streamed) take(ctx context.Context, s overlay.Stream, network identity.NetworkID, key *identity.PillarKey, state overlay.LogState, follower *overlay.Pillar) error {
	frames := overlay.NewFrameReader(s)
	frames.Accept()
	runs := make(chan overlay.LogRun, 1)
	applied := make(chan error, 1)
	go func() {
		var err error
		for run := range runs {
			if err == nil {
				_, err = follower.Apply(ctx, run)
			}
		}
		applied <- err
	}()
	read := func() error {
		before := overlay.ChainStart(state.Log)
		for next := uint64(1); next <= state.Seq; {
			m, err := frames.Next()
			if err != nil {
				return err
			}
			batch, ok := m.(*overlay.Batch)
			if !ok {
				return fmt.Errorf("%T in the stream", m)
			}
			run := overlay.LogRun{From: batch.From, Before: before, Entries: batch.Entries,
				State: overlay.LogState{Pillar: state.Pillar, Nonce: state.Nonce}}
			for i := range batch.Entries {
				e := &batch.Entries[i]
				if e.Raw != nil {
					rec, err := overlay.ParseRecord(network, e.Raw)
					if err != nil {
						return err
					}
					e.ID, e.Expires = rec.ID, rec.Expires
					r.bytes += uint64(len(e.Raw))
				}
				before = overlay.ChainEntry(before, e)
				next += e.Len()
				r.entries++
			}
			run.State.Position = overlay.Position{Log: state.Log, Seq: next - 1, Hash: before}
			run.State.Head = &overlay.Head{Pillar: state.Pillar, Nonce: state.Nonce, Seq: next - 1, Hash: before,
				BaseHash: overlay.ChainStart(state.Log), Dies: state.Dies}
			run.State.Head.Sign(network, key) // as if it had come with the batch
			runs <- run
		}
		return nil
	}
	err := read()
	close(runs)
	return errors.Join(err, <-applied)
}
