package overlay_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/goleak"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
	"github.com/obelisk-network/obelisk/seal"
	"github.com/obelisk-network/obelisk/store"
)

// A pillarRig is one running pillar on a network in memory, and the keys of
// its network.
type pillarRig struct {
	*testNetwork
	net    *memnet.Network
	host   *memnet.Host
	store  *watchedStore
	pillar *overlay.Pillar
	stop   func()
	others overlay.Locator // nil: nobody
	// unscrubbed: start does not wait for the first pass of the scrub.
	unscrubbed bool
}

// watchedStore is a store in memory whose commits can be held up and counted.
type watchedStore struct {
	*store.Memory
	commits atomic.Int64
	gate    atomic.Pointer[commitGate] // a commit waits until it is opened
	scrubs  scrubGate
	entered chan struct{} // gets a value, if there is room, when one waits
	open    atomic.Int64  // views that are not closed
	visited atomic.Int64  // entries of boxes that were read
}

// watchedView counts itself and what is read of boxes.
type watchedView struct {
	overlay.View
	store *watchedStore
}

func (w *watchedStore) View() overlay.View {
	w.open.Add(1)
	return &watchedView{w.Memory.View(), w}
}

func (v *watchedView) Box(box overlay.BoxID, after, to uint64, minDay overlay.Day, bodies bool, fn func(overlay.BoxEntry) bool) error {
	return v.View.Box(box, after, to, minDay, bodies, func(e overlay.BoxEntry) bool {
		v.store.visited.Add(1)
		return fn(e)
	})
}

func (v *watchedView) Parts() overlay.Parts {
	v.store.scrubs.wait()
	return v.View.Parts()
}

// scrubGate holds up the scrub of a store.
type scrubGate struct{ gate atomic.Pointer[chan struct{}] }

func (g *scrubGate) wait() {
	if gate := g.gate.Load(); gate != nil {
		<-*gate
	}
}

// hold makes the scrub wait until the returned func is called.
func (g *scrubGate) hold() (release func()) {
	gate := make(chan struct{})
	g.gate.Store(&gate)
	return sync.OnceFunc(func() { g.gate.Store(nil); close(gate) })
}

func (v *watchedView) Close() error {
	v.store.open.Add(-1)
	return v.View.Close()
}

func newWatchedStore() *watchedStore {
	return &watchedStore{Memory: store.NewMemory(), entered: make(chan struct{}, 1)}
}

// hold makes commits wait until the returned func is called.
func (w *watchedStore) hold() (release func()) {
	return w.holdSome(func(*overlay.Commit) bool { return true })
}

// holdSome is hold for those commits that are meant.
func (w *watchedStore) holdSome(meant func(*overlay.Commit) bool) (release func()) {
	gate := &commitGate{opened: make(chan struct{}), meant: meant}
	w.gate.Store(gate)
	return func() { w.gate.Store(nil); close(gate.opened) }
}

// commitGate is what commits wait at.
type commitGate struct {
	opened chan struct{}
	meant  func(*overlay.Commit) bool
}

func (w *watchedStore) Commit(c *overlay.Commit) (overlay.Committed, error) {
	if gate := w.gate.Load(); gate != nil && gate.meant(c) {
		select {
		case w.entered <- struct{}{}:
		default:
		}
		<-gate.opened
	}
	w.commits.Add(1)
	return w.Memory.Commit(c)
}

// patience is what anything here may take, on however slow a machine: waits end
// as soon as what they are for has happened.
const patience = 2 * time.Minute

type rigOption func(*overlay.PillarConfig)

func newPillarRig(t testing.TB, mesh overlay.Mesh, opts ...rigOption) *pillarRig {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, leaks) })
	rig := &pillarRig{testNetwork: newTestNetwork(t), net: memnet.New(), store: newWatchedStore()}
	rig.start(mesh, identity.NewPillarKey(), opts...)
	return rig
}

// start runs a pillar on the rig's store. It ends with the test.
func (rig *pillarRig) start(mesh overlay.Mesh, key *identity.PillarKey, opts ...rigOption) {
	t := rig.t
	t.Helper()
	rig.host = rig.net.Host(peer.ID(key.ID()), "")
	cfg := overlay.PillarConfig{
		Network: rig.id, Key: key, Store: rig.store, Links: rig.host, Peers: rig.host,
		Admit: func(now uint64) (identity.Admission, error) {
			return rig.key.Admit(key.ID(), now, now+20*overlay.DayMillis), nil
		},
		Addrs: rig.host.Addrs,
	}
	for _, o := range opts {
		o(&cfg)
	}
	p, err := overlay.NewPillar(cfg)
	rig.pillar = must(t, p, err)
	if rig.others != nil {
		p.LocateThrough(rig.others)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	if mesh == nil {
		mesh = overlay.NoMesh{}
	}
	go func() { done <- p.Run(ctx, mesh) }()
	stopped := false
	rig.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		rig.host.Shutdown()
	}
	t.Cleanup(func() { rig.stop() })
	if !rig.unscrubbed {
		rig.scrubbed()
	}
}

