package state

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dmguard/dmguard/pipeline"
)

// conversation returns a state with something in it that only it has.
func conversation(t testing.TB, partition int32, offset int64, detectorState string) pipeline.Conversation {
	t.Helper()
	b := []byte{1}
	b = binary.AppendUvarint(b, uint64(partition))
	b = binary.AppendUvarint(b, uint64(offset))
	b = append(b, 0, 0, 1, 1, 'd') // nothing recent, nothing seen, one detector named d
	b = binary.AppendUvarint(b, uint64(len(detectorState)))
	b = append(b, detectorState...)
	var c pipeline.Conversation
	if err := c.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	return c
}

func encoded(t testing.TB, c pipeline.Conversation) string {
	t.Helper()
	if c.IsZero() {
		return ""
	}
	b, err := c.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func key(id string, partition, epoch int32) pipeline.ConversationKey {
	return pipeline.ConversationKey{ID: id, Partition: partition, Epoch: epoch}
}

func save(t testing.TB, m pipeline.Memory, k pipeline.ConversationKey, c pipeline.Conversation) {
	t.Helper()
	if err := m.Save(context.Background(), []pipeline.ConversationKey{k}, []pipeline.Conversation{c}); err != nil {
		t.Fatal(err)
	}
}

func load(t testing.TB, m pipeline.Memory, k pipeline.ConversationKey) pipeline.Conversation {
	t.Helper()
	got, err := m.Load(context.Background(), []pipeline.ConversationKey{k})
	if err != nil {
		t.Fatal(err)
	}
	return got[0]
}

func expect(t testing.TB, what string, got, want pipeline.Conversation) {
	t.Helper()
	if diff := cmp.Diff(encoded(t, want), encoded(t, got)); diff != "" {
		t.Errorf("%s: (-want +got)\n%s", what, diff)
	}
}

// onEveryServer runs test against miniredis, a real server and a real cluster.
// make test names the real ones; in CI they must be there.
func onEveryServer(t *testing.T, test func(t *testing.T, client redis.UniversalClient, prefix string)) {
	t.Helper()
	run := func(name, variable string, addrs []string) {
		t.Run(name, func(t *testing.T) {
			if len(addrs) == 0 || addrs[0] == "" {
				if os.Getenv("CI") == "true" {
					t.Fatalf("%s is not set: run make test, which starts the server", variable)
				}
				t.Logf("%s is not set: not run against %s (make test starts it)", variable, name)
				return
			}
			client := redis.NewUniversalClient(&redis.UniversalOptions{Addrs: addrs, IsClusterMode: name == "cluster"})
			t.Cleanup(func() { _ = client.Close() })
			test(t, client, fmt.Sprintf("test:%x:", rand.Uint64()))
		})
	}
	run("miniredis", "", []string{miniredis.RunT(t).Addr()})
	run("server", "DMGUARD_TEST_REDIS", []string{os.Getenv("DMGUARD_TEST_REDIS")})
	run("cluster", "DMGUARD_TEST_REDIS_CLUSTER", strings.Split(os.Getenv("DMGUARD_TEST_REDIS_CLUSTER"), ","))
}

func newRedis(client redis.UniversalClient, prefix string) *Redis {
	return NewRedis(client, zap.NewNop(), RedisOptions{Prefix: prefix, TTL: time.Minute})
}

func TestASavedConversationIsLoadedByAnyWorker(t *testing.T) {
	onEveryServer(t, func(t *testing.T, client redis.UniversalClient, prefix string) {
		// More than one command's keys, in several partitions and so slots.
		var keys []pipeline.ConversationKey
		var states []pipeline.Conversation
		for i := range 3 * maxKeys {
			p := int32(i % 5)
			keys = append(keys, key(fmt.Sprintf("c-%d", i), p, 1))
			states = append(states, conversation(t, p, int64(i), fmt.Sprintf("s%d", i)))
		}
		writer := newRedis(client, prefix)
		if err := writer.Save(t.Context(), keys, states); err != nil {
			t.Fatal(err)
		}
		for name, reader := range map[string]*Redis{"the same": writer, "another": newRedis(client, prefix)} {
			got, err := reader.Load(t.Context(), keys)
			if err != nil {
				t.Fatal(err)
			}
			for i := range got {
				expect(t, name+" worker", got[i], states[i])
			}
		}
		if hits := writer.Stats().Hits; hits != uint64(len(keys)) {
			t.Errorf("%d hits of the writer, want %d", hits, len(keys))
		}
		if got := load(t, writer, key("nobody", 0, 1)); !got.IsZero() {
			t.Error("a conversation that nobody saved is not empty")
		}
	})
}

func TestAWorkerThatLostThePartitionChangesNothing(t *testing.T) {
	onEveryServer(t, func(t *testing.T, client redis.UniversalClient, prefix string) {
		// Halves of the tag decide on their own, and beyond what a double holds.
		for _, offsets := range [][2]int64{{4, 5}, {1<<32 - 1, 1 << 32}, {1 << 53, 1<<53 + 1}, {1<<62 + 7, 1<<62 + 8}, {9, 10}} {
			older, newer := newRedis(client, prefix), newRedis(client, prefix)
			k := key(fmt.Sprintf("c-%d", offsets[0]), 3, 1)
			late, now := conversation(t, 3, offsets[0], "late"), conversation(t, 3, offsets[1], "now")
			save(t, newer, k, now)
			save(t, older, k, late)
			expect(t, "another worker", load(t, newRedis(client, prefix), k), now)
			expect(t, "the worker that was late", load(t, older, k), now)
			if got := older.Stats().Fenced; got != 1 {
				t.Errorf("%d fenced, want 1", got)
			}
			after := conversation(t, 3, offsets[1]+1, "after")
			save(t, older, k, after)
			expect(t, "a later one", load(t, newRedis(client, prefix), k), after)
		}
	})
}

func TestSavingTwiceIsSavingOnce(t *testing.T) {
	onEveryServer(t, func(t *testing.T, client redis.UniversalClient, prefix string) {
		r := newRedis(client, prefix)
		k := key("c", 1, 1)
		name := r.key(&k)
		value, err := appendValue(nil, new(conversation(t, 1, 7, "x")))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			// As the client does by itself where a reply is lost.
			refused, err := saveScript.Run(t.Context(), client, []string{name}, value, 60_000).Int64Slice()
			if err != nil || len(refused) != 0 {
				t.Fatalf("refused %v, %v", refused, err)
			}
			if got := client.Get(t.Context(), name).Val(); got != string(value) {
				t.Fatalf("stored %q, want %q", got, value)
			}
		}
		save(t, r, k, conversation(t, 1, 7, "x"))
		save(t, r, k, conversation(t, 1, 7, "x"))
		if r.Stats().Fenced != 0 {
			t.Error("a repeated save counts as fenced")
		}
		expect(t, "after both", load(t, r, k), conversation(t, 1, 7, "x"))
	})
}

