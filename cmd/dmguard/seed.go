package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/pdq"
	"github.com/dmguard/dmguard/pipeline"
)

// Everything in this file is made up: the people, what they write, and the
// pictures, which are computed patterns. It gives a newcomer cases to look at.

// seedList is the name of the list that knows some of the pictures.
const seedList = "made-up-patterns"

// pattern draws a picture of coloured waves. Different seeds give pictures that
// no hash takes for each other.
func pattern(seed, size int) image.Image {
	img := image.NewRGBA(image.Rect(0, 0, size, size))
	state := uint32(seed)*2654435761 + 1
	next := func(n int) int {
		state = state*1664525 + 1013904223
		return int(state>>8) % n
	}
	const cells = 8
	var grid [cells + 1][cells + 1][3]int
	for y := range grid {
		for x := range grid[y] {
			grid[y][x] = [3]int{next(256), next(256), next(256)}
		}
	}
	for y := range size {
		for x := range size {
			cx, cy := x*cells/size, y*cells/size
			fx, fy := x*cells%size, y*cells%size
			var c [3]uint8
			for i := range c {
				top := grid[cy][cx][i]*(size-fx) + grid[cy][cx+1][i]*fx
				bottom := grid[cy+1][cx][i]*(size-fx) + grid[cy+1][cx+1][i]*fx
				c[i] = uint8((top*(size-fy) + bottom*fy) / (size * size))
			}
			img.SetRGBA(x, y, color.RGBA{c[0], c[1], c[2], 255})
		}
	}
	return img
}

func patternPNG(seed, size int) ([]byte, error) {
	var b bytes.Buffer
	if err := png.Encode(&b, pattern(seed, size)); err != nil {
		return nil, fmt.Errorf("drawing a pattern: %w", err)
	}
	return b.Bytes(), nil
}

// writeSeedLists writes the list of made-up pictures, unless the folder has
// lists already.
func writeSeedLists(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		return err
	}
	var b bytes.Buffer
	fmt.Fprintln(&b, "kind,hash,entry,category")
	exact, err := patternPNG(1, 96)
	if err != nil {
		return err
	}
	for _, h := range hashdb.Digests(exact) {
		fmt.Fprintf(&b, "%s,%s,pattern-1,csam\n", h.Kind(), h)
	}
	// The second one is known in another size: only a perceptual hash finds it.
	var hasher pdq.Hasher
	similar, _ := hasher.Hash(pattern(2, 320), pdq.NN512)
	fmt.Fprintf(&b, "pdq,%s,pattern-2,ncii\n", similar)
	path := filepath.Join(dir, seedList+".csv")
	if err := os.WriteFile(path+".new", b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("writing the list of made-up pictures: %w", err)
	}
	return os.Rename(path+".new", path)
}

