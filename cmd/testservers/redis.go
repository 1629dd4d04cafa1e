package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	redisLimit   = time.Minute
	clusterSlots = 16384
	clusterNodes = 2 // the least that puts two keys on two machines
)

// startRedis starts one Redis server.
func startRedis(ctx context.Context, g *guard, program string) (started, error) {
	return tryAgain(func() (started, error) {
		ports, err := freePorts(ctx, 1)
		if err != nil {
			return started{}, err
		}
		p, client, err := startNode(ctx, g, program, ports[0])
		if err != nil {
			return started{}, err
		}
		if err := client.Close(); err != nil {
			return started{}, fmt.Errorf("closing a Redis client: %w", err)
		}
		return started{[]string{loopback(ports[0])}, []*process{p}}, nil
	})
}

// startCluster starts a Redis Cluster of masters without replicas and returns when every node says that all slots are served.
func startCluster(ctx context.Context, g *guard, program string) (started, error) {
	return tryAgain(func() (started, error) { return startClusterOnce(ctx, g, program) })
}

func startClusterOnce(ctx context.Context, g *guard, program string) (started, error) {
	// The port between nodes would be the client's plus 10000, which may not exist.
	ports, err := freePorts(ctx, 2*clusterNodes)
	if err != nil {
		return started{}, err
	}
	port, busPort := ports[:clusterNodes], ports[clusterNodes:]
	var s started
	var clients []*redis.Client
	for i := range clusterNodes {
		p, client, err := startNode(ctx, g, program, port[i], "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf",
			"--cluster-port", strconv.Itoa(busPort[i]), "--cluster-node-timeout", "15000")
		if err != nil {
			return started{}, err
		}
		defer func() { _ = client.Close() }() // nothing is in flight
		clients = append(clients, client)
		s.addresses = append(s.addresses, loopback(port[i]))
		s.processes = append(s.processes, p)
	}
	for i, slots := range slotRanges(clusterNodes) {
		if err := clients[i].Do(ctx, "CLUSTER", "ADDSLOTSRANGE", slots.first, slots.last).Err(); err != nil {
			return started{}, fmt.Errorf("giving cluster node %d its slots: %w", i, err)
		}
		if err := clients[i].Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(); err != nil {
			return started{}, fmt.Errorf("numbering cluster node %d: %w", i, err)
		}
	}
	for i := 1; i < clusterNodes; i++ {
		if err := clients[0].Do(ctx, "CLUSTER", "MEET", "127.0.0.1", port[i], busPort[i]).Err(); err != nil {
			return started{}, fmt.Errorf("joining cluster node %d: %w", i, err)
		}
	}
	for i, client := range clients {
		err := await(ctx, s.processes[i], redisLimit, func(ctx context.Context) error {
			info, err := client.ClusterInfo(ctx).Result()
			if err != nil {
				return err
			}
			return clusterComplete(info, clusterNodes)
		})
		if err != nil {
			return started{}, err
		}
	}
	return s, nil
}

// startNode starts one Redis process and returns it, with a client, once it answers. Every write is in its append-only file,
// nothing is evicted: the settings that the review queue asks for.
func startNode(ctx context.Context, g *guard, program string, port int, extra ...string) (*process, *redis.Client, error) {
	dir, err := os.MkdirTemp(g.dir, "redis-")
	if err != nil {
		return nil, nil, fmt.Errorf("making Redis's folder: %w", err)
	}
	args := append([]string{
		"--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--dir", dir, "--daemonize", "no", "--save", "",
		"--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction",
	}, extra...)
	p, err := startLogged(ctx, g, "Redis", filepath.Join(dir, "server.log"), program, args...)
	if err != nil {
		return nil, nil, err
	}
	client := redis.NewClient(&redis.Options{Addr: loopback(port), MaxRetries: -1, DialerRetries: 1})
	// Where another server has the port, ours is about to end and the other answers.
	err = await(ctx, p, redisLimit, func(ctx context.Context) error {
		info, err := client.Info(ctx, "server").Result()
		if err == nil && !strings.Contains(info, fmt.Sprintf("\nprocess_id:%d\r", p.pid)) {
			err = errors.New("another Redis server answers at its port")
		}
		return err
	})
	if err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	return p, client, nil
}

// slotRange is an inclusive range of hash slots.
type slotRange struct{ first, last int }

// slotRanges splits all hash slots among n nodes, evenly and without a gap.
func slotRanges(n int) []slotRange {
	ranges := make([]slotRange, n)
	for i := range ranges {
		ranges[i] = slotRange{i * clusterSlots / n, (i+1)*clusterSlots/n - 1}
	}
	return ranges
}

// clusterComplete reads what CLUSTER INFO says and returns nil if the node knows all nodes and all slots are served.
func clusterComplete(info string, nodes int) error {
	said := map[string]string{}
	for line := range strings.Lines(info) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			said[name] = value
		}
	}
	for name, want := range map[string]string{
		"cluster_state":       "ok",
		"cluster_slots_ok":    strconv.Itoa(clusterSlots),
		"cluster_known_nodes": strconv.Itoa(nodes),
	} {
		if said[name] != want {
			return fmt.Errorf("%s is %q, not %q", name, said[name], want)
		}
	}
	return nil
}
