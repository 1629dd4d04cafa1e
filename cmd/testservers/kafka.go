package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// kafkaVersion is the Apache Kafka that is started; pom.xml names it too.
const kafkaVersion = "4.3.1"

// mavenGoal copies the jars. The plugin's version is pinned like everything else.
const mavenGoal = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"

const kafkaLimit = 2 * time.Minute

//go:embed pom.xml
var pom []byte

// jarFolder is where the jars of this very pom are kept under the user's cache folder.
func jarFolder(cache string) string {
	sum := sha256.Sum256(pom)
	return filepath.Join(cache, "dmguard", "kafka-"+kafkaVersion+"-"+hex.EncodeToString(sum[:4]))
}

// fetchJars fills the folder through Maven unless it is there. It appears whole or not at all.
func fetchJars(ctx context.Context, g *guard, t tools, stderr io.Writer) (err error) {
	if _, err := os.Stat(t.jars); err == nil {
		return nil
	}
	fmt.Fprintf(stderr, "testservers: fetching Apache Kafka %s from Maven Central into %s\n", kafkaVersion, t.jars)
	parent := filepath.Dir(t.jars)
	if err := os.MkdirAll(parent, 0o750); err != nil {
		return fmt.Errorf("making the cache folder: %w", err)
	}
	work, err := os.MkdirTemp(parent, "fetch-")
	if err != nil {
		return fmt.Errorf("making the cache folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	pomFile, jars := filepath.Join(work, "pom.xml"), filepath.Join(work, "jars")
	if err := os.WriteFile(pomFile, pom, 0o600); err != nil {
		return fmt.Errorf("writing Maven's project file: %w", err)
	}
	// A failed download is tried again: Maven keeps what it has.
	for range 3 {
		err = runLogged(ctx, g, "mvn", filepath.Join(g.dir, "maven.log"), t.maven, "-B", "-q", "-f", pomFile, mavenGoal,
			"-DincludeScope=runtime", "-DoutputDirectory="+jars)
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("fetching Apache Kafka: %w", err)
	}
	if _, err := os.Stat(filepath.Join(jars, "kafka_2.13-"+kafkaVersion+".jar")); err != nil {
		return fmt.Errorf("maven fetched no Kafka: %w", err)
	}
	// Where another run was faster the folder is there, with the same content.
	if err := os.Rename(jars, t.jars); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("keeping Kafka's jars: %w", err)
	}
	return nil
}

// runLogged runs a program to its end with its output in logFile.
func runLogged(ctx context.Context, g *guard, name, logFile, program string, args ...string) error {
	p, err := startLogged(ctx, g, name, logFile, program, args...)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if p.err != nil {
		return p.failure("failed")
	}
	return nil
}

// startLogged starts a program with its output appended to logFile. It does not end with ctx: the guard ends it.
func startLogged(ctx context.Context, g *guard, name, logFile, program string, args ...string) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening a log: %w", err)
	}
	defer log.Close()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), program, args...) //nolint:gosec // programs found by findTools
	cmd.Dir = g.dir
	cmd.Stdout, cmd.Stderr = log, log
	return g.start(cmd, name, logFile)
}

// startKafka starts one Kafka node that is broker and controller, and returns when it coordinates groups.
func startKafka(ctx context.Context, g *guard, t tools, stderr io.Writer) (started, error) {
	if err := fetchJars(ctx, g, t, stderr); err != nil {
		return started{}, err
	}
	return tryAgain(func() (started, error) { return startKafkaOnce(ctx, g, t) })
}

