package reviewqueue

import (
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// NewView returns a queue that can be projected into and counted, and nothing
// else: it has no keys, no audit log and no way to write a decision.
func NewView(config Config, rdb redis.UniversalClient, log Log, logger *zap.Logger) (*Queue, error) {
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("review queue: %w", err)
	}
	return &Queue{
		config: config, deps: Deps{Redis: rdb, Log: log}, log: logger,
		skew:        func() time.Duration { return 0 },
		generations: slices.Repeat([]string{"0"}, config.Shards),
	}, nil
}
