package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// leastJava is the oldest Java that a Kafka 4 server runs on.
const leastJava = 17

// plan is which servers are ours to start, and whether a browser must be found.
type plan struct {
	kafka, redis, cluster, chromium bool
}

// planFor leaves out what the environment names already.
func planFor(getenv func(string) string) plan {
	return plan{
		kafka:    getenv(envBrokers) == "",
		redis:    getenv(envRedis) == "",
		cluster:  getenv(envCluster) == "",
		chromium: getenv(envChromium) == "",
	}
}

// tools are the programs a plan needs: paths, "" where the plan needs none.
type tools struct {
	redis, java, maven, chromium string
	jars                         string // the folder of Kafka's jars; to be filled by Maven when it does not exist
}

// need is one program that must be there.
type need struct {
	what     string // for people
	packages []string
	find     func() (string, bool)
	into     *string
}

// onPath finds the first of names that is a program on the PATH.
func onPath(names ...string) func() (string, bool) {
	return func() (string, bool) {
		for _, name := range names {
			if path, err := exec.LookPath(name); err == nil {
				return path, true
			}
		}
		return "", false
	}
}

func file(path string) func() (string, bool) {
	return func() (string, bool) {
		_, err := os.Stat(path)
		return path, err == nil
	}
}

// findTools finds what the plan and the command need, and installs what is missing where that is allowed.
func findTools(ctx context.Context, p plan, command []string, stderr io.Writer) (tools, error) {
	t := tools{chromium: os.Getenv(envChromium)}
	var ffmpeg string // which the tests find by themselves
	needs := []need{{"ffmpeg, for the tests of videos", []string{"ffmpeg"}, onPath("ffmpeg"), &ffmpeg}}
	if p.kafka {
		cache, err := os.UserCacheDir()
		if err != nil {
			return tools{}, fmt.Errorf("finding a folder for Kafka's jars (set HOME or XDG_CACHE_HOME): %w", err)
		}
		t.jars = jarFolder(cache)
		needs = append(needs, need{
			fmt.Sprintf("Java %d or newer, for Apache Kafka", leastJava),
			[]string{"default-jre-headless"},
			func() (string, bool) { return findJava(ctx) }, &t.java,
		})
		if _, err := os.Stat(t.jars); err != nil {
			needs = append(needs, need{"mvn, which fetches Apache Kafka", []string{"maven"}, onPath("mvn"), &t.maven})
		}
	}
	if p.redis || p.cluster {
		needs = append(needs, need{"redis-server", []string{"redis-server"}, onPath("redis-server"), &t.redis})
	}
	if p.chromium {
		needs = append(needs, need{
			"Chromium, for the console's tests",
			[]string{"chromium"},
			onPath("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"), &t.chromium,
		})
	}
	if slices.Contains(command, "-race") {
		var compiler string
		needs = append(needs, need{"a C compiler, for go test -race", []string{"gcc", "libc6-dev"}, onPath("gcc", "clang"), &compiler})
	}
	if slices.Contains(command, "-tags=turbo") {
		var header, compiler string
		needs = append(
			needs,
			need{"libjpeg-turbo, for the build tag turbo", []string{"libturbojpeg0-dev"}, file("/usr/include/turbojpeg.h"), &header},
			need{"a C compiler, for the build tag turbo", []string{"gcc", "libc6-dev"}, onPath("gcc", "clang"), &compiler},
		)
	}

	missing := locate(needs)
	if len(missing) == 0 {
		return t, nil
	}
	root := os.Geteuid() == 0
	if !mayInstall(root, os.Getenv("CI")) {
		return tools{}, errors.New(missingText(missing))
	}
	if err := install(ctx, missing, root, stderr); err != nil {
		return tools{}, fmt.Errorf("%w\n%s", err, missingText(missing))
	}
	if missing = locate(missing); len(missing) > 0 {
		return tools{}, errors.New("after installing:\n" + missingText(missing))
	}
	return t, nil
}

