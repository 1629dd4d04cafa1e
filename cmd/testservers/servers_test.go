package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
)

func TestEverySlotHasExactlyOneNode(t *testing.T) {
	for n := 1; n <= 7; n++ {
		owners := make([]int, clusterSlots)
		for _, r := range slotRanges(n) {
			if size := r.last - r.first + 1; size < clusterSlots/n || size > clusterSlots/n+1 {
				t.Errorf("%d nodes: %v is not an even share", n, r)
			}
			for slot := r.first; slot <= r.last; slot++ {
				owners[slot]++
			}
		}
		if i := slices.IndexFunc(owners, func(c int) bool { return c != 1 }); i >= 0 {
			t.Errorf("%d nodes: slot %d has %d owners", n, i, owners[i])
		}
	}
}

func TestClusterIsCompleteOnlyWhenEveryNodeIsKnownAndEverySlotServed(t *testing.T) {
	info := func(state string, slots, nodes int) string {
		return fmt.Sprintf("cluster_state:%s\r\ncluster_slots_ok:%d\r\ncluster_known_nodes:%d\r\n", state, slots, nodes)
	}
	for name, test := range map[string]struct {
		info string
		ok   bool
	}{
		"complete":      {info("ok", 16384, 2), true},
		"state":         {info("fail", 16384, 2), false},
		"slots":         {info("ok", 8192, 2), false},
		"not met":       {info("ok", 16384, 1), false},
		"empty":         {"", false},
		"not an answer": {"cluster_state", false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := clusterComplete(test.info, 2); (err == nil) != test.ok {
				t.Errorf("error = %v", err)
			}
		})
	}
}

func TestRedisAndItsClusterStartAndLeaveNothing(t *testing.T) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatalf("%v: `make test` installs it, or: apt-get install redis-server", err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	g, err := startGuard(t.Context(), dir, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	defer g.stop()
	single, err := startRedis(t.Context(), g, program)
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := startCluster(t.Context(), g, program)
	if err != nil {
		t.Fatal(err)
	}

	client := redis.NewClient(&redis.Options{Addr: single.addresses[0]})
	defer client.Close()
	config, err := client.ConfigGet(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"appendonly": "yes", "maxmemory-policy": "noeviction", "save": ""} {
		if config[name] != want {
			t.Errorf("%s = %q, want %q", name, config[name], want)
		}
	}

	clients := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.addresses})
	defer clients.Close()
	// One key in the first slot range and one in the last.
	for _, key := range []string{"b", "a"} {
		if err := clients.Set(t.Context(), key, "1", 0).Err(); err != nil {
			t.Errorf("writing %q: %v", key, err)
		}
	}
	if err := clients.MGet(t.Context(), "a", "b").Err(); err == nil || !strings.Contains(err.Error(), "CROSSSLOT") {
		t.Errorf("two slots in one command: %v, want CROSSSLOT", err)
	}

	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	for _, p := range slices.Concat(single.processes, cluster.processes) {
		<-p.done
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the data folder survives: %v", err)
	}
}

func TestAServerThatEndsEarlyIsTriedAgainAndThenReportedWithItsLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	g, err := startGuard(t.Context(), dir, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	defer g.stop()
	tries := 0
	_, err = tryAgain(func() (started, error) {
		tries++
		p, err := startLogged(t.Context(), g, "Redis", filepath.Join(dir, "log"), "sh", "-c", "echo address in use; exit 1")
		if err != nil {
			return started{}, err
		}
		never := func(context.Context) error { return errors.New("no answer") }
		return started{}, await(t.Context(), p, time.Minute, never)
	})
	if tries != 3 {
		t.Errorf("tried %d times, want 3", tries)
	}
	if err == nil || !strings.Contains(err.Error(), "address in use") || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("error = %v, want the log and the status", err)
	}
}

