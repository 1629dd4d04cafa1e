package main

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sys/unix"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/lists"
)

func benchIndexCommand() *command {
	return &command{
		name:    "index",
		summary: "measure the search for known hashes: time, memory, building, swapping, beside what is asked of it",
		example: "dmguard bench index --entries 1000000",
		run:     runBenchIndex,
	}
}

// What is asked of the index, on one core.
const (
	benchBatch = 4096 // records that one batch of an update has

	barEntries = 10_000_000
	bigEntries = 100_000_000
)

type indexBars struct {
	near   time.Duration // of eight hashes
	memory float64       // bytes
	build  time.Duration
}

var indexBarsByEntries = map[int]indexBars{
	barEntries: {2 * time.Millisecond, 1.3e9, 10 * time.Second},
	bigEntries: {25 * time.Millisecond, 8.5e9, 0},
}

const (
	barDigest = 500 * time.Nanosecond
	barSwap   = 2 // times the quiet p99
)

// bigMemory is what the largest run takes while it builds.
const bigMemory = 14 << 30

func runBenchIndex(ctx context.Context, cl *commandLine) error {
	entries := cl.Int("entries", barEntries, "how many PDQ hashes, and as many digests")
	big := cl.Bool("big", false, "measure 100 million PDQ hashes as well; takes minutes, 14 GiB of memory and 11 GB of disk")
	dir := cl.String("dir", os.TempDir(), "`folder` for the files, which are removed at the end")
	long := cl.Duration("time", 2*time.Second, "how long to look up for each figure")
	asJSON := cl.Bool("json", false, "print JSON")
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	if *entries < 1 || *entries > 4*bigEntries {
		return fmt.Errorf("--entries is 1 to %d", 4*bigEntries)
	}
	if free := availableMemory(); *big && free > 0 && free < bigMemory {
		return fmt.Errorf("--big takes %d GiB of memory, and %.1f GiB are free", bigMemory>>30, float64(free)/(1<<30))
	}
	tmp, err := os.MkdirTemp(*dir, "dmguard-bench-index")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	b := &indexBench{dir: tmp, long: *long, bar: func(unit string) *progress { return newProgress(cl.err, unit) }}
	r := &indexResult{Go: runtime.Version(), Processors: runtime.GOMAXPROCS(0)}
	if err := b.pictures(ctx, r, *entries); err != nil {
		return err
	}
	if err := b.digests(ctx, r, *entries); err != nil {
		return err
	}
	if err := b.reload(ctx, r, min(*entries, mostReloaded)); err != nil {
		return err
	}
	if *big {
		if err := b.pictures(ctx, r, bigEntries); err != nil {
			return err
		}
	}
	if *asJSON {
		return json.MarshalWrite(cl.out, r, jsontext.WithIndent("  "))
	}
	return r.print(cl.out)
}

// indexResult is what was measured. Times of look-ups are of the processor, on one thread, unless they say wall.
type indexResult struct {
	Go         string        `json:"go"`
	Processors int           `json:"processors"`
	Figures    []indexFigure `json:"figures"`
}