// seed sends the made-up messages, once for a data folder. They are sealed as a
// platform's would be.
func (u *up) seed(ctx context.Context) error {
	done := u.path("seeded")
	if _, err := os.Stat(done); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	lines, err := seedMessages(time.Now(), u.rules.opt.canary)
	if err != nil {
		return err
	}
	s := &sender{log: u.producer, topic: u.rules.config.Topics.Prefix + pipeline.TopicMessages}
	for _, line := range lines {
		sealed, err := u.keys.Seal(line)
		if err != nil {
			return err
		}
		if err := s.add(ctx, sealed); err != nil {
			return err
		}
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	// Were this lost, the same messages would be sent again: message ids are the
	// same, so the same cases take them.
	return os.WriteFile(done, []byte(time.Now().UTC().Format(time.RFC3339)+"\n"), 0o600)
}

// line is one made-up message.
type line struct {
	from, text string
	pattern    int // of the picture, if not 0
	size       int // of its sides
	report     string
}

// seedConversations are made up. The risk in them is shown by mild signs only.
var seedConversations = []struct {
	id    string
	ages  map[string]int
	lines []line
}{
	{"practice", map[string]int{"noor": 14, "sam": 14}, []line{
		{from: "noor", text: "are you coming to practice?"},
		{from: "sam", text: "yes, my dad drives us"},
		{from: "noor", text: "cool, bring the blue bibs"},
		{from: "sam", text: "ok see you at 5"},
	}},
	{"homework", map[string]int{"ida": 15, "leo": 15}, []line{
		{from: "ida", text: "did you get number 7?"},
		{from: "leo", text: "I think it is 42 but check the sign"},
		{from: "ida", text: "thanks! here is my drawing for art class", pattern: 9, size: 64},
		{from: "leo", text: "wow the colours"},
	}},
	{"game-friend", map[string]int{"river": 13, "max": 34}, []line{
		{from: "max", text: "hey good game earlier"},
		{from: "river", text: "thx you too"},
		{from: "max", text: "how old are you?"},
		{from: "river", text: "13"},
		{from: "max", text: "you play better than most people I know"},
		{from: "river", text: "ok lol"},
		{from: "max", text: "are your parents home?"},
		{from: "river", text: "no they work late"},
		{from: "max", text: "same time tomorrow for the next level?"},
		{from: "river", text: "maybe"},
		{from: "max", text: "don't tell your mom we talk, it's our secret ok? add me on another app"},
		{from: "river", text: "why"},
	}},
	{"coach", map[string]int{"kim": 13, "coach-lee": 41}, []line{
		{from: "coach-lee", text: "Training moves to 6 pm on Thursday, please tell your parents"},
		{from: "kim", text: "ok, my mom will pick me up"},
		{from: "coach-lee", text: "Great. Team photo on Saturday, wear the red shirt"},
	}},
	{"shared-picture", map[string]int{"ash": 27, "bo": 29}, []line{
		{from: "ash", text: "look at this", pattern: 1, size: 96},
		{from: "bo", text: "?"},
	}},
	{"similar-picture", map[string]int{"cleo": 22, "dev": 24}, []line{
		{from: "cleo", text: "remember this one", pattern: 2, size: 200},
		{from: "dev", text: "please do not send that", report: "report-1"},
	}},
}

func seedMessages(now time.Time, canary string) ([][]byte, error) {
	var out [][]byte
	at := now.Add(-2 * time.Hour).UTC().Truncate(time.Second)
	add := func(m map[string]any) error {
		b, err := json.Marshal(m, json.Deterministic(true))
		if err == nil {
			out = append(out, b)
		}
		return err
	}
	for _, c := range seedConversations {
		for i, l := range c.lines {
			at = at.Add(40 * time.Second)
			var recipients []any
			for who, age := range c.ages {
				if who != l.from {
					recipients = append(recipients, map[string]any{"id": "made-up-" + who, "age": age})
				}
			}
			m := map[string]any{
				"id": fmt.Sprintf("made-up-%s-%d", c.id, i+1), "conversation_id": "made-up-" + c.id, "sent_at": at,
				"sender":     map[string]any{"id": "made-up-" + l.from, "age": c.ages[l.from]},
				"recipients": recipients, "text": l.text,
			}
			if l.pattern != 0 {
				data, err := patternPNG(l.pattern, l.size)
				if err != nil {
					return nil, err
				}
				m["attachments"] = []any{map[string]any{"id": fmt.Sprintf("made-up-%s-%d-a", c.id, i+1), "media_type": "image/png", "data": data}}
			}
			if l.report != "" {
				m["user_reports"] = []any{map[string]any{"id": l.report, "reporter_id": "made-up-" + l.from, "reported_at": at}}
			}
			if err := add(m); err != nil {
				return nil, err
			}
		}
	}
	err := add(map[string]any{
		"id": "made-up-canary-1", "conversation_id": "dmguard-canary/first", "sent_at": at.Add(time.Minute),
		"sender": map[string]any{"id": "made-up-operator"}, "text": "a test of the line: " + canary,
	})
	return out, err
}
