package state

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/pipeline"
)

// RedisOptions are the options of [NewRedis]. A zero value takes its default.
type RedisOptions struct {
	// Prefix begins every key. It must tell apart input topics, and a topic
	// from one of the same name that was made anew: its offsets start again.
	Prefix string // default "dm:state:"

	// TTL is how long a conversation is remembered after its last message.
	TTL time.Duration // default 30 days

	// The cache in front holds at most this many conversations and bytes.
	CacheEntries int   // default 200,000
	CacheBytes   int64 // default 256 MiB
}

// Stats counts since the start.
type Stats struct {
	Hits    uint64 // loads that the cache answered
	Misses  uint64 // loads that it did not
	Damaged uint64 // values that could not be read and were taken for absent
	Fenced  uint64 // saves that came after a later one and changed nothing
	Evicted uint64 // conversations that left the cache for want of room
}

// Redis keeps conversations in Redis, one server or a cluster, behind a cache.
// It is safe for concurrent use.
//
// All keys of a partition lie in one slot of a cluster. A worker that has lost
// a partition cannot take a conversation back to an earlier offset. Every
// command may be repeated, as the client does by itself after a lost reply.
//
// The server must not evict by memory (maxmemory-policy noeviction), and reads
// must go to masters: a replica may lag behind what this worker saved.
type Redis struct {
	client redis.UniversalClient
	log    *zap.Logger
	prefix string
	ttl    time.Duration

	seed   maphash.Seed
	shards []shard

	hits, misses, damaged, fenced, evicted atomic.Uint64
}

type shard struct {
	mu  sync.Mutex
	lru *lru
}

var _ pipeline.Memory = (*Redis)(nil)

// NewRedis returns a memory in the servers of client, which stays the caller's.
func NewRedis(client redis.UniversalClient, log *zap.Logger, opts RedisOptions) *Redis {
	if opts.Prefix == "" {
		opts.Prefix = "dm:state:"
	}
	if opts.TTL <= 0 {
		opts.TTL = 30 * 24 * time.Hour
	}
	if opts.CacheEntries <= 0 {
		opts.CacheEntries = 200_000
	}
	if opts.CacheBytes <= 0 {
		opts.CacheBytes = 256 << 20
	}
	// So many entries to a shard that their shares come out even.
	n := max(1, min(64, opts.CacheEntries/512))
	r := &Redis{
		client: client,
		log:    log,
		prefix: opts.Prefix,
		ttl:    opts.TTL,
		seed:   maphash.MakeSeed(),
		shards: make([]shard, n),
	}
	for i := range r.shards {
		r.shards[i].lru = newLRU(opts.CacheEntries/n, opts.CacheBytes/int64(n))
	}
	return r
}

// Stats returns the counters.
func (r *Redis) Stats() Stats {
	return Stats{
		Hits:    r.hits.Load(),
		Misses:  r.misses.Load(),
		Damaged: r.damaged.Load(),
		Fenced:  r.fenced.Load(),
		Evicted: r.evicted.Load(),
	}
}

func (r *Redis) shard(id string) *shard {
	return &r.shards[maphash.String(r.seed, id)%uint64(len(r.shards))]
}

