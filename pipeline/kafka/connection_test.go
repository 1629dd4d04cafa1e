package kafka

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// certificate writes a self-signed one for 127.0.0.1.
func certificate(t *testing.T) (certFile, keyFile string, cfg *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600))
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return certFile, keyFile, &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}
}

func TestTLSAndEverySASLMechanismReachTheBroker(t *testing.T) {
	cert, key, server := certificate(t)
	for mechanism, name := range map[string]string{"plain": "PLAIN", "scram-sha-256": "SCRAM-SHA-256", "scram-sha-512": "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			b := inProcess(t, kfake.TLS(server), kfake.EnableSASL(), kfake.Superuser(name, "scanner", "s3cret"))
			file := filepath.Join(t.TempDir(), "password")
			must(t, os.WriteFile(file, []byte("s3cret\n"), 0o600))
			conn := b.conn()
			conn.TLS = TLS{Enabled: true, CAFile: cert, CertFile: cert, KeyFile: key}
			conn.SASL = SASL{Mechanism: mechanism, User: "scanner", PasswordFile: file}
			tp, err := NewTopics(conn, TopicsConfig{Partitions: 1, Embedded: true})
			must(t, err)
			defer tp.Close()
			_, err = tp.Create(t.Context())
			must(t, err)
			p, err := NewProducer(conn, ProducerConfig{}, logger(t))
			must(t, err)
			defer p.Close()
			must(t, p.Produce(t.Context(), numbered("dm.messages", 0, 10)))
			s, err := OpenSource(conn, SourceConfig{Group: "g", Topic: "dm.messages", OnGap: noGap}, logger(t))
			must(t, err)
			defer s.Close(t.Context())
			for _, d := range take(t, s, 10) {
				d.Done()
			}

			conn.SASL = SASL{Mechanism: mechanism, User: "scanner", Password: "wrong"}
			bad, err := NewTopics(conn, TopicsConfig{})
			must(t, err)
			defer bad.Close()
			if _, err := bad.Check(t.Context()); err == nil {
				t.Error("a wrong password was let in")
			}
		})
	}
}

func TestConnectionFaultsAreReportedAtOnceAndNameNoSecret(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	must(t, os.WriteFile(empty, []byte("\n"), 0o600))
	for _, c := range []struct {
		conn Connection
		want []string
	}{
		{Connection{}, []string{"no brokers"}},
		{Connection{Brokers: []string{"a", "b:1"}, DialTimeout: -1, TLS: TLS{CAFile: "x"}, SASL: SASL{Password: "s3cret"}}, []string{`"a"`, "negative", "not enabled", "no mechanism"}},
		{Connection{Brokers: []string{"b:1"}, TLS: TLS{Enabled: true, CAFile: "/nonexistent", CertFile: "only"}}, []string{"authorities", "both"}},
		{Connection{Brokers: []string{"b:1"}, TLS: TLS{Enabled: true, CAFile: empty}}, []string{"no PEM"}},
		{Connection{Brokers: []string{"b:1"}, SASL: SASL{Mechanism: "magic", Password: "s3cret", PasswordFile: "x"}}, []string{"user", "both", `"magic"`}},
		{Connection{Brokers: []string{"b:1"}, SASL: SASL{Mechanism: "plain", User: "u"}}, []string{"needs a password"}},
		{Connection{Brokers: []string{"b:1"}, SASL: SASL{Mechanism: "plain", User: "u", PasswordFile: empty}}, []string{"is empty"}},
	} {
		err := c.conn.Validate()
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("nothing says %q in: %v", want, err)
			}
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("a password is in: %v", err)
		}
	}
	good := Connection{Brokers: []string{"[::1]:9092", "b:9092"}, SASL: SASL{Mechanism: "scram-sha-256", User: "u", Password: "p"}}
	must(t, good.Validate())
}
