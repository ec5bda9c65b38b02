package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/obelisk-network/obelisk/testnet"
)

// atOnce is how many processes start at the same time: each takes a good part
// of a second of one core.
const atOnce = 4

// start brings up a network: the pillars, then the nodes, each of which is told
// one pillar. It returns when all are ready; being connected is a later matter.
func start(ctx context.Context, n *testnet.Network, pillars, nodes int) error {
	if _, err := n.StartPillar(ctx, pillarName(0)); err != nil {
		return err
	}
	err := several(pillars-1, func(i int) error {
		_, err := n.StartPillar(ctx, pillarName(i+1))
		return err
	})
	if err != nil {
		return err
	}
	byName := make(map[string]*testnet.Process)
	for _, p := range n.Pillars() {
		byName[p.Name] = p
	}
	return several(nodes, func(i int) error {
		_, err := n.StartNode(ctx, nodeName(i), byName[pillarName(i%pillars)])
		return err
	})
}

// several calls fn for 0 to n-1, a few at a time, and stops at an error.
func several(n int, fn func(i int) error) error {
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	errs := make([]error, n)
	var failed sync.Once
	stop := make(chan struct{})
	for i := range n {
		select {
		case slots <- struct{}{}:
		case <-stop:
		}
		select {
		case <-stop:
			wg.Wait()
			return errors.Join(errs...)
		default:
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if errs[i] = fn(i); errs[i] != nil {
				failed.Do(func() { close(stop) })
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// connected returns when everybody sees everybody.
func connected(ctx context.Context, n *testnet.Network) error {
	pillars := n.Pillars()
	if err := testnet.WaitTogether(ctx, pillars, len(pillars)); err != nil {
		return err
	}
	return testnet.WaitConnected(ctx, n.Nodes(), len(pillars))
}

func up(ctx context.Context, s *settings, out io.Writer) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	n, err := testnet.Create(s.dir, s.binary, testnet.Options{Memory: memoryOf(s), NodeMemory: memoryOf(s), StoreLimit: storeLimit})
	if err != nil {
		return err
	}
	err = start(ctx, n, s.pillars, s.nodes)
	ready := time.Since(began)
	if err == nil {
		err = connected(ctx, n)
	}
	if err != nil {
		n.KillAll()
		return fmt.Errorf("%w (logs: %s)", err, n.Dir)
	}
	fmt.Fprintf(out, "%d pillars and %d nodes run, ready after %.1f s, all connected after %.1f s.\n",
		s.pillars, s.nodes, ready.Seconds(), time.Since(began).Seconds())
	fmt.Fprintf(out, "They are listed in %s/testnet.json; their logs lie beside it.\n", n.Dir)
	fmt.Fprintf(out, "Look:  testnet/run.sh status --dir %s\nEnd:   testnet/run.sh down --dir %s\n", n.Dir, n.Dir)
	return nil
}

// storeLimit is each pillar's --store-limit: small, so that it works on a disk that
// is nearly full of other things.
const storeLimit = "4GiB"

// memoryOf is the memory budget of each process: small, there may be many.
func memoryOf(s *settings) string {
	if s.memory != "" {
		return s.memory
	}
	return "48MiB"
}

func down(ctx context.Context, s *settings, out io.Writer) error {
	n, err := testnet.Open(s.dir)
	if err != nil {
		return err
	}
	ran := 0
	for _, p := range n.Processes() {
		if p.Alive() {
			ran++
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := n.Down(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d processes ended, %d had ended before. The data is still in %s.\n", ran, len(n.Processes())-ran, n.Dir)
	return nil
}

// line is what status shows of a process.
type line struct {
	testnet.Entry
	Alive bool   `json:"alive"`
	Error string `json:"error,omitempty"`

	PillarsAlive   int    `json:"pillars_alive,omitempty"` // a pillar's
	NodesConnected int    `json:"nodes_connected,omitempty"`
	Records        uint64 `json:"records,omitempty"`
	Converged      bool   `json:"converged,omitempty"`

	Pillar       string `json:"pillar,omitempty"` // a node's: names of this network
	Standby      string `json:"standby,omitempty"`
	PillarsKnown int    `json:"pillars_known,omitempty"`
	NodesKnown   int    `json:"nodes_known,omitempty"`
	Received     int    `json:"received,omitempty"`
	Waiting      int    `json:"waiting,omitempty"`
}

func status(ctx context.Context, s *settings, out io.Writer) error {
	n, err := testnet.Open(s.dir)
	if err != nil {
		return err
	}
	procs := n.Processes()
	pillars := make(map[string]string)
	for _, p := range procs {
		pillars[p.ID] = p.Name
	}
	lines := make([]line, len(procs))
	_ = several(len(procs), func(i int) error {
		lines[i] = look(ctx, procs[i], pillars)
		return nil
	})
	if s.json {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(lines)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PILLAR\tPID\tSTATE\tPILLARS\tNODES\tRECORDS\tCONVERGED\tADMIN")
	for _, l := range lines {
		if l.Role == testnet.RolePillar {
			fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%d\t%d\t%v\t%s\n", l.Name, l.PID, l.state(), l.PillarsAlive, l.NodesConnected, l.Records, l.Converged, l.Admin)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	fmt.Fprintln(w, "NODE\tPID\tSTATE\tACTIVE\tSTANDBY\tKNOWS\tRECEIVED\tWAITING")
	for _, l := range lines {
		if l.Role == testnet.RoleNode {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%d pillars, %d nodes\t%d\t%d\n", l.Name, l.PID, l.state(),
				l.Pillar, l.Standby, l.PillarsKnown, l.NodesKnown, l.Received, l.Waiting)
		}
	}
	return w.Flush()
}

func (l *line) state() string {
	switch {
	case !l.Alive:
		return "ended"
	case l.Error != "":
		return "silent"
	default:
		return "runs"
	}
}

func look(ctx context.Context, p *testnet.Process, pillars map[string]string) line {
	l := line{Entry: p.Entry, Alive: p.Alive()}
	if !l.Alive {
		return l
	}
	if p.Role == testnet.RolePillar {
		st, err := p.PillarStatus(ctx)
		if err != nil {
			l.Error = err.Error()
			return l
		}
		l.PillarsAlive, l.NodesConnected, l.Records, l.Converged = st.PillarsAlive, st.NodesConnected, st.Records, st.Converged
		return l
	}
	st, err := p.NodeStatus(ctx)
	if err != nil {
		l.Error = err.Error()
		return l
	}
	l.Pillar, l.Standby = pillars[st.Pillar], pillars[st.Standby]
	l.PillarsKnown, l.NodesKnown = st.PillarsKnown, st.NodesKnown
	l.Received = st.Inbox.Total
	l.Waiting = st.Outbox.Queued + st.Outbox.Stored + st.Outbox.Replicated
	return l
}