// recall returns what the cache holds of key.
func (r *Redis) recall(key *pipeline.ConversationKey) (pipeline.Conversation, bool) {
	s := r.shard(key.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.lru.find(key.ID)
	if e == nil || e.epoch != key.Epoch || e.state.Partition != key.Partition {
		return pipeline.Conversation{}, false
	}
	return e.state, true
}

// remember puts into the cache what Redis holds of key.
func (r *Redis) remember(key *pipeline.ConversationKey, state *pipeline.Conversation, size int) {
	s := r.shard(key.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.lru.find(key.ID); e != nil && e.epoch == key.Epoch && !later(state, &e.state) {
		return
	}
	s.lru.put(key.ID, *state, size).epoch = key.Epoch
	for s.lru.evict() != nil {
		r.evicted.Add(1)
	}
}

func (r *Redis) forget(key *pipeline.ConversationKey) {
	s := r.shard(key.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.lru.find(key.ID); e != nil {
		s.lru.remove(e)
	}
}

// A stored value is its tag, which is the offset in 16 hex digits for the
// script to compare, a CRC-32C of the tag and the state, and the state.
const (
	tagLen    = 16
	headerLen = tagLen + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(value []byte) uint32 {
	return crc32.Update(crc32.Checksum(value[:tagLen], castagnoli), castagnoli, value[headerLen:])
}

func appendValue(b []byte, state *pipeline.Conversation) ([]byte, error) {
	start := len(b)
	var tag [8]byte
	binary.BigEndian.PutUint64(tag[:], uint64(state.Offset))
	b = hex.AppendEncode(b, tag[:])
	b = append(b, 0, 0, 0, 0)
	b, err := state.AppendBinary(b)
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(b[start+tagLen:], checksum(b[start:]))
	return b, nil
}

func parseValue(value []byte, partition int32) (pipeline.Conversation, error) {
	var state pipeline.Conversation
	if len(value) < headerLen {
		return state, errors.New("shorter than its header")
	}
	if binary.BigEndian.Uint32(value[tagLen:]) != checksum(value) {
		return state, errors.New("wrong checksum")
	}
	if err := state.UnmarshalBinary(value[headerLen:]); err != nil {
		return pipeline.Conversation{}, err
	}
	tag, err := strconv.ParseUint(string(value[:tagLen]), 16, 63)
	if err != nil || int64(tag) != state.Offset || state.Partition != partition {
		return pipeline.Conversation{}, errors.New("the state is not the one that the key and tag name")
	}
	return state, nil
}

// key names a conversation: 128 bits of its digest are enough that no two
// meet.
func (r *Redis) key(k *pipeline.ConversationKey) string {
	sum := sha256.Sum256([]byte(k.ID))
	b := make([]byte, 0, len(r.prefix)+16+32)
	b = r.appendTag(b, k.Partition)
	b = append(b, ':')
	return string(hex.AppendEncode(b, sum[:16]))
}

// appendTag appends the prefix and the hash tag that puts a partition into one
// slot.
func (r *Redis) appendTag(b []byte, partition int32) []byte {
	b = append(b, r.prefix...)
	b = append(b, "{p"...)
	b = strconv.AppendInt(b, int64(partition), 10)
	return append(b, '}')
}

// maxKeys bounds how many keys one command names, and so how long it keeps the
// server from others.
const maxKeys = 1024

// group is one command's share of a batch: indices of keys in one partition.
type group struct {
	partition int32
	indices   []int
}

// groups splits the keys that pick chooses by partition. A batch has few.
func groups(keys []pipeline.ConversationKey, pick func(i int) bool) []group {
	var out []group
next:
	for i := range keys {
		if !pick(i) {
			continue
		}
		for g := range out {
			if out[g].partition == keys[i].Partition && len(out[g].indices) < maxKeys {
				out[g].indices = append(out[g].indices, i)
				continue next
			}
		}
		out = append(out, group{keys[i].Partition, append(make([]int, 0, min(maxKeys, len(keys)-i)), i)})
	}
	return out
}

// Load implements [pipeline.Memory]. Its errors are outages.
func (r *Redis) Load(ctx context.Context, keys []pipeline.ConversationKey) ([]pipeline.Conversation, error) {
	states := make([]pipeline.Conversation, len(keys))
	found := make([]bool, len(keys))
	hits := 0
	for i := range keys {
		if states[i], found[i] = r.recall(&keys[i]); found[i] {
			hits++
		}
	}
	r.hits.Add(uint64(hits))
	if hits == len(keys) {
		return states, nil
	}
	r.misses.Add(uint64(len(keys) - hits))
	missed := groups(keys, func(i int) bool { return !found[i] })
	names := make([][]string, len(missed))
	cmds := make([]*redis.SliceCmd, len(missed))
	pipe := r.client.Pipeline()
	for g := range missed {
		names[g] = make([]string, len(missed[g].indices))
		for j, i := range missed[g].indices {
			names[g][j] = r.key(&keys[i])
		}
		cmds[g] = pipe.MGet(ctx, names[g]...)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("loading %d conversations from redis: %w", len(keys)-hits, err)
	}
	for g := range missed {
		values := cmds[g].Val()
		if len(values) != len(names[g]) {
			return nil, fmt.Errorf("loading conversations from redis: %d values for %d keys", len(values), len(names[g]))
		}
		for j, i := range missed[g].indices {
			value, ok := values[j].(string)
			if !ok {
				continue // absent
			}
			state, err := parseValue([]byte(value), keys[i].Partition)
			if err != nil {
				if err := r.discard(ctx, names[g][j], value, err); err != nil {
					return nil, err
				}
				continue
			}
			states[i] = state
			r.remember(&keys[i], &state, len(value))
		}
	}
	return states, nil
}

// discardScript deletes a value that is still the one that was read.
//
// KEYS[1] the conversation; ARGV[1] the value.
var discardScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0`)

// discard removes a damaged value: its tag, if only that can be read, might
// fence off every later state.
func (r *Redis) discard(ctx context.Context, key, value string, why error) error {
	r.damaged.Add(1)
	r.log.Warn("conversation state is damaged and taken for absent", zap.String("key", key), zap.Error(why))
	if err := discardScript.Run(ctx, r.client, []string{key}, value).Err(); err != nil {
		return fmt.Errorf("discarding a damaged conversation from redis: %w", err)
	}
	return nil
}

// saveScript stores each value whose tag is greater than the one stored, and
// returns the indices, from 1, of those that something later stands in the way
// of. Run twice it does what it does once. A tag is compared in two halves,
// because Lua's numbers are exact up to 2^53 only.
//
// KEYS[i] a conversation; ARGV[i] its value; ARGV[#KEYS+1] milliseconds to live.
var saveScript = redis.NewScript(`
local ttl = ARGV[#KEYS + 1]
local refused = {}
for i, key in ipairs(KEYS) do
  local new = ARGV[i]
  local old = redis.pcall('GETRANGE', key, 0, 15)
  local write, same = true, false
  if type(old) == 'string' and #old == 16 then
    local oh, ol = tonumber(string.sub(old, 1, 8), 16), tonumber(string.sub(old, 9, 16), 16)
    local nh, nl = tonumber(string.sub(new, 1, 8), 16), tonumber(string.sub(new, 9, 16), 16)
    if oh and ol then
      write = oh < nh or (oh == nh and ol < nl)
      same = oh == nh and ol == nl
    end
  end
  if write then
    redis.call('SET', key, new, 'PX', ttl)
  elseif not same then
    refused[#refused + 1] = i
  end
end
return refused`)

// pooledBuffer is the largest buffer that is kept for the next batch.
const pooledBuffer = 4 << 20

var buffers = sync.Pool{New: func() any { return new([]byte) }}

// Save implements [pipeline.Memory]. Its errors are outages; after one, some of
// the batch may be stored, and saving it again is safe.
func (r *Redis) Save(ctx context.Context, keys []pipeline.ConversationKey, states []pipeline.Conversation) error {
	if len(keys) != len(states) {
		return fmt.Errorf("saving conversations: %d keys for %d states", len(keys), len(states))
	}
	buf, _ := buffers.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= pooledBuffer {
			buffers.Put(buf)
		}
	}()
	b := (*buf)[:0]
	ends := make([]int, len(states))
	for i, key := range keys {
		if !states[i].IsZero() {
			if states[i].Partition != key.Partition || states[i].Offset < 0 {
				return fmt.Errorf("saving conversations: state of partition %d, offset %d, for partition %d",
					states[i].Partition, states[i].Offset, key.Partition)
			}
			var err error
			if b, err = appendValue(b, &states[i]); err != nil {
				return fmt.Errorf("encoding conversation: %w", err)
			}
		}
		ends[i] = len(b)
	}
	*buf = b
	value := func(i int) []byte {
		if i == 0 {
			return b[:ends[0]]
		}
		return b[ends[i-1]:ends[i]]
	}

	batch := groups(keys, func(i int) bool { return !states[i].IsZero() })
	if len(batch) == 0 {
		return nil
	}
	names := make([][]string, len(batch))
	args := make([][]any, len(batch))
	cmds := make([]*redis.Cmd, len(batch))
	pipe := r.client.Pipeline()
	for g := range batch {
		names[g] = make([]string, len(batch[g].indices))
		args[g] = make([]any, len(batch[g].indices)+1)
		for j, i := range batch[g].indices {
			names[g][j] = r.key(&keys[i])
			args[g][j] = value(i)
		}
		args[g][len(args[g])-1] = max(1, r.ttl.Milliseconds())
		cmds[g] = saveScript.EvalSha(ctx, pipe, names[g], args[g]...)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for g := range batch {
		if redis.HasErrorPrefix(cmds[g].Err(), "NOSCRIPT") {
			cmds[g] = saveScript.Eval(ctx, r.client, names[g], args[g]...)
		}
		refused, err := cmds[g].Int64Slice()
		if err != nil {
			return fmt.Errorf("saving %d conversations of partition %d to redis: %w", len(names[g]), batch[g].partition, err)
		}
		for _, i := range batch[g].indices {
			r.remember(&keys[i], &states[i], len(value(i)))
		}
		for _, j := range refused {
			if j < 1 || int(j) > len(batch[g].indices) {
				return fmt.Errorf("saving conversations to redis: the script refused value %d of %d", j, len(batch[g].indices))
			}
			r.forget(&keys[batch[g].indices[j-1]])
		}
		r.fenced.Add(uint64(len(refused)))
	}
	return nil
}

// Built reports whether the state of a partition was marked as built: where it
// was not, Redis is new or was emptied, and the log is to be folded first.
func (r *Redis) Built(ctx context.Context, partition int32) (bool, error) {
	n, err := r.client.Exists(ctx, r.marker(partition)).Result()
	if err != nil {
		return false, fmt.Errorf("asking redis whether partition %d was built: %w", partition, err)
	}
	return n == 1, nil
}

// MarkBuilt marks the state of a partition as built. The mark does not expire.
func (r *Redis) MarkBuilt(ctx context.Context, partition int32) error {
	if err := r.client.Set(ctx, r.marker(partition), "1", 0).Err(); err != nil {
		return fmt.Errorf("marking partition %d as built in redis: %w", partition, err)
	}
	return nil
}

func (r *Redis) marker(partition int32) string {
	return string(r.appendTag(nil, partition)) + ":built"
}