func TestScriptsAreLoadedAgainAfterTheServerForgotThem(t *testing.T) {
	s := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: s.Addr()})
	t.Cleanup(func() { _ = client.Close() })
	r := newRedis(client, "p:")
	for offset := range int64(3) {
		if err := client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		save(t, r, key("c", 0, 1), conversation(t, 0, offset, "x"))
	}
	expect(t, "last", load(t, newRedis(client, "p:"), key("c", 0, 1)), conversation(t, 0, 2, "x"))
}

func TestWhatWasCachedUnderAnotherEpochIsStale(t *testing.T) {
	onEveryServer(t, func(t *testing.T, client redis.UniversalClient, prefix string) {
		here, there := newRedis(client, prefix), newRedis(client, prefix)
		save(t, here, key("c", 2, 1), conversation(t, 2, 10, "mine"))
		save(t, there, key("c", 2, 2), conversation(t, 2, 20, "theirs"))
		expect(t, "same epoch, from the cache", load(t, here, key("c", 2, 1)), conversation(t, 2, 10, "mine"))
		expect(t, "next epoch", load(t, here, key("c", 2, 3)), conversation(t, 2, 20, "theirs"))
		hits := here.Stats().Hits
		expect(t, "next epoch again", load(t, here, key("c", 2, 3)), conversation(t, 2, 20, "theirs"))
		if here.Stats().Hits != hits+1 {
			t.Error("not cached under its epoch")
		}
		if got := load(t, here, key("c", 4, 3)); !got.IsZero() {
			t.Error("another partition's conversation was taken for this one's")
		}
	})
}

