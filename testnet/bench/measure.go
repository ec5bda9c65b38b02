package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/obelisk-network/obelisk/testnet"
)

// usage is what processes have used up to a moment.
type usage struct {
	at      time.Time
	pillars time.Duration // CPU time of all pillars together
	self    time.Duration // and of the load generator
	wire    uint64        // bytes over the loopback interface, headers included
}

// clockTick is the unit of CPU times in /proc: 100 a second on every Linux that
// Go runs on.
const clockTick = 10 * time.Millisecond

// measure reads usage. Where the system has no /proc all but the time is 0.
func measure(pillars []*testnet.Process) usage {
	u := usage{at: time.Now(), self: cpuTime(os.Getpid()), wire: loopbackBytes()}
	for _, p := range pillars {
		u.pillars += cpuTime(p.PID)
	}
	return u
}

// cpuTime is the user and system time of a process.
func cpuTime(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The second field, the name in parentheses, may hold spaces.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * clockTick
}

// loopbackBytes is what the loopback interface has received since the machine
// started: every packet once.
func loopbackBytes() uint64 {
	b, err := os.ReadFile("/sys/class/net/lo/statistics/rx_bytes")
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// rss is the resident memory of a process in bytes.
func rss(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	n, _ := strconv.ParseUint(fields[1], 10, 64)
	return n * uint64(os.Getpagesize())
}

// scrape reads a pillar's metrics; samples that differ in labels are added up.
func scrape(ctx context.Context, p *testnet.Process) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Admin+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics of %s: %s", p.Name, resp.Status)
	}
	out := make(map[string]float64)
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, ok := sample(lines.Text())
		if ok {
			out[name] += value
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("metrics of %s: %w", p.Name, err)
	}
	return out, nil
}

// sample reads a line of Prometheus' text format, `name{labels} value`, without
// its labels; ok is false for comments.
func sample(line string) (name string, value float64, ok bool) {
	if line == "" || line[0] == '#' {
		return "", 0, false
	}
	end := strings.LastIndexByte(line, ' ') // no timestamps: nobody asked for them
	if end < 0 {
		return "", 0, false
	}
	name, _, _ = strings.Cut(line[:end], "{")
	value, err := strconv.ParseFloat(line[end+1:], 64)
	return name, value, err == nil
}

// scrapeAll adds up the metrics of all pillars.
func scrapeAll(ctx context.Context, pillars []*testnet.Process) (map[string]float64, error) {
	sum := make(map[string]float64)
	for _, p := range pillars {
		m, err := scrape(ctx, p)
		if err != nil {
			return nil, err
		}
		for k, v := range m {
			sum[k] += v
		}
	}
	return sum, nil
}

// megabytes is bytes in units of 1e6, as people count them.
func megabytes(b uint64) float64 { return round(float64(b)/1e6, 1) }

func round(v float64, digits int) float64 {
	f := math.Pow10(digits)
	return math.Round(v*f) / f
}

// loadAverage is how many processes wanted to run in the last minute.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

// machine describes where the figures come from.
func machine() string {
	return fmt.Sprintf("%d cores, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
}
