package pipeline

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var compareConversations = cmp.AllowUnexported(Conversation{})

func anyConversation(rng *rand.Rand) Conversation {
	c := Conversation{tagged: true, Partition: rng.Int32(), Offset: rng.Int64() >> rng.IntN(63)}
	for range rng.IntN(RecentMessages + 1) {
		c.recent = append(c.recent, rng.Int64N(max(c.Offset, 1)))
	}
	for range rng.IntN(seenIDs + 1) {
		c.seen = append(c.seen, rng.Uint64())
	}
	for range rng.IntN(4) {
		if c.detectors == nil {
			c.detectors = map[string][]byte{}
		}
		state := make([]byte, 1+rng.IntN(300))
		for i := range state {
			state[i] = byte(rng.Uint32())
		}
		c.detectors[strings.Repeat("d", rng.IntN(maxDetectorName))+string(rune('a'+rng.IntN(26)))] = state
	}
	return c
}

func TestAConversationSurvivesEncoding(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		c := anyConversation(rng)
		data, err := c.AppendBinary([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		data, ok := bytes.CutPrefix(data, []byte("before"))
		if !ok {
			t.Fatal("AppendBinary does not append")
		}
		var got Conversation
		if err := got.UnmarshalBinary(data); err != nil {
			t.Fatalf("%v: %x", err, data)
		}
		if diff := cmp.Diff(c, got, compareConversations); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		for i := range data {
			cut := Conversation{Offset: 7}
			if err := cut.UnmarshalBinary(data[:i]); err == nil {
				t.Fatalf("cut at byte %d of %x: no error", i, data)
			}
			if cut.Offset != 7 || cut.tagged {
				t.Fatal("a failed UnmarshalBinary changed its receiver")
			}
		}
		if err := got.UnmarshalBinary(append(data, 0)); err == nil {
			t.Fatal("a byte too many: no error")
		}
		clear(data)
		if diff := cmp.Diff(c, got, compareConversations); diff != "" {
			t.Fatal("the conversation shares memory with what it was read from")
		}
	}
}

// A stored state is read by later versions of the program.
func TestTheEncodingOfAConversationIsStable(t *testing.T) {
	c := Conversation{Partition: 3, Offset: 300, tagged: true, recent: []int64{298, 300}, seen: []uint64{1}, detectors: map[string][]byte{"b": {9}, "a": {7, 8}}}
	data, err := c.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := hex.EncodeToString(data), "01"+"03"+"ac02"+"02"+"02"+"00"+"01"+"0100000000000000"+"02"+"0161"+"020708"+"0162"+"0109"; got != want {
		t.Errorf("encoded as %s, want %s", got, want)
	}
}

func TestDamagedConversationStateIsAnError(t *testing.T) {
	for name, data := range map[string]string{
		"empty": "", "another version": "0203ac02000000", "a partition too large": "01ffffffff0f00000000", "an offset too large": "0100ffffffffffffffffff01000000",
		"a number longer than it must be": "018000" + "00" + "00" + "00" + "00", "six recent messages": "010064" + "06000000000000" + "0000",
		"a recent message before offset 0": "010064" + "0165" + "0000", "nine seen ids": "010064" + "00" + "09" + strings.Repeat("00", 72) + "00",
		"detectors out of order": "010064" + "0000" + "02" + "01620109" + "01610109", "a detector twice": "010064" + "0000" + "02" + "01610109" + "01610109",
		"a name too long": "010064" + "0000" + "01" + "41" + strings.Repeat("61", 65) + "0109", "a state larger than the data": "010064" + "0000" + "01" + "0161" + "ffff3f" + "00",
		"a state over the limit": "010064" + "0000" + "01" + "0161" + "8180" + "4000",
	} {
		raw, err := hex.DecodeString(data)
		if err != nil {
			t.Fatal(err)
		}
		var c Conversation
		if err := c.UnmarshalBinary(raw); !errors.Is(err, errConversation) {
			t.Errorf("%s: %v, want %v", name, err, errConversation)
		}
	}
}

func TestWhatCouldNotBeReadAgainIsNotWritten(t *testing.T) {
	many := map[string][]byte{}
	for i := range 256 {
		many[fmt.Sprint(i)] = []byte{1}
	}
	for name, c := range map[string]Conversation{
		"a large state":   {detectors: map[string][]byte{"a": make([]byte, maxState+1)}},
		"a long name":     {detectors: map[string][]byte{strings.Repeat("a", 65): {1}}},
		"many detectors":  {detectors: many},
		"negative offset": {Offset: -1},
	} {
		if _, err := c.AppendBinary(nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	largest := Conversation{tagged: true, Offset: math.MaxInt64, Partition: math.MaxInt32, detectors: map[string][]byte{strings.Repeat("a", 64): make([]byte, maxState)}}
	data, err := largest.AppendBinary(nil)
	var again Conversation
	if err = errors.Join(err, again.UnmarshalBinary(data)); err != nil {
		t.Errorf("the largest state: %v", err)
	}
}

func FuzzConversationUnmarshalBinary(f *testing.F) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 10 {
		c := anyConversation(rng)
		data, err := c.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		var c Conversation
		if c.UnmarshalBinary(data) != nil {
			return
		}
		if len(c.recent) > RecentMessages || len(c.seen) > seenIDs || slices.ContainsFunc(c.recent, func(o int64) bool { return o < 0 || o > c.Offset }) {
			t.Fatalf("%+v is over its limits", c)
		}
		again, err := c.AppendBinary(nil)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%x read and written is %x (%v)", data, again, err)
		}
	})
}

