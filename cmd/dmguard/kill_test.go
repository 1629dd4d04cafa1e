package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/envelope"
)

// chaosSeed returns the seed of a test that leaves things to chance:
// DMGUARD_TEST_SEED repeats one.
func chaosSeed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if v := os.Getenv("DMGUARD_TEST_SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("DMGUARD_TEST_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("DMGUARD_TEST_SEED=%d", seed)
	return seed
}

// mixedTraffic returns about n messages of many conversations, in random order
// but for the order within a conversation: talk about nothing, canaries, mild
// signs of risk, pictures that a list knows and others, and records that cannot
// be read.
func (d *realDeployment) mixedTraffic(rng *rand.Rand, n int) []inputMessage {
	d.t.Helper()
	var talks [][]inputMessage
	left := n
	add := func(talk []inputMessage) {
		talks = append(talks, talk)
		left -= len(talk)
	}
	for i := range n / 400 {
		conversation := fmt.Sprintf("dmguard-canary/%d", i)
		var talk []inputMessage
		for k := range 1 + rng.IntN(15) {
			text := "nothing to see"
			if rng.IntN(2) == 0 {
				text = "is anybody there? " + d.canary
			}
			talk = append(talk, d.message(fmt.Sprintf("%s-%d", conversation, k), conversation, map[string]any{"text": text}))
		}
		add(talk)
	}
	for i := range n / 400 {
		add(d.riskyTalk(fmt.Sprintf("risky-%d", i), 15+rng.IntN(10)))
	}
	for i := range n / 400 {
		conversation := fmt.Sprintf("pictures-%d", i)
		var talk []inputMessage
		for k := range 1 + rng.IntN(5) {
			id := fmt.Sprintf("%s-%d", conversation, k)
			picture := firstListed + rng.IntN(2*listedDigests) // half of them are listed
			talk = append(talk, d.message(id, conversation, map[string]any{"attachments": []any{
				map[string]any{"id": id + "-a", "media_type": "image/png", "data": generatedPicture(d.t, picture)},
			}}))
		}
		add(talk)
	}
	for i := range n / 100 {
		add([]inputMessage{d.badMessage(i)})
	}
	for i := 0; left > 0; i++ {
		conversation := fmt.Sprintf("talk-%d", i)
		var talk []inputMessage
		for k := range min(left, 1+rng.IntN(40)) {
			talk = append(talk, d.message(fmt.Sprintf("%s-%d", conversation, k), conversation, nil))
		}
		add(talk)
	}

	var order []int
	for i, talk := range talks {
		order = append(order, slices.Repeat([]int{i}, len(talk))...)
	}
	rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	out := make([]inputMessage, 0, len(order))
	for _, i := range order {
		out = append(out, talks[i][0])
		talks[i] = talks[i][1:]
	}
	return out
}

// badMessage returns one of the records that are a platform's fault.
func (d *realDeployment) badMessage(i int) inputMessage {
	d.t.Helper()
	id := fmt.Sprintf("bad-%d", i)
	m := d.message(id, id, nil)
	m.bad = true
	switch i % 5 {
	case 0: // not sealed
		m.value = plainMessage(d.t, id, id, nil)
	case 1: // a flipped bit
		at := bytes.Index(m.value, []byte(`"ct":"`)) + 60
		if m.value[at] == 'A' {
			m.value[at] = 'B'
		} else {
			m.value[at] = 'A'
		}
	case 2: // another's key
		other, err := envelope.New()
		if err != nil {
			d.t.Fatal(err)
		}
		if m.value, err = other.Seal(plainMessage(d.t, id, id, nil)); err != nil {
			d.t.Fatal(err)
		}
	case 3: // another's id
		m.id += "-swapped"
		m.value = bytes.Replace(m.value, []byte(`"`+id+`"`), []byte(`"`+m.id+`"`), 1)
	case 4: // sealed, and no message
		m.value = fmt.Appendf(nil, `{"id":%q,"conversation_id":%q,"text":7}`, id, id)
	}
	return m
}

func goodOnes(messages []inputMessage) []inputMessage {
	return slices.DeleteFunc(slices.Clone(messages), func(m inputMessage) bool { return m.bad })
}