// scrubbed waits for the end of the first pass of the scrub.. It takes twice its
// time, and was perhaps held up.
func (rig *pillarRig) scrubbed() {
	rig.t.Helper()
	for end := time.Now().Add(time.Hour); !rig.pillar.Scrubbed(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			rig.t.Fatal("the first pass of the scrub does not end")
		}
	}
}

// A testDevice is a device with its account, and signs what it is told to.
type testDevice struct {
	rig     *pillarRig
	account *identity.AccountKey
	key     *identity.DeviceKey
	cert    []byte
	seq     uint64
}

func (rig *pillarRig) device(account *identity.AccountKey) *testDevice {
	rig.t.Helper()
	if account == nil {
		k, err := identity.NewAccountKey(identity.KeyEd25519, 0)
		account = must(rig.t, k, err)
	}
	d := &testDevice{rig: rig, account: account, key: identity.NewDeviceKey(), seq: 1}
	d.certify(rig.id, 1, time.Now().Add(-24*time.Hour), time.Now().Add(200*24*time.Hour))
	return d
}

func (d *testDevice) certify(network identity.NetworkID, serial uint64, from, to time.Time) {
	cert, err := d.account.Certify(network, d.key.ID(), serial, millis(from), millis(to))
	d.cert = must(d.rig.t, cert, err).Append(nil)
}

func (d *testDevice) id() identity.AccountID { return d.account.ID() }

// sign signs a record of the device; change may alter it first.
func (d *testDevice) sign(kind overlay.Kind, to []identity.AccountID, bin []byte, change func(*overlay.Draft)) []byte {
	d.rig.t.Helper()
	now := millis(time.Now())
	draft := overlay.Draft{Kind: kind, Author: string(d.id()), Signer: d.cert, To: to,
		Created: now, Expires: now + overlay.DayMillis, Bin: bin}
	if kind == overlay.KindMessage {
		for range to {
			draft.Sequences = append(draft.Sequences, overlay.Sequence{Seq: d.seq + 1, Prev: d.seq})
		}
		d.seq++
	}
	if change != nil {
		change(&draft)
	}
	rec, err := draft.Sign(d.rig.id, d.key)
	return must(d.rig.t, rec, err).Raw
}

// message signs a message with a random body.
func (d *testDevice) message(to identity.AccountID) []byte {
	bin := make([]byte, 100)
	for i := range bin {
		bin[i] = byte(rand.Uint32())
	}
	return d.sign(overlay.KindMessage, []identity.AccountID{to}, bin, nil)
}

func (d *testDevice) accountRecord(counter uint64, removed ...overlay.DeviceSerial) []byte {
	d.rig.t.Helper()
	now := millis(time.Now())
	info := overlay.AccountInfo{Counter: counter, Devices: []overlay.DeviceSerial{{Device: d.key.ID(), Serial: 1}}, Removed: removed}
	draft := overlay.Draft{Kind: overlay.KindAccount, Author: string(d.id()), Created: now,
		Expires: now + 30*overlay.DayMillis, Bin: info.Append(nil)}
	if d.account.Type() == identity.KeyRSA {
		draft.Signer = d.account.Public().Marshal()
	}
	rec, err := draft.Sign(d.rig.id, d.account)
	return must(d.rig.t, rec, err).Raw
}

func (d *testDevice) deviceRecord(name string) []byte {
	info := overlay.DeviceInfo{Name: name, Keys: []seal.PublicKey{}}
	return d.sign(overlay.KindDevice, nil, info.Append(nil), nil)
}

// A testClient is a session, driven frame by frame.
type testClient struct {
	*testDevice
	stream overlay.Stream
	frames *overlay.FrameReader
	next   uint64 // number of the next submission
}

// open opens a stream to the pillar from a host of the device's.
func (d *testDevice) open() *testClient {
	d.rig.t.Helper()
	host := d.rig.net.Host(peer.ID(d.key.ID()), "-")
	d.rig.t.Cleanup(func() { host.Shutdown() })
	return d.openFrom(host)
}

func (d *testDevice) openFrom(host *memnet.Host) *testClient {
	t := d.rig.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := host.Connect(ctx, d.rig.host.Self(), d.rig.host.Addrs()); err != nil {
		t.Fatal(err)
	}
	s, err := host.Open(ctx, d.rig.host.Self(), overlay.ProtoNode)
	c := &testClient{testDevice: d, stream: must(t, s, err), next: 1}
	c.frames = overlay.NewFrameReader(c.stream)
	c.frames.Accept()
	return c
}