func TestADamagedValueIsAbsentCountedAndDoesNotFenceOffLaterOnes(t *testing.T) {
	onEveryServer(t, func(t *testing.T, client redis.UniversalClient, prefix string) {
		good, err := appendValue(nil, new(conversation(t, 1, 7, "some state")))
		if err != nil {
			t.Fatal(err)
		}
		flipped := append([]byte(nil), good...)
		flipped[len(flipped)-1] ^= 1
		elsewhere, err := appendValue(nil, new(conversation(t, 2, 7, "some state")))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{
			"empty":             "",
			"short":             string(good[:headerLen-1]),
			"cut off":           string(good[:len(good)-2]),
			"flipped bit":       string(flipped),
			"high tag":          "7fffffffffffffff" + string(good[tagLen:]),
			"no tag":            strings.Repeat("z", tagLen) + string(good[tagLen:]),
			"another partition": string(elsewhere),
		} {
			t.Run(name, func(t *testing.T) {
				core, logs := observer.New(zap.WarnLevel)
				r := NewRedis(client, zap.New(core), RedisOptions{Prefix: prefix, TTL: time.Minute})
				k := key("c "+name, 1, 1)
				if err := client.Set(t.Context(), r.key(&k), value, time.Minute).Err(); err != nil {
					t.Fatal(err)
				}
				if got := load(t, r, k); !got.IsZero() {
					t.Errorf("loaded %q", encoded(t, got))
				}
				if r.Stats().Damaged != 1 || logs.Len() != 1 || strings.Contains(fmt.Sprint(logs.All()), "some state") {
					t.Errorf("counted %d, logged %v", r.Stats().Damaged, logs.All())
				}
				save(t, r, k, conversation(t, 1, 8, "new"))
				expect(t, "saved after", load(t, newRedis(client, prefix), k), conversation(t, 1, 8, "new"))
			})
		}
		t.Run("another type", func(t *testing.T) {
			r, k := newRedis(client, prefix), key("list", 1, 1)
			if err := client.LPush(t.Context(), r.key(&k), "x").Err(); err != nil {
				t.Fatal(err)
			}
			if got := load(t, r, k); !got.IsZero() {
				t.Error("a list is a conversation")
			}
			save(t, r, k, conversation(t, 1, 8, "new"))
			expect(t, "saved over it", load(t, newRedis(client, prefix), k), conversation(t, 1, 8, "new"))
		})
	})
}

func TestAMarkTellsAnEmptyRedisFromABuiltOne(t *testing.T) {
	onEveryServer(t, func(t *testing.T, client redis.UniversalClient, prefix string) {
		r := newRedis(client, prefix)
		t.Cleanup(func() { client.Del(context.Background(), r.marker(7)) })
		for _, want := range []bool{false, true} {
			if got, err := r.Built(t.Context(), 7); err != nil || got != want {
				t.Errorf("built %t, %v, want %t", got, err, want)
			}
			if err := r.MarkBuilt(t.Context(), 7); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := r.Built(t.Context(), 8); err != nil || got {
			t.Errorf("partition 8: %t, %v", got, err)
		}
	})
}

func TestConversationsExpireAfterTheirLastMessage(t *testing.T) {
	s := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: s.Addr()})
	t.Cleanup(func() { _ = client.Close() })
	r := NewRedis(client, zap.NewNop(), RedisOptions{})
	save(t, r, key("c", 0, 1), conversation(t, 0, 1, "x"))
	s.FastForward(29 * 24 * time.Hour)
	save(t, r, key("c", 0, 1), conversation(t, 0, 2, "y"))
	s.FastForward(29 * 24 * time.Hour)
	expect(t, "after 29 days", load(t, NewRedis(client, zap.NewNop(), RedisOptions{}), key("c", 0, 1)), conversation(t, 0, 2, "y"))
	s.FastForward(2 * 24 * time.Hour)
	if len(s.Keys()) != 0 {
		t.Errorf("left after 31 days: %v", s.Keys())
	}
}

