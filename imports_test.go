package obelisk_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/obelisk-network/obelisk"

// layers is the import table: what of Obelisk a package may import, all the
// way down, and why. Packages that are not listed may import everything.
var layers = []struct {
	pkg  string
	may  []string
	why  string
	test []string // what its tests may import besides
}{
	{"internal/canon", nil, "the one codec knows nothing of what it encodes", nil},
	{"identity", []string{"internal/canon"}, "an audit boundary: keys and signatures can be judged alone", nil},
	{"seal", []string{"internal/canon"}, "an audit boundary: it takes and returns bytes, and no identity or network code can reach a secret", nil},
	{"overlay", []string{"internal/canon", "identity", "seal"}, "the domain does not know which technology carries or stores it",
		[]string{"overlay/memnet", "overlay/linktest", "overlay/storetest", "store", "gossip/replicatest"}},
	{"overlay/memnet", []string{"internal/canon", "identity", "seal", "overlay"}, "the in-memory twin of relay stands on the contract alone",
		[]string{"overlay/linktest"}},
	{"overlay/linktest", []string{"internal/canon", "identity", "seal", "overlay"}, "a conformance suite knows the contract, not who implements it", nil},
	{"overlay/storetest", []string{"internal/canon", "identity", "seal", "overlay"}, "a conformance suite knows the contract, not who implements it", nil},
	{"gossip", []string{"internal/canon", "identity", "seal", "overlay", "gossip/sketch"}, "replication runs over any Links: siblings never see siblings",
		[]string{"overlay/memnet", "store", "gossip/replicatest"}},
	{"gossip/replicatest", []string{"internal/canon", "identity", "seal", "overlay", "gossip", "gossip/sketch"},
		"a conformance suite knows the contract, not who implements it", nil},
	{"gossip/sketch", nil, "pure computation", nil},
	{"relay", []string{"internal/canon", "identity", "seal", "overlay"}, "connections carry anything: siblings never see siblings",
		[]string{"overlay/linktest"}},
	{"store", []string{"internal/canon", "identity", "seal", "overlay"}, "a disk keeps bytes: siblings never see siblings",
		[]string{"overlay/storetest"}},
	{"admin", []string{"internal/canon", "identity", "seal", "overlay"}, "pages and APIs work on interfaces: siblings never see siblings", nil},
	{"", []string{"internal/canon", "identity", "seal", "overlay", "gossip", "gossip/sketch", "relay", "store", "admin"},
		"what embedders import does not depend on a command line", nil},
}

// fences are imports from outside that only some packages may have.
var fences = []struct {
	prefix string
	except []string // parts of it that anybody may import
	only   []string // packages of Obelisk that may import it
	why    string
}{
	{"github.com/libp2p/go-libp2p", []string{"github.com/libp2p/go-libp2p/core/peer", "github.com/libp2p/go-libp2p/core/crypto"},
		[]string{"relay"}, "a libp2p host lives in relay only; IDs, keys and addresses are plain values"},
	{"github.com/hashicorp/memberlist", nil, []string{"gossip"}, "membership is gossip's"},
	{"github.com/cockroachdb/pebble", nil, []string{"store"}, "the database is store's"},
	{"github.com/spf13", nil, []string{"cmd/obelisk"}, "a library has no command line"},
	{"gopkg.in/yaml.v3", nil, []string{"cmd/obelisk"}, "a library has no configuration file"},
	{"net/http", nil, []string{"admin", "cmd/obelisk", ""}, "every HTTP surface is admin's"},
	{"net/http/pprof", nil, nil, "importing it changes http.DefaultServeMux of whoever embeds us"},
	{"crypto/hpke", nil, []string{"seal"}, "sealing is seal's"},
}

// listed is what `go list -json` says of a package.
type listed struct {
	ImportPath                         string
	Standard                           bool
	Imports, TestImports, XTestImports []string
}

func TestImports(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,Imports,TestImports,XTestImports", module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	ours := map[string]*listed{}
	d := json.NewDecoder(strings.NewReader(string(out)))
	for {
		p := new(listed)
		if err := d.Decode(p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if rel, ok := inModule(p.ImportPath); ok {
			ours[rel] = p
		}
	}
	for _, l := range layers {
		p := ours[l.pkg]
		if p == nil {
			continue // not written yet, or gone
		}
		for _, dep := range reach(ours, l.pkg, p.Imports) {
			if !slices.Contains(l.may, dep) {
				t.Errorf("%s must not import %s: %s", name(l.pkg), name(dep), l.why)
			}
		}
		for _, imp := range append(slices.Clone(p.TestImports), p.XTestImports...) {
			if dep, ok := inModule(imp); ok && dep != l.pkg && !slices.Contains(l.may, dep) && !slices.Contains(l.test, dep) {
				t.Errorf("tests of %s must not import %s: %s", name(l.pkg), name(dep), l.why)
			}
		}
	}
	for rel, p := range ours {
		if strings.HasPrefix(rel, "testnet") {
			continue // drives everything from outside
		}
		for _, f := range fences {
			if slices.Contains(f.only, rel) {
				continue
			}
			for _, imp := range p.Imports {
				if (imp == f.prefix || strings.HasPrefix(imp, f.prefix+"/")) && !slices.Contains(f.except, imp) &&
					!fencedByItself(f.prefix, imp) {
					t.Errorf("%s must not import %s: %s", name(rel), imp, f.why)
				}
			}
		}
	}
	for _, testOnly := range []string{"overlay/memnet", "overlay/linktest", "overlay/storetest", "gossip/replicatest"} {
		for rel, p := range ours {
			if slices.Contains(p.Imports, module+"/"+testOnly) && !strings.HasPrefix(rel, "testnet") {
				t.Errorf("%s must not import %s outside tests: it is not for production", name(rel), testOnly)
			}
		}
	}
}

// fencedByItself: a longer fence speaks of this import.
func fencedByItself(prefix, imp string) bool {
	for _, f := range fences {
		if len(f.prefix) > len(prefix) && (imp == f.prefix || strings.HasPrefix(imp, f.prefix+"/")) {
			return true
		}
	}
	return false
}

// reach returns the packages of Obelisk that imports lead to, all the way.
func reach(ours map[string]*listed, self string, imports []string) []string {
	var found []string
	for _, imp := range imports {
		rel, ok := inModule(imp)
		if !ok || rel == self || slices.Contains(found, rel) {
			continue
		}
		found = append(found, rel)
		if p := ours[rel]; p != nil {
			for _, r := range reach(ours, rel, p.Imports) {
				if !slices.Contains(found, r) {
					found = append(found, r)
				}
			}
		}
	}
	return found
}

// inModule returns a package's path inside the module, "" for its root.
func inModule(path string) (string, bool) {
	path, _, _ = strings.Cut(path, " ") // test variants have a suffix
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

func name(rel string) string {
	if rel == "" {
		return "obelisk"
	}
	return rel
}
