package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"obelisk": main})
}

// Scripts in testdata/script run the real binary. Beside testscript's own
// commands there are
//
//	start NAME ARGS…     run obelisk in the background until it prints its first
//	                     line, to NAME.out; its standard error goes to NAME.err
//	end NAME             SIGTERM, and it must exit 0 (stop is testscript's own: it ends the script)
//	ended NAME           it exits 0 by itself
//	until REGEXP ARGS…   obelisk ARGS prints something that matches, sooner or later
//	set VAR FILE REGEXP  $VAR = the group of REGEXP in FILE (stdout: the last output)
//	mode FILE OCTAL      FILE has that mode
//	cert CERT KEY        PEM files of a fresh certificate for 127.0.0.1
//	browse LINK PATH RE  a browser that opens LINK gets something like RE at PATH;
//	                     another that opens it later is refused
//	exit CODE ARGS…      obelisk ARGS exits with CODE; its output is checked with
//	                     stdout and stderr as after exec
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatal("no scripts: ", err)
	}
	for _, name := range scripts {
		if b, err := os.ReadFile(name); err != nil || regexp.MustCompile(`(?m)^stop\b`).Match(b) {
			t.Errorf("%s: stop ends a script early and passes it: end NAME ends a process (%v)", name, err)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("XDG_DATA_HOME", filepath.Join(e.WorkDir, "share"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("OBELISK_STORE_LIMIT", "1GiB") // how full this machine's disk is matters not
			// The race detector waits a second at every exit otherwise.
			e.Setenv("GORACE", "atexit_sleep_ms=0")
			e.Values[processes] = map[string]*background{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"start": start, "end": end, "ended": ended, "until": until, "set": set, "mode": mode, "cert": cert, "exit": exit,
			"browse": browser,
		},
	})
}

const processes = "processes"

// patience is what anything here may take, on however slow a machine: waits end
// as soon as what they are for has happened.
const patience = 2 * time.Minute

// background is a process that start started; err counts once ended is closed.
type background struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error
}

func started(ts *testscript.TestScript) map[string]*background {
	return ts.Value(processes).(map[string]*background)
}

func start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start name args…")
	}
	name := args[0]
	cmd := exec.Command("obelisk", args[1:]...)
	if path, err := exec.LookPath("obelisk"); err == nil {
		cmd.Path = path
	}
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+ts.Getenv("XDG_DATA_HOME"), "HOME="+ts.Getenv("HOME"), "GORACE="+ts.Getenv("GORACE"))
	for _, v := range []string{"OBELISK_ROLE", "OBELISK_DATA", "OBELISK_NAME", "OBELISK_CONFIG", "OBELISK_LISTEN", "OBELISK_ADMIN"} {
		if value := ts.Getenv(v); value != "" {
			cmd.Env = append(cmd.Env, v+"="+value)
		}
	}
	errs, err := os.Create(ts.MkAbs(name + ".err"))
	ts.Check(err)
	out, err := os.Create(ts.MkAbs(name + ".out"))
	ts.Check(err)
	cmd.Stdout, cmd.Stderr = out, errs
	ts.Check(cmd.Start())
	p := &background{cmd: cmd, ended: make(chan struct{})}
	started(ts)[name] = p
	go func() {
		defer close(p.ended)
		p.err = cmd.Wait()
		out.Close()
		errs.Close()
	}()
	ts.Defer(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-p.ended
	})
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		b, err := os.ReadFile(out.Name())
		ts.Check(err)
		if strings.HasSuffix(string(b), "\n") {
			return
		}
		select {
		case <-tick.C:
		case <-p.ended:
			ts.Fatalf("%s ended: %v\n%s", name, p.err, ts.ReadFile(name+".err"))
		case <-deadline:
			ts.Fatalf("%s is not ready\n%s", name, ts.ReadFile(name+".err"))
		}
	}
}

func end(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: end name")
	}
	p := started(ts)[args[0]]
	if p == nil {
		ts.Fatalf("%s does not run", args[0])
	}
	ts.Check(p.cmd.Process.Signal(syscall.SIGTERM))
	p.await(ts, args[0])
}

func browser(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: browse link path regexp")
	}
	jar, err := cookiejar.New(nil)
	ts.Check(err)
	tr := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{Jar: jar, Transport: tr, Timeout: patience}
	get := func(c *http.Client, link string) (int, string) {
		resp, err := c.Get(link)
		ts.Check(err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		ts.Check(err)
		return resp.StatusCode, string(b)
	}
	link, err := url.Parse(strings.TrimSpace(args[0]))
	ts.Check(err)
	if status, body := get(client, link.String()); status != http.StatusOK {
		ts.Fatalf("%s: status %d: %s", link, status, body)
	}
	page := url.URL{Scheme: link.Scheme, Host: link.Host, Path: args[1]}
	if status, body := get(client, page.String()); status != http.StatusOK || !regexp.MustCompile(args[2]).MatchString(body) {
		ts.Fatalf("%s: status %d: %s", &page, status, body)
	}
	if status, body := get(&http.Client{Transport: tr, Timeout: patience}, link.String()); status != http.StatusForbidden {
		ts.Fatalf("the link a second time: status %d: %s", status, body)
	}
}

func ended(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ended name")
	}
	p := started(ts)[args[0]]
	if p == nil {
		ts.Fatalf("%s does not run", args[0])
	}
	p.await(ts, args[0])
}

func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until regexp args…")
	}
	want := regexp.MustCompile(args[0])
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		if err := ts.Exec("obelisk", args[1:]...); err == nil && want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("never printed %s:\n%s\n%s", args[0], ts.ReadFile("stdout"), ts.ReadFile("stderr"))
		}
	}
}

// await returns when the process has ended, which must be with 0.
func (p *background) await(ts *testscript.TestScript, name string) {
	select {
	case <-p.ended:
		if p.err != nil {
			ts.Fatalf("%s: %v\n%s", name, p.err, ts.ReadFile(name+".err"))
		}
	case <-time.After(patience):
		ts.Fatalf("%s does not stop\n%s", name, ts.ReadFile(name+".err"))
	}
}

func set(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: set var file regexp")
	}
	m := regexp.MustCompile(args[2]).FindStringSubmatch(ts.ReadFile(args[1]))
	if len(m) < 2 {
		ts.Fatalf("no %s in %s:\n%s", args[2], args[1], ts.ReadFile(args[1]))
	}
	ts.Setenv(args[0], m[1])
}

func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode file octal")
	}
	info, err := os.Lstat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

func cert(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: cert cert key")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ts.Check(err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
}

func exit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: exit code args…")
	}
	code := 0
	if err := ts.Exec("obelisk", args[1:]...); err != nil {
		code = -1
		if e, ok := err.(*exec.ExitError); ok {
			code = e.ExitCode()
		}
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit %d, want %s", code, args[0])
	}
}