func TestAnOutageIsAnErrorThatIsNotPermanent(t *testing.T) {
	s := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: s.Addr(), MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	r := newRedis(client, "p:")
	s.SetError("LOADING the dataset")
	k, c := []pipeline.ConversationKey{key("c", 0, 1)}, []pipeline.Conversation{conversation(t, 0, 1, "x")}
	check := func(what string, err error) {
		t.Helper()
		if err == nil || pipeline.IsPermanent(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := r.Load(t.Context(), k)
	check("load", err)
	check("save", r.Save(t.Context(), k, c))
	_, err = r.Built(t.Context(), 0)
	check("built", err)
	check("mark", r.MarkBuilt(t.Context(), 0))
	s.SetError("")
	if got := load(t, r, k[0]); !got.IsZero() {
		t.Error("what could not be saved is in the cache")
	}
}

func TestTheCacheIsBoundedInEntriesAndBytes(t *testing.T) {
	s := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: s.Addr()})
	t.Cleanup(func() { _ = client.Close() })
	for name, opts := range map[string]RedisOptions{
		"entries": {CacheEntries: 1500},
		"bytes":   {CacheBytes: 100_000},
	} {
		r := NewRedis(client, zap.NewNop(), opts)
		for i := range 4000 {
			r.remember(new(key(fmt.Sprintf("c-%d", i), 0, 1)), new(conversation(t, 0, int64(i), "x")), 500)
		}
		entries, bytes := 0, int64(0)
		for i := range r.shards {
			entries += len(r.shards[i].lru.entries)
			bytes += r.shards[i].lru.bytes
		}
		if opts.CacheEntries > 0 && (entries > opts.CacheEntries || entries < opts.CacheEntries/2) {
			t.Errorf("%s: %d entries", name, entries)
		}
		if opts.CacheBytes > 0 && (bytes > opts.CacheBytes || bytes < opts.CacheBytes/2) {
			t.Errorf("%s: %d bytes", name, bytes)
		}
		if got := int(r.Stats().Evicted); got != 4000-entries {
			t.Errorf("%s: %d evicted of 4000, %d left", name, got, entries)
		}
	}
}

