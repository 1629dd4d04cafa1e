package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/dmguard/dmguard/reviewqueue/console"
)

// listen opens a TCP listener, or says what to do where the port is taken.
func listen(ctx context.Context, address string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("another program listens on %s: stop it, or choose another address with the flag that names this one", address)
	}
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	return l, nil
}

// serveHTTP serves until ctx ends, and then lets requests finish.
func serveHTTP(ctx context.Context, address string, h http.Handler, log *zap.Logger, cert *certificate) error {
	l, err := listen(ctx, address)
	if err != nil {
		return err
	}
	return serveOn(ctx, l, h, log, cert)
}

// certificate is a TLS certificate and its key, in PEM files.
type certificate struct{ cert, key string }

func serveOn(ctx context.Context, l net.Listener, h http.Handler, log *zap.Logger, cert *certificate) error {
	srv := console.Server(l.Addr().String(), h, log)
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		err := srv.Shutdown(closing)
		if err != nil {
			err = errors.Join(err, srv.Close())
		}
		stopped <- err
	})
	var err error
	if cert != nil && cert.cert != "" {
		err = srv.ServeTLS(l, cert.cert, cert.key)
	} else {
		err = srv.Serve(l)
	}
	if stop() {
		return fmt.Errorf("serving HTTP: %w", err)
	}
	if err := <-stopped; err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("ending HTTP: %w", err)
	}
	return nil
}