// deadLettersAreThoseOf holds the dead letters to the bad ones of the messages:
// each is there, as it came, with where it lay and why, and nothing else is.
func (d *realDeployment) deadLettersAreThoseOf(messages []inputMessage) (duplicates int) {
	d.t.Helper()
	bad := map[string]string{} // id by value
	for _, m := range messages {
		if m.bad {
			bad[string(m.value)] = m.id
		}
	}
	expected := map[string]string{} // value by position
	for _, r := range d.records(pipeline.TopicMessages) {
		if bad[string(r.Value)] != "" {
			expected[fmt.Sprintf("%s/%d/%d", r.Topic, r.Partition, r.Offset)] = string(r.Value)
		}
	}
	seen := map[string]int{}
	for _, r := range d.records(pipeline.TopicDeadLetters) {
		at := r.Header("topic") + "/" + r.Header("partition") + "/" + r.Header("offset")
		value, ok := expected[at]
		switch {
		case !ok:
			id, _ := pipeline.PeekIDs(r.Value)
			d.t.Errorf("dead letter %s (%s), which nobody expected: %s", at, id, r.Header("reason"))
		case value != string(r.Value):
			d.t.Errorf("dead letter %s is not as it came", at)
		case r.Header("reason") == "":
			d.t.Errorf("dead letter %s says no reason", at)
		}
		seen[at]++
	}
	for at := range expected {
		if seen[at] == 0 {
			d.t.Errorf("no dead letter for %s", at)
		}
		duplicates += max(0, seen[at]-1)
	}
	verdicts := d.verdicts()
	for value, id := range bad {
		vs := verdicts[id]
		if len(vs) == 0 {
			d.t.Errorf("no verdict on %s: %.80s", id, value)
		}
		for _, v := range vs {
			if v.Status != pipeline.Failed || v.Error == "" {
				d.t.Errorf("%s cannot be read, and its verdict is %v, error %q", id, v.Status, v.Error)
			}
		}
	}
	return duplicates
}

// TestAKilledWorkerLosesNothing kills workers, and the review service once, at
// random moments while a producer writes. Afterwards every message has the
// verdict that scan gives it, every bad record is a dead letter, every hit is in
// the queue once, and everything is committed.
func TestAKilledWorkerLosesNothing(t *testing.T) {
	const messages, kills = 20_000, 7
	seed := chaosSeed(t)
	rng := rand.New(rand.NewPCG(seed, 1))
	d := newRealDeployment(t, deploymentOptions{redis: realRedis(t), built: true})
	input := d.mixedTraffic(rng, messages)

	var producing sync.WaitGroup
	producing.Go(func() {
		// A backlog at first, so that kills meet full batches, then a stream.
		d.produce(input[:messages/4]...)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for chunk := range slices.Chunk(input[messages/4:], 50) {
			select {
			case <-tick.C:
			case <-d.ctx.Done():
				return
			}
			d.produce(chunk...)
		}
	})
	defer producing.Wait()

	queue := d.queue()
	for k := range kills {
		w := d.worker("journal")
		moment := sumOf(d.ends(pipeline.TopicVerdicts)) + 1 + rng.Int64N(25)
		d.await("a worker to get on", func() bool {
			if w.ended() {
				t.Fatalf("a worker ended:\n%s", w.logged())
			}
			return sumOf(d.ends(pipeline.TopicVerdicts)) >= moment
		})
		select {
		case <-time.After(time.Duration(rng.IntN(150_000)) * time.Microsecond):
		case <-d.ctx.Done():
		}
		w.kill()
		d.forgetMembers()
		if k == kills/2 {
			queue.kill()
			queue = d.queue()
		}
	}
	w := d.worker("journal")
	producing.Wait()
	d.awaitAllCommitted(w)

	want := d.scanned(goodOnes(input)...)
	duplicates := d.sameVerdicts(want)
	letters := d.deadLettersAreThoseOf(input)
	cases := casesIn(want)
	hits := 0
	for _, ids := range cases {
		hits += len(ids)
	}
	if hits < messages/100 {
		t.Fatalf("%d hits: the messages do not show much", hits)
	}
	d.awaitCases(cases)
	if status, stats := queue.call("GET", "/api/v1/stats", nil); status != 200 || stats["pending"] != float64(len(cases)) {
		t.Errorf("the API counts %v (status %d), %d cases wait", stats, status, len(cases))
	}
	d.conform()
	logged := len(d.records(pipeline.TopicHits))
	t.Logf("%d messages, %d kills: nothing lost; %d cases with %d hits; judged again: %d verdicts, %d dead letters, %d hits",
		len(input), kills, len(cases), hits, duplicates, letters, logged-hits)
	w.drain()
}