// mayInstall reports whether this machine is ours to add packages to.
func mayInstall(root bool, ci string) bool {
	isCI, err := strconv.ParseBool(ci)
	return root || err == nil && isCI
}

// locate fills in what is found and returns what is not.
func locate(needs []need) (missing []need) {
	for _, n := range needs {
		path, ok := n.find()
		if !ok {
			missing = append(missing, n)
			continue
		}
		*n.into = path
	}
	return missing
}

// packages are the Debian packages of all needs.
func packages(needs []need) []string {
	var all []string
	for _, n := range needs {
		all = append(all, n.packages...)
	}
	return all
}

// installCommands are the commands that install packages: without asking anything, through sudo where we are not root.
func installCommands(names []string, root bool) [][]string {
	aptGet := []string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"}
	if !root {
		aptGet = append([]string{"sudo", "-n"}, aptGet...)
	}
	return [][]string{
		slices.Concat(aptGet, []string{"update"}),
		slices.Concat(aptGet, []string{"install", "-y", "--no-install-recommends"}, names),
	}
}

// missingText says what is missing and what to type.
func missingText(missing []need) string {
	var b strings.Builder
	b.WriteString("the tests need real servers, and this machine lacks:\n")
	for _, n := range missing {
		fmt.Fprintf(&b, "  - %s\n", n.what)
	}
	fmt.Fprintf(&b, "Install with:\n  sudo apt-get update && sudo apt-get install -y --no-install-recommends %s\n", strings.Join(packages(missing), " "))
	fmt.Fprintf(&b, "As root, or with CI=true, this is done for you. Or name servers that run already: %s, %s, %s, %s.",
		envBrokers, envRedis, envCluster, envChromium)
	return b.String()
}

// install installs what is missing. A failed update alone is no error: one bad mirror among several fails it.
func install(ctx context.Context, missing []need, root bool, stderr io.Writer) error {
	names := packages(missing)
	fmt.Fprintf(stderr, "testservers: installing %s\n", strings.Join(names, " "))
	var log bytes.Buffer
	for _, argv := range installCommands(names, root) {
		// Not stopped by ctx: a package manager that is killed leaves the machine half configured.
		cmd := exec.CommandContext(context.WithoutCancel(ctx), argv[0], argv[1:]...) //nolint:gosec // fixed commands, see installCommands
		cmd.Stdout, cmd.Stderr = &log, &log
		err := cmd.Run()
		if err != nil {
			fmt.Fprintf(stderr, "testservers: %s: %v\n%s\n", strings.Join(argv, " "), err, log.Bytes())
		}
		if err != nil && slices.Contains(argv, "install") {
			return fmt.Errorf("installing %s: %w", strings.Join(names, " "), err)
		}
		log.Reset()
	}
	return ctx.Err()
}

// findJava finds a Java that is new enough: in JAVA_HOME, on the PATH, or where Debian keeps them.
func findJava(ctx context.Context) (string, bool) {
	var candidates []string
	if home := os.Getenv("JAVA_HOME"); home != "" {
		candidates = append(candidates, filepath.Join(home, "bin", "java"))
	}
	if path, err := exec.LookPath("java"); err == nil {
		candidates = append(candidates, path)
	}
	installed, _ := filepath.Glob("/usr/lib/jvm/*/bin/java")
	for _, java := range append(candidates, installed...) {
		out, err := exec.CommandContext(ctx, java, "-version").CombinedOutput() //nolint:gosec // the machine's own Java
		if err == nil && javaMajor(string(out)) >= leastJava {
			return java, true
		}
	}
	return "", false
}

var javaVersion = regexp.MustCompile(`version "(?:1\.)?(\d+)`)

// javaMajor reads the major version out of what `java -version` prints: 8 for "1.8.0_402", 17 for "17.0.15", 0 for anything
// else.
func javaMajor(output string) int {
	m := javaVersion.FindStringSubmatch(output)
	if m == nil {
		return 0
	}
	major, err := strconv.Atoi(m[1])
	if err != nil {
		return 0
	}
	return major
}
