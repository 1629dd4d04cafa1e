package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// Connection says how to reach a cluster.
type Connection struct {
	// Brokers are addresses, host:port, of which one must answer to find the rest.
	Brokers []string

	// ClientID names this client in the brokers' logs and quotas; "dmguard" by
	// default.
	ClientID string

	TLS  TLS
	SASL SASL

	// DialTimeout bounds one attempt to connect, with TLS and SASL; 5 s by default.
	DialTimeout time.Duration

	// RequestTimeout bounds one request, beyond the time that it asks the broker
	// to wait; 10 s by default.
	RequestTimeout time.Duration

	// DialFunc replaces the network. Tests cut connections with it.
	DialFunc func(ctx context.Context, network, address string) (net.Conn, error)
}

// TLS says how to encrypt the connection.
type TLS struct {
	Enabled    bool
	CAFile     string // PEM; "" trusts the system's authorities
	CertFile   string // PEM, with KeyFile: the client's own certificate
	KeyFile    string
	ServerName string // "" checks the name that was dialled
}

// SASL says how to authenticate. No mechanism means no authentication.
type SASL struct {
	Mechanism    string // plain, scram-sha-256 or scram-sha-512
	User         string
	Password     string
	PasswordFile string // read once, instead of Password; a final newline is cut off
}

// Validate reports every fault of c at once.
func (c *Connection) Validate() error {
	_, _, err := c.build()
	return err
}

// build checks everything, and reads the files that TLS and SASL name.
func (c *Connection) build() (*tls.Config, sasl.Mechanism, error) {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Brokers) == 0 {
		fail("kafka: no brokers: name at least one as host:port")
	}
	for _, b := range c.Brokers {
		host, port, err := net.SplitHostPort(b)
		if err != nil || host == "" || port == "" {
			fail("kafka: broker %q is not host:port", b)
		}
	}
	if c.DialTimeout < 0 || c.RequestTimeout < 0 {
		fail("kafka: timeouts must not be negative")
	}
	encryption, err := c.TLS.config()
	if err != nil {
		errs = append(errs, err)
	}
	mechanism, err := c.SASL.mechanism()
	if err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	return encryption, mechanism, nil
}

func (t *TLS) config() (*tls.Config, error) {
	if !t.Enabled {
		if *t != (TLS{}) {
			return nil, errors.New("kafka: TLS options are set but TLS is not enabled")
		}
		return nil, nil //nolint:nilnil // no TLS is a configuration too
	}
	var errs []error
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		pool := x509.NewCertPool()
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("kafka: reading the certificate authorities: %w", err))
		case !pool.AppendCertsFromPEM(pem):
			errs = append(errs, fmt.Errorf("kafka: %s holds no PEM certificate", t.CAFile))
		}
		cfg.RootCAs = pool
	}
	switch {
	case (t.CertFile == "") != (t.KeyFile == ""):
		errs = append(errs, errors.New("kafka: a client certificate needs both its certificate file and its key file"))
	case t.CertFile != "":
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			errs = append(errs, fmt.Errorf("kafka: reading the client certificate: %w", err))
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, errors.Join(errs...)
}

func (s *SASL) mechanism() (sasl.Mechanism, error) {
	if s.Mechanism == "" {
		if *s != (SASL{}) {
			return nil, errors.New("kafka: a SASL user or password is set but no mechanism")
		}
		return nil, nil //nolint:nilnil // no authentication is a configuration too
	}
	var errs []error
	if s.User == "" {
		errs = append(errs, errors.New("kafka: SASL needs a user"))
	}
	password := s.Password
	switch {
	case s.Password != "" && s.PasswordFile != "":
		errs = append(errs, errors.New("kafka: SASL has both a password and a password file: keep one"))
	case s.PasswordFile != "":
		b, err := os.ReadFile(s.PasswordFile)
		if err != nil {
			errs = append(errs, fmt.Errorf("kafka: reading the SASL password: %w", err))
		} else if password = strings.TrimRight(string(b), "\r\n"); password == "" {
			errs = append(errs, fmt.Errorf("kafka: the SASL password file %s is empty", s.PasswordFile))
		}
	case s.Password == "":
		errs = append(errs, errors.New("kafka: SASL needs a password or a password file"))
	}
	algorithm := scram.SHA512
	switch s.Mechanism {
	case "plain":
		return plain.Mechanism{Username: s.User, Password: password}, errors.Join(errs...)
	case "scram-sha-256":
		algorithm = scram.SHA256
	case "scram-sha-512":
	default:
		errs = append(errs, fmt.Errorf("kafka: unknown SASL mechanism %q: it is plain, scram-sha-256 or scram-sha-512", s.Mechanism))
		return nil, errors.Join(errs...)
	}
	m, err := scram.Mechanism(algorithm, s.User, password)
	if err != nil {
		errs = append(errs, fmt.Errorf("kafka: SASL: %w", err))
	}
	return m, errors.Join(errs...)
}