func TestTheProjectFileAndTheCodeNameTheSameKafka(t *testing.T) {
	want := "<artifactId>kafka_2.13</artifactId>\n      <version>" + kafkaVersion + "</version>"
	if !bytes.Contains(pom, []byte(want)) {
		t.Errorf("pom.xml does not ask for Kafka %s", kafkaVersion)
	}
}

func TestKafkaMakesNoTopicThatNobodyAskedFor(t *testing.T) {
	properties := kafkaProperties(1, 2, "/data")
	for _, line := range []string{
		"auto.create.topics.enable=false",
		"listeners=PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2",
		"controller.quorum.voters=1@127.0.0.1:2",
		"log.dirs=/data",
	} {
		if !strings.Contains(properties, line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}
}

func TestClusterIDsAreInKafkasForm(t *testing.T) {
	for range 1000 {
		id := clusterID()
		if raw, err := base64.RawURLEncoding.DecodeString(id); err != nil || len(raw) != 16 || id[0] == '-' {
			t.Fatalf("%q: %v", id, err)
		}
	}
}

func TestFreePortsDiffer(t *testing.T) {
	var ports []int
	for range 200 { // times, since the kernel gives what was closed again
		more, err := freePorts(t.Context(), 20)
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, more...)
	}
	slices.Sort(ports)
	if n := len(slices.Compact(ports)); n != 4000 {
		t.Errorf("%d different ports, want 4000", n)
	}
}

func TestJavaVersions(t *testing.T) {
	for output, want := range map[string]int{
		`openjdk version "17.0.15" 2025-04-15`: 17,
		`openjdk version "21" 2023-09-19`:      21,
		`java version "1.8.0_402"`:             8,
		`openjdk version "25-ea" 2025-09-16`:   25,
		`version "99999999999999999999"`:       0,
		`bash: java: command not found`:        0,
	} {
		if got := javaMajor(output); got != want {
			t.Errorf("%s: %d, want %d", output, got, want)
		}
	}
}

func TestWhatIsMissingIsNamedWithTheCommandThatInstallsIt(t *testing.T) {
	var redisPath, other string
	needs := []need{
		{"redis-server", []string{"redis-server"}, func() (string, bool) { return "", false }, &redisPath},
		{"a C compiler", []string{"gcc", "libc6-dev"}, func() (string, bool) { return "", false }, &other},
		{"mvn", []string{"maven"}, func() (string, bool) { return "/usr/bin/mvn", true }, &other},
	}
	missing := locate(needs)
	if other != "/usr/bin/mvn" {
		t.Errorf("what was found is %q", other)
	}
	text := missingText(missing)
	for _, want := range []string{
		"  - redis-server\n", "  - a C compiler\n",
		"sudo apt-get update && sudo apt-get install -y --no-install-recommends redis-server gcc libc6-dev\n",
		"CI=true", envBrokers, envRedis, envCluster, envChromium,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "maven") {
		t.Errorf("asks for what is there:\n%s", text)
	}
}

func TestOnlyRootAndCIInstallPackages(t *testing.T) {
	for _, test := range []struct {
		root bool
		ci   string
		want bool
	}{{true, "", true}, {false, "true", true}, {false, "1", true}, {false, "", false}, {false, "false", false}, {false, "yes?", false}} {
		if got := mayInstall(test.root, test.ci); got != test.want {
			t.Errorf("root %v, CI=%q: %v", test.root, test.ci, got)
		}
	}
}

func TestInstallingAsksNothing(t *testing.T) {
	want := [][]string{
		{"sudo", "-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "update"},
		{
			"sudo", "-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=300",
			"install", "-y", "--no-install-recommends", "redis-server",
		},
	}
	if diff := cmp.Diff(want, installCommands([]string{"redis-server"}, false)); diff != "" {
		t.Errorf("not root (-want +got):\n%s", diff)
	}
	want[0], want[1] = want[0][2:], want[1][2:]
	if diff := cmp.Diff(want, installCommands([]string{"redis-server"}, true)); diff != "" {
		t.Errorf("root (-want +got):\n%s", diff)
	}
}
