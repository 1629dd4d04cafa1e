package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline/kafka"
)

// kafkaFlags say how to reach Kafka.
type kafkaFlags struct {
	brokers string
	tls     bool
	conn    kafka.Connection
}

func (k *kafkaFlags) add(cl *commandLine) {
	cl.env(&k.brokers, "brokers", "DMGUARD_BROKERS", "", "Kafka brokers, `host:port` separated by commas")
	cl.BoolVar(&k.tls, "kafka-tls", os.Getenv("DMGUARD_KAFKA_TLS") == "true", "connect to Kafka by TLS (environment: DMGUARD_KAFKA_TLS=true)")
	cl.env(&k.conn.TLS.CAFile, "kafka-ca", "DMGUARD_KAFKA_CA", "", "PEM `file` of the authorities to trust; the system's if empty")
	cl.env(&k.conn.TLS.CertFile, "kafka-cert", "DMGUARD_KAFKA_CERT", "", "PEM `file` of our certificate")
	cl.env(&k.conn.TLS.KeyFile, "kafka-key", "DMGUARD_KAFKA_KEY", "", "PEM `file` of its key")
	cl.env(&k.conn.SASL.Mechanism, "kafka-sasl", "DMGUARD_KAFKA_SASL", "", "plain, scram-sha-256 or scram-sha-512; none if empty")
	cl.env(&k.conn.SASL.User, "kafka-user", "DMGUARD_KAFKA_USER", "", "SASL user")
	cl.env(&k.conn.SASL.PasswordFile, "kafka-password-file", "DMGUARD_KAFKA_PASSWORD_FILE", "", "`file` with the SASL password; or DMGUARD_KAFKA_PASSWORD")
}

func (k *kafkaFlags) connection(clientID string) (kafka.Connection, error) {
	c := k.conn
	c.Brokers = splitList(k.brokers)
	if len(c.Brokers) == 0 {
		return c, errors.New("name the Kafka brokers with --brokers or DMGUARD_BROKERS")
	}
	c.ClientID = clientID
	c.TLS.Enabled = k.tls || c.TLS.CAFile != "" || c.TLS.CertFile != ""
	c.SASL.Password = os.Getenv("DMGUARD_KAFKA_PASSWORD")
	return c, c.Validate()
}

// redisFlags say how to reach Redis.
type redisFlags struct {
	addr         string
	cluster      bool
	tls          bool
	ca           string
	user         string
	passwordFile string
}

func (r *redisFlags) add(cl *commandLine) {
	cl.env(&r.addr, "redis", "DMGUARD_REDIS", "", "Redis, `host:port`; several, separated by commas, are a cluster")
	cl.BoolVar(&r.cluster, "redis-cluster", false, "the one address is a Redis Cluster's")
	cl.BoolVar(&r.tls, "redis-tls", os.Getenv("DMGUARD_REDIS_TLS") == "true", "connect to Redis by TLS (environment: DMGUARD_REDIS_TLS=true)")
	cl.env(&r.ca, "redis-ca", "DMGUARD_REDIS_CA", "", "PEM `file` of the authorities to trust; the system's if empty")
	cl.env(&r.user, "redis-user", "DMGUARD_REDIS_USER", "", "Redis user")
	cl.env(&r.passwordFile, "redis-password-file", "DMGUARD_REDIS_PASSWORD_FILE", "", "`file` with the Redis password; or DMGUARD_REDIS_PASSWORD")
}

// client connects to Redis and refuses a server that would throw away what it
// was given.
func (r *redisFlags) client(ctx context.Context, log *zap.Logger) (redis.UniversalClient, error) {
	addrs := splitList(r.addr)
	if len(addrs) == 0 {
		return nil, errors.New("name Redis with --redis or DMGUARD_REDIS")
	}
	opt := &redis.UniversalOptions{
		Addrs: addrs, Username: r.user, Password: os.Getenv("DMGUARD_REDIS_PASSWORD"),
		IsClusterMode: r.cluster || len(addrs) > 1, ClientName: "dmguard",
		// Scripts may run again after a lost reply; each of ours may. Who calls
		// tries again as well, and says so: an outage must show within seconds.
		MaxRetries: 1, ReadTimeout: 3 * time.Second, ContextTimeoutEnabled: true,
	}
	if r.passwordFile != "" {
		b, err := os.ReadFile(r.passwordFile)
		if err != nil {
			return nil, fmt.Errorf("reading the Redis password: %w", err)
		}
		opt.Password = strings.TrimRight(string(b), "\r\n")
	}
	if r.tls || r.ca != "" {
		opt.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if r.ca != "" {
			pem, err := os.ReadFile(r.ca)
			if err != nil {
				return nil, fmt.Errorf("reading the authorities of Redis: %w", err)
			}
			opt.TLSConfig.RootCAs = x509.NewCertPool()
			if !opt.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("no certificate in %s", r.ca)
			}
		}
	}
	c := redis.NewUniversalClient(opt)
	if err := checkRedis(ctx, c, log); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func checkRedis(ctx context.Context, c redis.UniversalClient, log *zap.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := c.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("reaching Redis: %w", err)
	}
	check := func(ctx context.Context, node *redis.Client) error {
		settings, err := node.ConfigGet(ctx, "*").Result()
		if err != nil {
			log.Warn("this Redis does not show its settings: make sure that maxmemory-policy is noeviction and appendonly is on", zap.Error(err))
			return nil
		}
		if p := settings["maxmemory-policy"]; p != "noeviction" && settings["maxmemory"] != "0" {
			return fmt.Errorf("this Redis evicts (maxmemory-policy %s): it would lose cases without a word; set it to noeviction", p)
		}
		if settings["appendonly"] != "yes" {
			log.Warn("this Redis keeps no append-only file: after its restart the queue is built again from the log")
		}
		return nil
	}
	switch c := c.(type) {
	case *redis.ClusterClient:
		return c.ForEachMaster(ctx, check)
	case *redis.Client:
		return check(ctx, c)
	}
	return nil
}