func itemAt(partition int32, offset int64, id string) *Item {
	return &Item{Message: &Message{ID: id}, Position: Position{Topic: "dm.messages", Partition: partition, Offset: offset}}
}

func TestAConversationIncludesWhatWasJudgedIntoIt(t *testing.T) {
	var c Conversation
	if !c.IsZero() || c.Includes(Position{}) || c.Includes(Position{Offset: -1}) {
		t.Error("the zero value includes something")
	}
	c = c.advance(itemAt(2, 10, "m-1"), nil)
	for _, tt := range []struct {
		p    Position
		want bool
	}{
		{Position{Partition: 2, Offset: 10}, true},
		{Position{Partition: 2, Offset: 9}, true},
		{Position{Partition: 2, Offset: 11}, false},
		{Position{Partition: 3, Offset: 10}, false},
		{Position{Partition: 0, Offset: 0}, false},
	} {
		if got := c.Includes(tt.p); got != tt.want {
			t.Errorf("Includes(%+v) = %v", tt.p, got)
		}
	}
}

func TestTheLastFiveMessagesAndEightIDsAreRemembered(t *testing.T) {
	var c Conversation
	for i := range int64(20) {
		before := c
		it := itemAt(0, 100+i, fmt.Sprintf("m-%d", i))
		c.begin(it)
		if it.Repeat {
			t.Errorf("m-%d is taken for a repeat", i)
		}
		if want := min(int(i), RecentMessages); len(it.Recent) != want || want > 0 && it.Recent[want-1] != 99+i {
			t.Errorf("before m-%d: recent %v", i, it.Recent)
		}
		held := slices.Clone(before.recent)
		c = c.advance(it, nil)
		if !slices.Equal(before.recent, held) {
			t.Fatal("advance changed the conversation that it came from")
		}
	}
	for i, want := range map[int64]bool{19: true, 12: true, 11: false, 0: false} {
		it := itemAt(0, 200, fmt.Sprintf("m-%d", i))
		if c.begin(it); it.Repeat != want {
			t.Errorf("m-%d once more: repeat %v, want %v", i, it.Repeat, want)
		}
	}
	// A repeat does not push another id out.
	again := itemAt(0, 120, "m-19")
	c.begin(again)
	c = c.advance(again, nil)
	oldest := itemAt(0, 121, "m-12")
	if c.begin(oldest); !oldest.Repeat {
		t.Error("a repeat pushed an id out of memory")
	}
	// Offsets of another partition mean nothing.
	moved := itemAt(1, 5, "m-30")
	if c.begin(moved); moved.Recent != nil {
		t.Errorf("recent %v from another partition", moved.Recent)
	}
	if c = c.advance(moved, nil); !slices.Equal(c.recent, []int64{5}) {
		t.Errorf("recent %v after a change of partition", c.recent)
	}
}

func TestADetectorsStateIsKeptReplacedAndForgotten(t *testing.T) {
	var c Conversation
	c = c.advance(itemAt(0, 1, "m-1"), map[string][]byte{"a": {1}, "b": {2}})
	first := c
	c = c.advance(itemAt(0, 2, "m-2"), map[string][]byte{"a": {3}})
	it := itemAt(0, 3, "m-3")
	c.begin(it)
	if !bytes.Equal(it.State("a"), []byte{3}) || !bytes.Equal(it.State("b"), []byte{2}) || it.State("c") != nil {
		t.Errorf("states %v", it.state)
	}
	c = c.advance(it, map[string][]byte{"a": {}})
	if _, kept := c.detectors["a"]; kept || len(first.detectors) != 2 || first.detectors["a"][0] != 1 {
		t.Errorf("states %v, and of the first message %v", c.detectors, first.detectors)
	}
}

func TestADeadlineIsAContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithCancel(t.Context())
		d := &deadline{Context: parent, at: time.Now().Add(time.Second)}
		if at, ok := d.Deadline(); !ok || !at.Equal(d.at) || d.Err() != nil {
			t.Errorf("deadline %v, %v; error %v", at, ok, d.Err())
		}
		<-d.Done()
		if !errors.Is(d.Err(), context.DeadlineExceeded) {
			t.Errorf("Err() = %v once it passed", d.Err())
		}
		d.release()

		// What a detector leaves behind must neither hang nor crash.
		d = &deadline{Context: parent, at: time.Now().Add(time.Hour)}
		d.release()
		<-d.Done()
		if d.Err() == nil {
			t.Error("released, and yet no error")
		}

		d = &deadline{Context: parent, at: time.Now().Add(time.Hour)}
		waits := d.Done()
		d.release()
		<-waits

		d = &deadline{Context: parent, at: time.Now().Add(time.Hour)}
		cancel()
		<-d.Done()
		if !errors.Is(d.Err(), context.Canceled) {
			t.Errorf("Err() = %v after its parent ended", d.Err())
		}
		d.release()
	})
}