// A client is an open connection pool. It is safe for concurrent use.
type client struct {
	brokers   []string
	id        string
	timeout   time.Duration
	addr      net.Addr
	transport *kgo.Transport
	dialer    *kgo.Dialer
	api       *kgo.Client

	mu        sync.Mutex
	refreshed time.Time
}

func (c *Connection) client() (*client, error) {
	encryption, mechanism, err := c.build()
	if err != nil {
		return nil, err
	}
	or := func(d, fallback time.Duration) time.Duration {
		if d == 0 {
			return fallback
		}
		return d
	}
	out := &client{
		brokers: slices.Clone(c.Brokers),
		id:      c.ClientID,
		timeout: or(c.RequestTimeout, 10*time.Second),
		addr:    kgo.TCP(c.Brokers...),
	}
	if out.id == "" {
		out.id = "dmguard"
	}
	dial := c.DialFunc
	if dial == nil {
		dial = (&net.Dialer{Timeout: or(c.DialTimeout, 5*time.Second), KeepAlive: 30 * time.Second}).DialContext
	}
	out.transport = &kgo.Transport{
		Dial:        dial,
		DialTimeout: or(c.DialTimeout, 5*time.Second),
		// Brokers close idle connections after 10 minutes by default.
		IdleTimeout: time.Minute,
		MetadataTTL: 5 * time.Second,
		ClientID:    out.id,
		TLS:         encryption,
		SASL:        mechanism,
	}
	out.dialer = &kgo.Dialer{
		ClientID:      out.id,
		DialFunc:      dial,
		Timeout:       or(c.DialTimeout, 5*time.Second),
		TLS:           encryption,
		SASLMechanism: mechanism,
	}
	out.api = &kgo.Client{Addr: out.addr, Timeout: out.timeout, Transport: out.transport}
	return out, nil
}

// close lets go of all connections that no request uses.
func (c *client) close() { c.transport.CloseIdleConnections() }

// forget drops what is known of the cluster, at most twice a second, so that the
// next request asks again who leads what. The transport offers no other way, and
// would go on asking the old leader for seconds.
func (c *client) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.refreshed) > 500*time.Millisecond {
		c.refreshed = now
		c.transport.CloseIdleConnections()
	}
}

// roundTrip sends one request, which asks the broker to wait for wait. Without a
// deadline a request on a dead network would never end.
func (c *client) roundTrip(ctx context.Context, wait time.Duration, req protocol.Message) (protocol.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout+wait)
	defer cancel()
	return c.transport.RoundTrip(ctx, c.addr, req)
}

// fetch asks for records of one partition.
func (c *client) fetch(ctx context.Context, req *fetchRequest) (*fetchResponse, error) {
	req.clientID = c.id
	m, err := c.roundTrip(ctx, req.maxWait, req)
	if err != nil {
		return nil, err
	}
	res, ok := m.(*fetchResponse)
	if !ok {
		return nil, errFetchResponse
	}
	return res, nil
}

