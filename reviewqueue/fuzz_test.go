package reviewqueue

import (
	"context"
	"errors"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/dmguard/dmguard/pipeline"
)

// FuzzRecord holds that whatever lies in a topic is refused as a bad record or
// folds into a case that can be read, masked and claimed.
func FuzzRecord(f *testing.F) {
	hit := []byte(`{"case_id":"` + convCase("c-1") + `","case_key":"c-1","kind":"conversation","verdict":{"message_id":"m-1","severity":"high","action":"review","status":"scanned",` +
		`"findings":[{"detector":"d","category":"grooming","label":"secrecy","score":0.5,"reason":"r","spans":[{"start":0,"end":3}]}],"decided_at":"9999-01-01T00:00:00Z"},` +
		`"sent_at":"0001-01-01T00:00:00Z","user_reports":["r-1"],"attachments":[{"id":"a","media_type":"image/png"}],"evidence":{"kid":"k","sealed":"AAAA"}}`)
	decision := []byte(`{"case_id":"` + convCase("c-1") + `","case_key":"c-1","kind":"conversation","queue":"conversation","revision":1,"decision":"confirm",` +
		`"reviewer":"r","decided_at":"2026-01-01T00:00:00Z","through":{"0":5},"message_ids":["m-1"]}`)
	f.Add(hit, false, int64(3))
	f.Add(decision, true, int64(0))
	f.Add([]byte(`{"case_id":null}`), false, int64(-1))
	f.Add([]byte("\xff"), true, int64(1)<<60)
	server, err := miniredis.Run()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(server.Close)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	f.Cleanup(func() { client.Close() })
	f.Fuzz(func(t *testing.T, value []byte, isDecision bool, offset int64) {
		bare := &Queue{config: DefaultConfig()}
		rec := pipeline.Record{Position: pipeline.Position{Topic: "dm.hits", Offset: offset}, Value: value}
		if isDecision {
			rec.Topic = "dm.decisions"
		}
		one, err := bare.prepare(&rec)
		if err != nil {
			if !errors.Is(err, errBadRecord) {
				t.Fatal(err)
			}
			return
		}
		e := newEnv(t, client, nil)
		for range 2 {
			if err := e.Ingest(context.Background(), rec); err != nil {
				t.Fatal(err)
			}
		}
		c, err := e.Case(context.Background(), alice, one.caseID)
		if err != nil {
			t.Fatal(err)
		}
		_ = marshal(t, c)
		if _, err := e.Claim(context.Background(), alice, "", ""); (c.State == Pending) != (err == nil) {
			t.Fatalf("%s: %v", c.State, err)
		}
		if _, err := e.List(context.Background(), alice, Filter{}, 5); err != nil {
			t.Fatal(err)
		}
	})
}
