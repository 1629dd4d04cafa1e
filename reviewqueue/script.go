package reviewqueue

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// Scripts are idempotent, because go-redis sends one again whose answer was
// lost. Each declares all its keys, which share a hash tag.
var (
	//go:embed shard.lua
	shardLua string
	//go:embed fold.lua
	foldLua string
	//go:embed claim.lua
	claimLua string
	//go:embed lease.lua
	leaseLua string
	//go:embed wipe.lua
	wipeLua string

	foldScript  = redis.NewScript(shardLua + foldLua)
	claimScript = redis.NewScript(shardLua + claimLua)
	leaseScript = redis.NewScript(shardLua + leaseLua)
	wipeScript  = redis.NewScript(shardLua + wipeLua)
)

// Answers of the scripts.
const (
	scriptOK    = "OK"
	scriptStale = "GEN"   // the keys are of an earlier generation
	scriptGap   = "GAP"   // of fold: records before the batch are missing
	scriptHead  = "HEAD"  // of claim
	scriptEmpty = "EMPTY" // of claim
	scriptLost  = "LOST"  // of lease
	scriptNone  = "NONE"  // of lease
)

// Places of the keys that shard.lua lists, from 0.
const (
	keyGeneration = iota
	keyPositions
	keyCases
	keyPendingConversation
	keyPendingMedia
	keyDead
	keyLeases
	keyDecided
	keyOpen
	keySeverities
	keyRequests
)

var keyNames = []string{
	"", "positions", "cases", "pending:conversation", "pending:media", "dead", "leases", "decided", "open", "severities", "requests",
}

// keys returns the keys of a shard in one generation.
func (q *Queue) keys(shard int, generation string) []string {
	tag := fmt.Sprintf("%s{rq%d}:", q.config.Prefix, shard)
	keys := make([]string, len(keyNames))
	keys[keyGeneration] = tag + "generation"
	for i, name := range keyNames[1:] {
		keys[i+1] = tag + generation + ":" + name
	}
	return keys
}

// caseKeys returns the keys of one case: its messages, summaries and decisions.
func (q *Queue) caseKeys(shard int, generation, caseID string) []string {
	tag := fmt.Sprintf("%s{rq%d}:%s:", q.config.Prefix, shard, generation)
	return []string{tag + "messages:" + caseID, tag + "summaries:" + caseID, tag + "decisions:" + caseID}
}

// shard returns the shard that a case lives in.
func (q *Queue) shard(caseID string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(caseID))
	return int(h.Sum32() % uint32(q.config.Shards))
}

func (q *Queue) generation(shard int) string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.generations[shard]
}

func (q *Queue) setGeneration(shard int, generation string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.generations[shard] = generation
}

var errUnsettled = errors.New("the queue is being rebuilt over and over")

// maxGenerations is how often one call follows the queue to a new generation.
const maxGenerations = 8

// run runs a script on a shard, in the generation that is current there.
func (q *Queue) run(ctx context.Context, script *redis.Script, shard int, caseIDs []string, args ...any) ([]string, error) {
	for range maxGenerations {
		generation := q.generation(shard)
		keys := q.keys(shard, generation)
		for _, id := range caseIDs {
			keys = append(keys, q.caseKeys(shard, generation, id)...)
		}
		head := []any{generation, q.skew().Milliseconds()}
		answer, err := texts(script.Run(ctx, q.deps.Redis, keys, append(head, args...)...))
		if err != nil {
			return nil, err
		}
		if answer[0] != scriptStale {
			return answer, nil
		}
		q.setGeneration(shard, answer[1])
	}
	return nil, errUnsettled
}

// texts returns the answer of a script as strings.
func texts(cmd *redis.Cmd) ([]string, error) {
	values, err := cmd.Slice()
	if err != nil {
		return nil, err
	}
	if len(values) == 0 {
		return nil, errors.New("a script answered nothing")
	}
	out := make([]string, len(values))
	for i, v := range values {
		switch v := v.(type) {
		case string:
			out[i] = v
		case int64:
			out[i] = strconv.FormatInt(v, 10)
		default:
			return nil, fmt.Errorf("a script answered a %T", v)
		}
	}
	return out, nil
}