type indexFigure struct {
	Name    string  `json:"name"`
	Entries int     `json:"entries"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Bar     float64 `json:"bar,omitzero"` // the most that is asked for
	Met     *bool   `json:"met,omitzero"`
}

func (r *indexResult) add(entries int, name string, value float64, unit string, bar float64) {
	f := indexFigure{Name: name, Entries: entries, Value: value, Unit: unit, Bar: bar}
	if bar > 0 {
		met := value <= bar
		f.Met = &met
	}
	r.Figures = append(r.Figures, f)
}

func (r *indexResult) print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "ENTRIES\tMEASURED\tFIGURE\t\tBAR\t\t")
	for _, f := range r.Figures {
		bar, met := "", ""
		if f.Met != nil {
			bar = "≤ " + strconv.FormatFloat(f.Bar, 'g', 3, 64)
			met = map[bool]string{true: "met", false: "MISSED"}[*f.Met]
		}
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%s\t%s\t\n", f.Entries, f.Name, strconv.FormatFloat(f.Value, 'g', 4, 64), f.Unit, bar, met)
	}
	fmt.Fprintf(tw, "\t%s, %d processors\t\t\t\t\t\n", r.Go, r.Processors)
	return tw.Flush()
}

type indexBench struct {
	dir  string
	long time.Duration
	bar  func(unit string) *progress
}

// benchHash returns the i-th of the hashes that every run makes up.
func benchHash(kind hashdb.Kind, i int) hashdb.Hash {
	var b [32]byte
	for w := range 4 {
		// SplitMix64, because any place of the sequence can be had at once.
		x := (4*uint64(i) + uint64(w) + 1) * 0x9e3779b97f4a7c15
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(b[8*w:], x^x>>31)
	}
	h, err := hashdb.NewHash(kind, b[:kind.Size()])
	if err != nil {
		panic(err) // the size is the kind's
	}
	return h
}

// build writes n hashes of a kind to a file.
func (b *indexBench) build(ctx context.Context, kind hashdb.Kind, n int) (path string, took, used time.Duration, err error) {
	bar := b.bar("hashes of a file")
	defer bar.end()
	started, cpu := time.Now(), cpuTime()
	var builder hashdb.Builder
	builder.Begin(hashdb.List{Name: "bench", Version: "1", Category: "bench"})
	for i := range n {
		builder.Add(hashdb.Entry{Hash: benchHash(kind, i), ID: benchID(i)})
		if i%(1<<16) == 0 {
			if err := ctx.Err(); err != nil {
				return "", 0, 0, err
			}
			bar.set(int64(i), int64(n))
		}
	}
	path = filepath.Join(b.dir, kind.String())
	if err := builder.Write(path); err != nil {
		return "", 0, 0, err
	}
	return path, time.Since(started), cpuTime() - cpu, nil
}

func benchID(i int) string {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(i))
	return hex.EncodeToString(b[:])
}

// open maps a file and removes its name.
func (b *indexBench) open(path string) (*hashdb.Set, time.Duration, error) {
	debug.FreeOSMemory() // what building took is not the index's
	started := time.Now()
	set, err := hashdb.Open(path)
	if err != nil {
		return nil, 0, err
	}
	return set, time.Since(started), os.Remove(path)
}

// pictures measures n PDQ hashes.
func (b *indexBench) pictures(ctx context.Context, r *indexResult, n int) error {
	before := residentMemory()
	path, took, used, err := b.build(ctx, hashdb.PDQ, n)
	if err != nil {
		return err
	}
	set, opening, err := b.open(path)
	if err != nil {
		return err
	}
	bars := indexBarsByEntries[n]
	n = set.Lists()[0].Entries[hashdb.PDQ]
	r.add(n, "build a file, one thread, CPU", used.Seconds(), "s", bars.build.Seconds())
	r.add(n, "the same, wall", took.Seconds(), "s", 0)
	r.add(n, "open it, every check", opening.Seconds(), "s", 0)
	index, entries := set.Size()
	r.add(n, "index", float64(index)/1e9, "GB", bars.memory/1e9)
	r.add(n, "entries: lists, categories, IDs of 8 bytes", float64(entries)/1e9, "GB", 0)

	var db hashdb.DB
	db.Replace(set)
	quiet, err := b.lookUps(ctx, &db, n, b.long, nil)
	if err != nil {
		return err
	}
	r.add(n, "resident, the process with index and entries", float64(residentMemory()-before)/1e9, "GB", 0)
	r.add(n, "eight PDQ hashes, median", quiet.cpu(50), "ms", bars.near.Seconds()*1e3)
	r.add(n, "eight PDQ hashes, p99", quiet.cpu(99), "ms", 0)
	r.add(n, "eight PDQ hashes, median, wall", quiet.wall(50), "ms", 0)

	// Turn and turn about, so that whatever else the machine does is in both.
	var swapping lookUpTimes
	quiet = lookUpTimes{}
	for range 4 {
		q, err := b.lookUps(ctx, &db, n, b.long/4, nil)
		if err != nil {
			return err
		}
		s, err := b.lookUps(ctx, &db, n, b.long/4, func(turn int) error {
			e := hashdb.Entry{Hash: benchHash(hashdb.PDQ, 4*bigEntries+turn), ID: fmt.Sprint("new ", turn)}
			return db.Apply(hashdb.Change{List: "bench", Version: "2", Add: []hashdb.Entry{e}})
		})
		if err != nil {
			return err
		}
		quiet, swapping = append(quiet, q...), append(swapping, s...)
	}
	r.add(n, "p99 while quiet, wall", quiet.wall(99), "ms", 0)
	r.add(n, "p99 while sets are swapped every 5 ms, wall", swapping.wall(99), "ms", barSwap*quiet.wall(99))
	arrival, err := b.arrival(&db, n)
	if err != nil {
		return err
	}
	r.add(n, "from a new entry's arrival to its first match", arrival.Seconds()*1e3, "ms", 1000)
	db.Replace(nil)
	runtime.GC()
	return nil
}

type lookUpTime struct{ wall, cpu time.Duration }

type lookUpTimes []lookUpTime

func (l lookUpTimes) percentile(p int, of func(lookUpTime) time.Duration) float64 {
	all := make([]time.Duration, len(l))
	for i := range l {
		all[i] = of(l[i])
	}
	slices.Sort(all)
	return all[min(len(all)-1, len(all)*p/100)].Seconds() * 1e3
}

func (l lookUpTimes) cpu(p int) float64 {
	return l.percentile(p, func(t lookUpTime) time.Duration { return t.cpu })
}

func (l lookUpTimes) wall(p int) float64 {
	return l.percentile(p, func(t lookUpTime) time.Duration { return t.wall })
}

// What is looked up while changes are made goes on until there were some, however little of the processors they get.
const (
	fewestChanges = 2 // one of each, where two take turns
	mostWaited    = time.Minute
)

// lookUps asks for eight hashes at a time, one of which is an entry with 31 bits changed in every second
// query, and makes sure that it is found. Meanwhile change is called every 5 ms, if there is one.
func (b *indexBench) lookUps(ctx context.Context, db *hashdb.DB, n int, long time.Duration, change func(turn int) error) (lookUpTimes, error) {
	ended := make(chan error, 1)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer stop()
		ended <- changing(ctx, long, change)
	}()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var times lookUpTimes
	for turn := 0; ctx.Err() == nil || len(times) < 10; turn++ {
		q := hashdb.Query{Quality: 100}
		for i := range 8 {
			q.Hashes = append(q.Hashes, benchHash(hashdb.PDQ, 8*bigEntries+8*turn+i))
		}
		member := -1
		if turn%2 == 0 {
			member = turn * 7_919_777 % n
			q.Hashes[turn/2%8] = flipped(benchHash(hashdb.PDQ, member), turn)
		}
		started, cpu := time.Now(), threadTime()
		got := db.Match(q)
		times = append(times, lookUpTime{time.Since(started), threadTime() - cpu})
		found := slices.ContainsFunc(got.Matches, func(m hashdb.Match) bool { return m.Entry == benchID(member) && m.Distance == 31 })
		if member >= 0 && !found && !benchUnfit(member) {
			return nil, fmt.Errorf("entry %d was not found at distance 31: the run is worth nothing", member)
		}
	}
	return times, <-ended
}

// changing calls change every 5 ms, if there is one, until the time is over and there were a few changes.
func changing(ctx context.Context, long time.Duration, change func(turn int) error) error {
	over := time.After(long)
	if change == nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-over:
			return nil
		}
	}
	tooLong := time.After(long + mostWaited)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	first := int(time.Now().UnixNano() & 0xffffffff)
	for made, enough := 0, false; !enough || made < fewestChanges; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-over:
			enough = true
		case <-tooLong:
			return fmt.Errorf("%d changes in %v: the run is worth nothing", made, long+mostWaited)
		case <-tick.C:
			if err := change(first + made); err != nil {
				return err
			}
			made++
		}
	}
	return nil
}

// flipped returns a PDQ hash with 31 bits changed.
func flipped(h hashdb.Hash, turn int) hashdb.Hash {
	b := h.Bytes()
	for i := range 31 {
		bit := (turn + 83*i) % 256
		b[bit/8] ^= 1 << (bit % 8)
	}
	out, err := hashdb.NewHash(hashdb.PDQ, b)
	if err != nil {
		panic(err) // the size is the kind's
	}
	return out
}

// benchUnfit says whether lists refuse the hash because of its weight, as they do one in twenty thousand.
func benchUnfit(i int) bool {
	weight := 0
	for _, x := range benchHash(hashdb.PDQ, i).Bytes() {
		weight += bits.OnesCount8(x)
	}
	return weight < 96 || weight > 160
}

// arrival measures how long a new entry takes to match.
func (b *indexBench) arrival(db *hashdb.DB, n int) (time.Duration, error) {
	h := benchHash(hashdb.PDQ, 16*bigEntries+n)
	started := time.Now()
	if err := db.Apply(hashdb.Change{List: "bench", Version: "3", Add: []hashdb.Entry{{Hash: h, ID: "arrived"}}}); err != nil {
		return 0, err
	}
	got := db.Match(hashdb.Query{Hashes: []hashdb.Hash{h}, Quality: 100})
	if len(got.Matches) == 0 {
		return 0, errors.New("a new entry does not match")
	}
	return time.Since(started), nil
}

// digests measures n SHA-256 digests.
func (b *indexBench) digests(ctx context.Context, r *indexResult, n int) error {
	path, _, used, err := b.build(ctx, hashdb.SHA256, n)
	if err != nil {
		return err
	}
	set, _, err := b.open(path)
	if err != nil {
		return err
	}
	const parts, asked = 16, 1 << 14
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var absent, present []float64
	found, turn := 0, 0
	query := hashdb.Query{Hashes: make([]hashdb.Hash, 1)}
	for range parts {
		for _, base := range []int{0, n} {
			cpu := threadTime()
			for range asked {
				query.Hashes[0] = benchHash(hashdb.SHA256, base+turn*7_919_777%n)
				found += len(set.Match(query).Matches)
				turn++
			}
			each := float64((threadTime() - cpu).Nanoseconds()) / asked / 1e3
			if base == 0 {
				present = append(present, each)
			} else {
				absent = append(absent, each)
			}
		}
	}
	if found != parts*asked {
		return fmt.Errorf("%d of %d digests were found: the run is worth nothing", found, parts*asked)
	}
	slices.Sort(absent)
	slices.Sort(present)
	r.add(n, "digest that is not there", absent[parts/2], "µs", barDigest.Seconds()*1e6)
	r.add(n, "digest that is there, and its entry", present[parts/2], "µs", barDigest.Seconds()*1e6)
	index, _ := set.Size()
	r.add(n, "index of digests (SHA-256)", float64(index)/1e9, "GB", 0)
	r.add(n, "build a file of digests, CPU", used.Seconds(), "s", 0)
	return nil
}

// mostReloaded is how many records the list has that is imported and reloaded; more would only take longer to import.
const mostReloaded = 200_000

// reload measures look-ups while snapshots are put in force one after the other: what was imported meanwhile, as a delta, and in turn
// with it all of the list anew.
func (b *indexBench) reload(ctx context.Context, r *indexResult, n int) (err error) {
	dir, err := os.MkdirTemp(b.dir, "lists")
	if err != nil {
		return err
	}
	store, err := lists.OpenStore(dir, "bench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	origin := lists.Origin{Format: "bench"}
	bar := b.bar("records")
	_, err = store.Take(ctx, origin, benchRecords(n), func(done int) { bar.set(int64(done), int64(n)) })
	bar.end()
	if err != nil {
		return err
	}
	var db hashdb.DB
	var inForce *lists.Loaded
	options := lists.Options{Dir: dir, MaxChange: lists.Bound{Share: 1}}
	swaps, slowest := 0, time.Duration(0)
	swap := func(from *lists.Loaded) error {
		started := time.Now()
		next, err := lists.Load(options, from)
		if err == nil {
			err = next.Err()
		}
		if err != nil {
			return err
		}
		db.Replace(next.Set)
		inForce = next
		swaps++
		slowest = max(slowest, time.Since(started))
		return nil
	}
	publish := func() error {
		_, err := store.Publish(context.WithoutCancel(ctx), lists.Publication{MaxChange: options.MaxChange})
		return err
	}
	if err := errors.Join(publish(), swap(nil)); err != nil {
		return err
	}
	swaps, slowest = 0, 0
	var quiet, swapping lookUpTimes
	added := 0
	for range 4 {
		q, err := b.lookUps(ctx, &db, n, b.long/4, nil)
		if err != nil {
			return err
		}
		s, err := b.lookUps(ctx, &db, n, b.long/4, func(int) error {
			if added++; added%2 == 0 {
				return swap(nil) // a new base, mapped and verified
			}
			record := lists.Record{ID: fmt.Sprint("new ", added), Hashes: []hashdb.Hash{benchHash(hashdb.PDQ, 4*bigEntries+added)}}
			_, err := store.Take(context.WithoutCancel(ctx), origin, oneBatch(lists.Batch{Put: []lists.Record{record}}), nil)
			if err := errors.Join(err, publish()); err != nil {
				return err
			}
			return swap(inForce) // a delta of the same base
		})
		if err != nil {
			return err
		}
		quiet, swapping = append(quiet, q...), append(swapping, s...)
	}
	r.add(n, "reload: p50 while quiet, wall", quiet.wall(50), "ms", 0)
	r.add(n, "reload: p99 while quiet, wall", quiet.wall(99), "ms", 0)
	r.add(n, "reload: p50 while snapshots are swapped, wall", swapping.wall(50), "ms", 0)
	r.add(n, "reload: p99 while snapshots are swapped, wall", swapping.wall(99), "ms", barSwap*quiet.wall(99))
	r.add(n, "reload: p99 while quiet, CPU", quiet.cpu(99), "ms", 0)
	r.add(n, "reload: p99 while snapshots are swapped, CPU", swapping.cpu(99), "ms", barSwap*quiet.cpu(99))
	r.add(n, "reload: snapshots swapped, deltas and new bases in turn", float64(swaps), "", 0)
	r.add(n, "reload: the slowest of them to load", slowest.Seconds()*1e3, "ms", 1000)
	return nil
}

func oneBatch(batch lists.Batch) lists.Update {
	return func(yield func(lists.Batch, error) bool) { yield(batch, nil) }
}

// benchRecords are the hashes that every run makes up, as records.
func benchRecords(n int) lists.Update {
	return func(yield func(lists.Batch, error) bool) {
		for from := 0; from < n; from += benchBatch {
			var batch lists.Batch
			for i := from; i < min(n, from+benchBatch); i++ {
				batch.Put = append(batch.Put, lists.Record{ID: benchID(i), Hashes: []hashdb.Hash{benchHash(hashdb.PDQ, i)}})
			}
			if !yield(batch, nil) {
				return
			}
		}
	}
}

// threadTime is what this thread has used of the processors so far.
func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// residentMemory is what the process has in memory, mapped files included; 0 where the system does not tell.
func residentMemory() int64 { return procField("/proc/self/status", "VmRSS:") }

func availableMemory() int64 { return procField("/proc/meminfo", "MemAvailable:") }

// procField reads a number of kilobytes and returns bytes.
func procField(path, name string) int64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0
			}
			return n << 10
		}
	}
	return 0
}