// topics returns what is known of the topics named, by name; all where none is
// named. A topic that does not exist is in it with an error code.
func (c *client) topics(ctx context.Context, names ...string) (map[string]*metadata.ResponseTopic, error) {
	m, err := c.roundTrip(ctx, 0, &metadata.Request{TopicNames: names})
	if err != nil {
		return nil, err
	}
	res, ok := m.(*metadata.Response)
	if !ok {
		return nil, errors.New("metadata response cannot be read")
	}
	out := make(map[string]*metadata.ResponseTopic, len(res.Topics))
	for i := range res.Topics {
		out[res.Topics[i].Name] = &res.Topics[i]
	}
	return out, nil
}

// partitions returns the partitions of a topic, in order.
func (c *client) partitions(ctx context.Context, topic string) ([]int32, error) {
	topics, err := c.topics(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("asking for the partitions of %s: %w", topic, err)
	}
	t := topics[topic]
	if t == nil || t.ErrorCode != 0 || len(t.Partitions) == 0 {
		code := kgo.UnknownTopicOrPartition
		if t != nil && t.ErrorCode != 0 {
			code = kgo.Error(t.ErrorCode)
		}
		c.forget()
		return nil, fmt.Errorf("asking for the partitions of %s: %w", topic, code)
	}
	out := make([]int32, len(t.Partitions))
	for i := range t.Partitions {
		out[i] = t.Partitions[i].PartitionIndex
	}
	slices.Sort(out)
	return out, nil
}

// bounds returns the first offset that is kept of a partition, and the next one
// to be written.
func (c *client) bounds(ctx context.Context, topic string, partition int32) (first, end int64, err error) {
	// One question at a time: in a merged answer kafka-go leaves 0 for an offset
	// that it could not find out.
	for _, q := range []struct {
		at   int64
		into *int64
	}{{kgo.FirstOffset, &first}, {kgo.LastOffset, &end}} {
		res, err := c.api.ListOffsets(ctx, &kgo.ListOffsetsRequest{
			Topics: map[string][]kgo.OffsetRequest{topic: {{Partition: int(partition), Timestamp: q.at}}},
		})
		if err == nil && (len(res.Topics[topic]) != 1 || res.Topics[topic][0].Partition != int(partition)) {
			err = errors.New("the answer names another partition")
		}
		if err == nil {
			err = res.Topics[topic][0].Error
		}
		if err != nil {
			c.noteError(err)
			return 0, 0, fmt.Errorf("asking for the offsets of %s/%d: %w", topic, partition, err)
		}
		if *q.into = res.Topics[topic][0].FirstOffset; q.at == kgo.LastOffset {
			*q.into = res.Topics[topic][0].LastOffset
		}
	}
	return first, end, nil
}

// noteError forgets the layout of the cluster where err says that it changed.
func (c *client) noteError(err error) {
	var code kgo.Error
	if !errors.As(err, &code) || slices.Contains([]kgo.Error{
		kgo.NotLeaderForPartition, kgo.UnknownTopicOrPartition, kgo.LeaderNotAvailable, kgo.ReplicaNotAvailable,
		kgo.BrokerNotAvailable, kgo.FencedLeaderEpoch, kgo.UnknownLeaderEpoch, kgo.NetworkException, kgo.KafkaStorageError,
	}, code) {
		c.forget()
	}
}

// A backoff waits longer after each failure, up to a limit.
type backoff struct{ last time.Duration }

const (
	backoffMin = 50 * time.Millisecond
	backoffMax = 5 * time.Second
)

func (b *backoff) reset() { b.last = 0 }

// wait returns the error of ctx where that ends first.
func (b *backoff) wait(ctx context.Context) error {
	b.last = min(max(2*b.last, backoffMin), backoffMax)
	// Half of it is chance, so that clients do not come back all at once.
	return pause(ctx, b.last/2+rand.N(b.last/2)) //nolint:gosec // no secret hangs on it
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// seldom lets an event through once a minute, and counts the others.
type seldom struct {
	last       time.Time
	suppressed int
}

func (s *seldom) ok() (suppressed int, ok bool) {
	if now := time.Now(); s.last.IsZero() || now.Sub(s.last) > time.Minute {
		suppressed = s.suppressed
		s.last, s.suppressed = now, 0
		return suppressed, true
	}
	s.suppressed++
	return 0, false
}