func startKafkaOnce(ctx context.Context, g *guard, t tools) (started, error) {
	ports, err := freePorts(ctx, 2)
	if err != nil {
		return started{}, err
	}
	dir, err := os.MkdirTemp(g.dir, "kafka-")
	if err != nil {
		return started{}, fmt.Errorf("making Kafka's folder: %w", err)
	}
	properties, logFile := filepath.Join(dir, "server.properties"), filepath.Join(dir, "server.log")
	if err := os.WriteFile(properties, []byte(kafkaProperties(ports[0], ports[1], filepath.Join(dir, "data"))), 0o600); err != nil {
		return started{}, fmt.Errorf("writing Kafka's properties: %w", err)
	}
	java := func(args ...string) []string {
		return append([]string{
			"-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError", "-XX:-UsePerfData",
			"-Djava.awt.headless=true", "-Djava.io.tmpdir=" + dir, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
			"-cp", filepath.Join(t.jars, "*"),
		}, args...)
	}
	err = runLogged(ctx, g, "Kafka's storage tool", logFile, t.java,
		java("kafka.tools.StorageTool", "format", "-t", clusterID(), "-c", properties)...)
	if err != nil {
		return started{}, err
	}
	p, err := startLogged(ctx, g, "Kafka", logFile, t.java, java("kafka.Kafka", properties)...)
	if err != nil {
		return started{}, err
	}
	address := loopback(ports[0])
	client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.RequestRetries(0))
	if err != nil {
		return started{}, fmt.Errorf("making a Kafka client: %w", err)
	}
	defer client.Close()
	if err := await(ctx, p, kafkaLimit, func(ctx context.Context) error { return coordinates(ctx, client) }); err != nil {
		return started{}, err
	}
	return started{[]string{address}, []*process{p}}, nil
}

// coordinates succeeds once the broker names a coordinator for a consumer group. By then it is registered, has made the
// internal offsets topic and leads it, which a listening port or an answer about versions does not say.
func coordinates(ctx context.Context, client *kgo.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request := kmsg.NewPtrFindCoordinatorRequest()
	request.CoordinatorKey = "testservers"
	request.CoordinatorKeys = []string{"testservers"}
	response, err := request.RequestWith(ctx, client)
	if err != nil {
		return err
	}
	if err := kerr.ErrorForCode(response.ErrorCode); err != nil {
		return err
	}
	for _, c := range response.Coordinators {
		if err := kerr.ErrorForCode(c.ErrorCode); err != nil {
			return err
		}
	}
	return nil
}

// clusterID is a fresh cluster ID in Kafka's form: 16 bytes in URL-safe base64, not beginning with a dash.
func clusterID() string {
	var raw [16]byte
	for {
		rand.Read(raw[:]) // never fails
		if id := base64.RawURLEncoding.EncodeToString(raw[:]); !strings.HasPrefix(id, "-") {
			return id
		}
	}
}

// kafkaProperties is the configuration of a single node, small enough to stand beside a build on two cores. What decides how
// messages are taken and kept (timestamps, sizes, retention) stays at Kafka's defaults, so that tests meet what operators have.
func kafkaProperties(port, controllerPort int, data string) string {
	return fmt.Sprintf(`process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:%[2]d
listeners=PLAINTEXT://127.0.0.1:%[1]d,CONTROLLER://127.0.0.1:%[2]d
advertised.listeners=PLAINTEXT://127.0.0.1:%[1]d
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=%[3]s
auto.create.topics.enable=false
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
num.network.threads=1
num.io.threads=2
background.threads=2
log.segment.bytes=16777216
log.cleaner.dedupe.buffer.size=4194304
`, port, controllerPort, data)
}

// taken are the ports that freePorts has returned: servers start side by side, and between the choice of a port and its
// server's binding it nothing listens there.
var taken struct {
	mu    sync.Mutex
	ports map[int]bool
}

// freePorts are n different loopback ports that nothing listened on a moment ago, and that it has not returned before.
func freePorts(ctx context.Context, n int) ([]int, error) {
	taken.mu.Lock()
	defer taken.mu.Unlock()
	if taken.ports == nil {
		taken.ports = map[int]bool{}
	}
	var config net.ListenConfig
	ports := make([]int, 0, n)
	for len(ports) < n {
		l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("finding a free port: %w", err)
		}
		defer l.Close() // all at the end, so that they differ
		address, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			return nil, fmt.Errorf("finding a free port: %s is no TCP address", l.Addr())
		}
		if !taken.ports[address.Port] {
			taken.ports[address.Port] = true
			ports = append(ports, address.Port)
		}
	}
	return ports, nil
}

// loopback is port's address.
func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
