package main

import (
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const modulePath = "github.com/dmguard/dmguard"

// mayImport is the import order of ARCHITECTURE.md: for every package of the
// module, which others of ours it may import. "dir/..." is dir and all below.
var mayImport = map[string][]string{
	"configs":         nil,
	"hashdb":          nil,
	"hashdb/exchange": {"hashdb", "hashdb/lists"},
	"hashdb/lists":    {"hashdb", "hashdb/pdq"},
	"hashdb/pdq":      nil,

	"pipeline":            nil,
	"pipeline/envelope":   {"pipeline"},
	"pipeline/kafka":      {"pipeline"},
	"pipeline/media":      {"pipeline"},
	"pipeline/secondlook": {"pipeline"},
	"pipeline/state":      {"pipeline"},

	"detectors":                     {"detectors/...", "hashdb", "hashdb/lists", "pipeline"},
	"detectors/grooming":            {"hashdb", "pipeline"},
	"detectors/grooming/evaluation": {"detectors/grooming", "pipeline"},
	"detectors/grooming/training":   {"detectors/grooming", "pipeline"},
	"detectors/hashmatch":           {"hashdb", "hashdb/lists", "hashdb/pdq", "pipeline", "pipeline/media"},

	"reviewqueue":          {"pipeline", "reviewqueue/access", "reviewqueue/audit", "reviewqueue/evidence"},
	"reviewqueue/access":   {"pipeline"},
	"reviewqueue/audit":    nil,
	"reviewqueue/evidence": {"pipeline", "reviewqueue/audit"},
	"reviewqueue/console":  {"pipeline", "reviewqueue", "reviewqueue/..."},

	"cmd/dmguard":     {"configs", "detectors/...", "hashdb/...", "pipeline/...", "reviewqueue/..."},
	"cmd/testservers": nil,
}

// keptOut says which third-party imports are kept to some packages.
var keptOut = []struct {
	imported string // a path, and all below it
	from     func(pkg string) bool
	why      string
}{
	{
		"github.com/segmentio/kafka-go", func(pkg string) bool { return pkg != "pipeline/kafka" },
		"pipeline/kafka alone knows the Kafka client",
	},
	{"net/http", isDetector, "a detector fetches nothing"},
	{"github.com/redis/go-redis", isDetector, "a detector keeps nothing"},
	{
		"go.etcd.io/bbolt", func(pkg string) bool { return pkg != "pipeline/state" && pkg != "hashdb/lists" },
		"pipeline/state alone knows how a scan keeps what it cannot hold, hashdb/lists how records are kept",
	},
}

func isDetector(pkg string) bool { return within("detectors/...", pkg) }

// within reports whether pkg is what pattern names.
func within(pattern, pkg string) bool {
	if dir, all := strings.CutSuffix(pattern, "/..."); all {
		return pkg == dir || strings.HasPrefix(pkg, dir+"/")
	}
	return pattern == pkg
}

// imports is what "go list" says of the module: the imports of each package,
// without those of its tests.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-f", `{{.ImportPath}} {{.Name}} {{join .Imports " "}}`, modulePath+"/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		pkg := strings.TrimPrefix(fields[0], modulePath+"/")
		if want := path.Base(pkg); fields[1] != "main" && fields[1] != want {
			t.Errorf("package %s calls itself %s", pkg, fields[1])
		}
		all[pkg] = fields[2:]
	}
	return all
}

func TestPackagesImportOnlyWhatTheOrderAllows(t *testing.T) {
	all := imports(t)
	for pkg, imported := range all {
		allowed, known := mayImport[pkg]
		if !known {
			t.Errorf("package %s is new: say in mayImport what it may import", pkg)
			continue
		}
		for _, imp := range imported {
			name, ours := strings.CutPrefix(imp, modulePath+"/")
			if ours && !slices.ContainsFunc(allowed, func(p string) bool { return within(p, name) }) {
				t.Errorf("%s imports %s, which the order does not allow", pkg, name)
			}
			for _, k := range keptOut {
				if k.from(pkg) && within(k.imported+"/...", imp) {
					t.Errorf("%s imports %s: %s", pkg, imp, k.why)
				}
			}
		}
	}
	for pkg := range mayImport {
		if _, there := all[pkg]; !there {
			t.Errorf("mayImport names %s, which is gone", pkg)
		}
	}
}

func TestTheTopLevelIsFixed(t *testing.T) {
	tops := map[string]bool{}
	vague := []string{"util", "utils", "common", "base", "types", "helpers", "errors", "internal", "pkg"}
	for pkg := range imports(t) {
		top, _, _ := strings.Cut(pkg, "/")
		tops[top] = true
		for part := range strings.SplitSeq(pkg, "/") {
			if slices.Contains(vague, part) {
				t.Errorf("package %s: the name %s says nothing", pkg, part)
			}
		}
	}
	var got []string
	for top := range tops {
		got = append(got, top)
	}
	slices.Sort(got)
	want := []string{"cmd", "configs", "detectors", "hashdb", "pipeline", "reviewqueue"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("top-level folders (-want +got):\n%s", diff)
	}
}
