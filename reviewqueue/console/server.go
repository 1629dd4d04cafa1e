package console

import (
	"net/http"
	"time"

	"go.uber.org/zap"
)

// Server returns a server for the handler whose limits keep slow and hostile
// clients from holding connections. What clients do wrong below HTTP is logged
// at debug level.
func Server(addr string, h http.Handler, logger *zap.Logger) *http.Server {
	s := &http.Server{
		Addr:              addr,
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      150 * time.Second, // a reveal may fetch an attachment from the store
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	if l, err := zap.NewStdLogAt(logger, zap.DebugLevel); err == nil {
		s.ErrorLog = l
	}
	return s
}