func (c *testClient) send(ms ...overlay.Message) {
	c.rig.t.Helper()
	var b []byte
	for _, m := range ms {
		b = overlay.AppendFrame(b, m)
	}
	c.stream.SetWriteDeadline(time.Now().Add(patience))
	if _, err := c.stream.Write(b); err != nil {
		c.rig.t.Fatalf("write: %v", err)
	}
}

// read returns the next message; roster pushes are passed over.
func (c *testClient) read() (overlay.Message, error) {
	for {
		c.stream.SetReadDeadline(time.Now().Add(patience))
		m, err := c.frames.Next()
		if _, roster := m.(*overlay.RosterMsg); !roster {
			return m, err
		}
	}
}

// expect returns the next message, which must be a T.
func expect[T overlay.Message](c *testClient) T {
	c.rig.t.Helper()
	m, err := c.read()
	if err != nil {
		c.rig.t.Fatalf("expected %T: %v", *new(T), err)
	}
	got, ok := m.(T)
	if !ok {
		if b, busy := m.(*overlay.Busy); busy {
			c.rig.t.Fatalf("expected %T, got Busy: %v", *new(T), b.Err)
		}
		c.rig.t.Fatalf("expected %T, got %T %+v", *new(T), m, m)
	}
	return got
}

// ended checks that the pillar closes the stream.
func (c *testClient) ended() {
	c.rig.t.Helper()
	if m, err := c.read(); err == nil {
		c.rig.t.Fatalf("expected the end, got %T", m)
	} else if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
		c.rig.t.Logf("the stream ended with %v", err)
	}
}

func (c *testClient) hello() *overlay.Hello {
	return &overlay.Hello{Role: overlay.RoleNode, Formats: overlay.Format, Network: c.rig.id,
		Time: millis(time.Now()), Account: c.id(), Credential: c.cert}
}

// greet exchanges Hellos.
func (c *testClient) greet() *testClient {
	c.rig.t.Helper()
	c.send(c.hello())
	expect[*overlay.Hello](c)
	return c
}

// session opens a registered session.
func (d *testDevice) session() *testClient {
	d.rig.t.Helper()
	c := d.open().greet()
	c.register()
	return c
}

func (c *testClient) register() *overlay.Registered {
	c.rig.t.Helper()
	c.send(&overlay.Register{Account: c.accountRecord(1), Device: c.deviceRecord("dev")})
	r := expect[*overlay.Registered](c)
	if r.Err != nil {
		c.rig.t.Fatalf("register: %v", r.Err)
	}
	return r
}

// submit sends records in one frame and returns their numbers.
func (c *testClient) submit(concern uint64, records ...[]byte) (first uint64) {
	c.rig.t.Helper()
	first = c.next
	c.send(&overlay.Submit{First: first, Concern: concern, Records: records})
	c.next += uint64(len(records))
	return first
}

// results reads until n lines have come and returns them by number.
func (c *testClient) results(n int) map[uint64]overlay.ResultLine {
	c.rig.t.Helper()
	lines := map[uint64]overlay.ResultLine{}
	for len(lines) < n {
		for _, l := range expect[*overlay.Result](c).Lines {
			if _, twice := lines[l.N]; twice {
				c.rig.t.Fatalf("submission %d answered twice", l.N)
			}
			lines[l.N] = l
		}
	}
	return lines
}

// one submits one record and returns its answer.
func (c *testClient) one(raw []byte) overlay.ResultLine {
	c.rig.t.Helper()
	n := c.submit(1, raw)
	return c.results(1)[n]
}

// resume reads a box to its end and returns the records and the new cursor.
func (c *testClient) resume(box overlay.BoxKind, cursor overlay.Vector, live bool) (records [][]byte, next overlay.Vector) {
	c.rig.t.Helper()
	c.send(&overlay.Resume{Box: box, Cursor: cursor, Live: live})
	for {
		p := expect[*overlay.Page](c)
		records = append(records, p.Records...)
		c.send(&overlay.Saved{Box: box, To: p.To})
		if p.Last {
			return records, expect[*overlay.CursorMsg](c).Cursor
		}
	}
}

// pushes reads pushed records until there are n, saying Saved for each push.
func (c *testClient) pushes(n int) (records [][]byte) {
	c.rig.t.Helper()
	for len(records) < n {
		m, err := c.read()
		if err != nil {
			c.rig.t.Fatal(err)
		}
		switch p := m.(type) {
		case *overlay.Push:
			records = append(records, p.Records...)
			c.send(&overlay.Saved{Box: overlay.BoxMail, To: p.To})
		case *overlay.CursorMsg: // every few seconds
		default:
			c.rig.t.Fatalf("%T between pushes", m)
		}
	}
	return records
}

func idOf(t testing.TB, n identity.NetworkID, raw []byte) overlay.RecordID {
	t.Helper()
	rec, err := overlay.ParseRecord(n, raw)
	return must(t, rec, err).ID
}