// TestTwoWorkersShareAndHandOver has two workers judge conversations that come
// in parts, lets one of them go between the parts, and expects the verdicts,
// with the risk that builds up over a conversation, of one scan over everything.
func TestTwoWorkersShareAndHandOver(t *testing.T) {
	d := newRealDeployment(t, deploymentOptions{redis: realRedis(t), partitions: 8})
	var parts [3][][]inputMessage
	for i := range 48 {
		talk := d.riskyTalk(fmt.Sprintf("talk-%d", i), 30)
		for p, part := range [][]inputMessage{talk[:7], talk[7:13], talk[13:]} {
			parts[p] = append(parts[p], part)
		}
	}
	var all []inputMessage
	send := func(part int) {
		messages := interleave(parts[part]...)
		all = append(all, messages...)
		d.produce(messages...)
	}
	one, two := d.worker("one"), d.worker("two")
	d.await("both workers to have a share", func() bool {
		return hasShare(one) && hasShare(two) && one.assigned()+two.assigned() == 8
	})
	send(0)
	d.awaitAllCommitted(one, two)
	for i, w := range []*realProcess{one, two} {
		if !bytes.Contains(w.logged(), []byte("\tbatch\t")) {
			t.Errorf("worker %d judged nothing", i+1)
		}
	}
	// While it drains, messages keep coming.
	send(1)
	one.drain()
	d.awaitAllCommitted(two)
	send(2)
	d.awaitAllCommitted(two)
	two.drain()

	want := d.scanned(all...)
	t.Logf("judged twice: %d of %d", d.sameVerdicts(want), len(all))
	if highest := want["talk-0-12"].Risk; highest < 0.5 {
		t.Errorf("the risk of a conversation reaches %v: there was no state to hand over", highest)
	}
}

// assigned returns how many partitions a worker got last.
func (p *realProcess) assigned() int {
	const joined = "joined the consumer group"
	log := string(p.logged())
	i := strings.LastIndex(log, joined)
	if i < 0 {
		return 0
	}
	_, list, _ := strings.Cut(log[i:], `"partitions": [`)
	list, _, _ = strings.Cut(list, "]")
	if list == "" {
		return 0
	}
	return strings.Count(list, ",") + 1
}

func hasShare(p *realProcess) bool { return p.assigned() > 0 }

// TestAZombieChangesNothing stops a worker in its tracks for longer than its
// session lasts. Another takes over; when the first one goes on it may repeat
// verdicts, but it takes back neither offsets nor state.
func TestAZombieChangesNothing(t *testing.T) {
	t.Parallel() // it waits for the group to give the zombie up
	d := newRealDeployment(t, deploymentOptions{redis: realRedis(t)})
	var parts [3][][]inputMessage
	for i := range 40 {
		talk := d.riskyTalk(fmt.Sprintf("talk-%d", i), 40)
		for p, part := range [][]inputMessage{talk[:8], talk[8:20], talk[20:]} {
			parts[p] = append(parts[p], part)
		}
	}
	first, second, third := interleave(parts[0]...), interleave(parts[1]...), interleave(parts[2]...)
	zombie, other := d.worker("one"), d.worker("two")
	d.await("both workers to have a share", func() bool {
		return hasShare(zombie) && hasShare(other) && zombie.assigned()+other.assigned() == 4
	})
	d.produce(first...)
	d.awaitAllCommitted(zombie, other)
	d.produce(second...)
	zombie.signal(syscall.SIGSTOP) // perhaps with some of the second part in hand
	d.awaitAllCommitted(other)
	d.produce(third...)
	d.awaitAllCommitted(other)
	before := d.committed()
	zombie.signal(syscall.SIGCONT)
	d.await("the zombie to join again", func() bool {
		for partition, offset := range d.committed() {
			if offset < before[partition] {
				t.Fatalf("partition %d: committed %d, then %d", partition, before[partition], offset)
			}
		}
		return bytes.Count(zombie.logged(), []byte("joined the consumer group")) > 1 && hasShare(zombie) && hasShare(other) &&
			zombie.assigned()+other.assigned() == 4
	})
	last := d.riskyTalk("talk-0", 45)[40:]
	d.produce(last...)
	d.awaitAllCommitted(zombie, other)
	zombie.drain()
	other.drain()
	all := slices.Concat(first, second, third, last)
	t.Logf("judged twice: %d of %d", d.sameVerdicts(d.scanned(all...)), len(all))
}