func TestLanesShareAMemory(t *testing.T) {
	s := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: s.Addr()})
	t.Cleanup(func() { _ = client.Close() })
	local := NewLocal(LocalOptions{CacheEntries: 5, Dir: t.TempDir()})
	t.Cleanup(func() { _ = local.Close() })
	for name, m := range map[string]pipeline.Memory{"redis": NewRedis(client, zap.NewNop(), RedisOptions{CacheEntries: 8}), "local": local} {
		var wg sync.WaitGroup
		for lane := range 8 {
			wg.Go(func() {
				for offset := range int64(50) {
					k := key(fmt.Sprintf("c-%d-%d", lane, offset%3), 0, 1)
					got, err := m.Load(t.Context(), []pipeline.ConversationKey{k})
					if err != nil {
						t.Error(name, err)
						return
					}
					if offset >= 3 && got[0].Offset != offset-3 {
						t.Errorf("%s: offset %d, want %d", name, got[0].Offset, offset-3)
					}
					if err := m.Save(t.Context(), []pipeline.ConversationKey{k}, []pipeline.Conversation{conversation(t, 0, offset, "x")}); err != nil {
						t.Error(name, err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
}

// TestLocalEqualsAMap holds a memory that spills nearly everything to a plain
// map, over random interleavings.
func TestLocalEqualsAMap(t *testing.T) {
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		l := NewLocal(LocalOptions{CacheEntries: 3, Dir: t.TempDir()})
		model := map[string]pipeline.Conversation{}
		for step := range 1500 {
			var keys []pipeline.ConversationKey
			for range rnd.IntN(6) {
				keys = append(keys, key(fmt.Sprintf("c-%d", rnd.IntN(25)), 0, int32(rnd.IntN(2))))
			}
			switch rnd.IntN(5) {
			case 0, 1:
				got, err := l.Load(t.Context(), keys)
				if err != nil {
					t.Fatal(err)
				}
				for i := range keys {
					expect(t, fmt.Sprintf("seed %d, step %d, %s", seed, step, keys[i].ID), got[i], model[keys[i].ID])
				}
			case 2, 3:
				states := make([]pipeline.Conversation, len(keys))
				for i, k := range keys {
					if rnd.IntN(10) == 0 {
						continue // the zero value changes nothing
					}
					states[i] = conversation(t, int32(rnd.IntN(2)), rnd.Int64N(1000), fmt.Sprint(rnd.Uint64()))
					old, there := model[k.ID]
					if !there || old.Partition != states[i].Partition || states[i].Offset >= old.Offset {
						model[k.ID] = states[i]
					}
				}
				if err := l.Save(t.Context(), keys, states); err != nil {
					t.Fatal(err)
				}
			case 4:
				// Writes to the file far more often than it would.
				if rnd.IntN(3) == 0 {
					l.mu.Lock()
					err := l.spill(1, 1)
					l.mu.Unlock()
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			if len(l.cache.entries) > 3 {
				t.Fatalf("%d entries in a cache of 3", len(l.cache.entries))
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
	}
}

func TestLocalSpillsLazilyAndLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	l := NewLocal(LocalOptions{CacheEntries: 10, Dir: dir})
	for i := range 10 {
		save(t, l, key(fmt.Sprint(i), 0, 0), conversation(t, 0, int64(i), "x"))
	}
	if l.db != nil || len(l.pending) != 0 {
		t.Error("spilled before it had to")
	}
	const n = 3 * spillEntries
	for i := range n {
		save(t, l, key(fmt.Sprint(i), 0, 0), conversation(t, 0, int64(n+i), "y"))
	}
	if l.db == nil || len(l.pending) >= spillEntries || len(l.cache.entries) > 10 {
		t.Errorf("file %v, %d pending, %d cached", l.db, len(l.pending), len(l.cache.entries))
	}
	for i := range n {
		expect(t, fmt.Sprint(i), load(t, l, key(fmt.Sprint(i), 0, 0)), conversation(t, 0, int64(n+i), "y"))
	}
	if open, _ := filepath.Glob(filepath.Join(dir, "*")); runtime.GOOS != "windows" && len(open) != 0 {
		t.Errorf("a crash would leave behind %v", open)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := l.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	if _, err := l.Load(t.Context(), nil); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestLocalSaysSoWhereItCannotSpillAndLosesNothing(t *testing.T) {
	l := NewLocal(LocalOptions{CacheEntries: 1, Dir: filepath.Join(t.TempDir(), "missing")})
	t.Cleanup(func() { _ = l.Close() })
	var failed error
	saved := 0
	for i := range 2 * spillEntries {
		saved++
		if failed = l.Save(t.Context(), []pipeline.ConversationKey{key(fmt.Sprint(i), 0, 0)}, []pipeline.Conversation{conversation(t, 0, int64(i), "x")}); failed != nil {
			break
		}
	}
	if failed == nil || pipeline.IsPermanent(failed) || !strings.Contains(failed.Error(), "opening a file for conversations") {
		t.Fatalf("error %v", failed)
	}
	if err := os.Mkdir(l.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range saved {
		expect(t, fmt.Sprint(i), load(t, l, key(fmt.Sprint(i), 0, 0)), conversation(t, 0, int64(i), "x"))
	}
}

func TestLocalKeepsAConversationOverPartitions(t *testing.T) {
	l := NewLocal(LocalOptions{})
	t.Cleanup(func() { _ = l.Close() })
	save(t, l, key("c", 0, 0), conversation(t, 0, 9, "first file"))
	expect(t, "seen from the second file", load(t, l, key("c", 1, 0)), conversation(t, 0, 9, "first file"))
	save(t, l, key("c", 1, 0), conversation(t, 1, 2, "second file"))
	expect(t, "after the second file", load(t, l, key("c", 1, 0)), conversation(t, 1, 2, "second file"))
}

func FuzzParseValue(f *testing.F) {
	good, err := appendValue(nil, new(conversation(f, 1, 7, "some state")))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{})
	f.Add([]byte(hex.EncodeToString(good)))
	f.Fuzz(func(t *testing.T, value []byte) {
		// Past the checksum, as only a faulty writer gets.
		if len(value) >= headerLen {
			binary.BigEndian.PutUint32(value[tagLen:], checksum(value))
		}
		state, err := parseValue(value, 1)
		if err == nil && state.Partition != 1 {
			t.Fatal("a state of another partition")
		}
	})
}

func BenchmarkRedis(b *testing.B) {
	addr := os.Getenv("DMGUARD_TEST_REDIS")
	if addr == "" {
		addr = miniredis.RunT(b).Addr()
	}
	client := redis.NewClient(&redis.Options{Addr: addr})
	b.Cleanup(func() { _ = client.Close() })
	const batch = 500
	keys := make([]pipeline.ConversationKey, batch)
	states := make([]pipeline.Conversation, batch)
	for i := range keys {
		keys[i] = key(fmt.Sprintf("conversation-%d", i), 1, 0)
		states[i] = conversation(b, 1, 0, strings.Repeat("x", 300))
	}
	perMessage := func(b *testing.B) {
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/batch, "ns/message")
	}
	b.Run("load hits", func(b *testing.B) {
		r := newRedis(client, fmt.Sprintf("bench:%x:", rand.Uint64()))
		if err := r.Save(b.Context(), keys, states); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := r.Load(b.Context(), keys); err != nil {
				b.Fatal(err)
			}
		}
		perMessage(b)
	})
	b.Run("load misses", func(b *testing.B) {
		r := newRedis(client, fmt.Sprintf("bench:%x:", rand.Uint64()))
		if err := r.Save(b.Context(), keys, states); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			for i := range keys {
				keys[i].Epoch++
			}
			if _, err := r.Load(b.Context(), keys); err != nil {
				b.Fatal(err)
			}
		}
		perMessage(b)
	})
	b.Run("save", func(b *testing.B) {
		r := newRedis(client, fmt.Sprintf("bench:%x:", rand.Uint64()))
		b.ReportAllocs()
		for b.Loop() {
			for i := range states {
				states[i].Offset++
			}
			if err := r.Save(b.Context(), keys, states); err != nil {
				b.Fatal(err)
			}
		}
		perMessage(b)
	})
}

func BenchmarkLocal(b *testing.B) {
	const batch = 500
	for name, conversations := range map[string]int{"cached": 50_000, "spilled": 500_000} {
		b.Run(name, func(b *testing.B) {
			l := NewLocal(LocalOptions{Dir: b.TempDir()})
			b.Cleanup(func() { _ = l.Close() })
			keys := make([]pipeline.ConversationKey, batch)
			states := make([]pipeline.Conversation, batch)
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				for i := range keys {
					n++
					keys[i] = key(fmt.Sprintf("conversation-%d", n%conversations), 0, 0)
				}
				if _, err := l.Load(b.Context(), keys); err != nil {
					b.Fatal(err)
				}
				for i := range states {
					states[i] = conversation(b, 0, int64(n), "some state of a detector")
				}
				if err := l.Save(b.Context(), keys, states); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/batch, "ns/message")
		})
	}
}
