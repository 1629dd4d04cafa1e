package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dmguard/dmguard/hashdb/lists"
	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/reviewqueue"
)

// decided writes the decision of a reviewer about a revision of the case of an entry, as the review service would.
func (d *realDeployment) decided(entry string, revision int, choice reviewqueue.Choice, reviewer string) {
	d.t.Helper()
	key := "media/generated/" + entry
	value, err := json.Marshal(map[string]any{
		"case_id": pipeline.CaseID(pipeline.MediaCase, key), "case_key": key, "kind": pipeline.MediaCase, "queue": "media", "revision": revision,
		"decision": choice, "reviewer": reviewer, "decided_at": time.Now(), "through": map[string]int{"0": 1},
	})
	if err != nil {
		d.t.Fatal(err)
	}
	_, err = d.producer.ProduceOne(d.ctx, pipeline.Record{
		Position: pipeline.Position{Topic: d.topic(pipeline.TopicDecisions)}, Key: []byte(key), Value: value,
	})
	if err != nil {
		d.t.Fatal(err)
	}
}

// pictured are messages with a generated picture of the list, sent now.
func (d *realDeployment) pictured(name string, picture, n int) []inputMessage {
	d.t.Helper()
	data := generatedPicture(d.t, firstListed+picture)
	var out []inputMessage
	for i := range n {
		id := fmt.Sprintf("%s-%d", name, i)
		out = append(out, d.message(id, fmt.Sprintf("c-%s-%d", name, i%7), map[string]any{
			"sent_at": time.Now(), "attachments": []map[string]any{{"id": "a-" + id, "media_type": "image/png", "data": data}},
		}))
	}
	return out
}

func (d *realDeployment) standing(entry string) lists.State {
	d.t.Helper()
	s, err := lists.ReadStandings(d.path("lists"))
	if err != nil {
		d.t.Fatal(err)
	}
	st, _ := s.Of("generated", entry)
	return st.State
}

func TestEntriesThatReviewersDismissOrThatFloodAskAPerson(t *testing.T) {
	d := newRealDeployment(t, deploymentOptions{redis: realRedis(t), partitions: 1})
	config, err := os.ReadFile(d.path("dmguard.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	config = append(config, "policy: {lists: {generated: {action: block, severity: high}}}\n"...)
	if err := os.WriteFile(d.path("dmguard.yaml"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	verdict := func(id string) pipeline.Verdict {
		t.Helper()
		vs := d.verdicts()[id]
		if len(vs) == 0 {
			t.Fatalf("no verdict on %s", id)
		}
		return vs[0]
	}
	govern := func() governResult {
		t.Helper()
		out := d.dmguard("lists", "govern", "--once", "--json", "--config", d.path("dmguard.yaml"), "--brokers", d.brokers, "--state", d.path("governor.json"))
		return decodeJSON[governResult](t, []byte(out.out))
	}

	w := d.worker("w")
	d.produce(d.pictured("first", 0, 3)...)
	d.awaitAllCommitted(w)
	if v := verdict("first-0"); v.Action != pipeline.Block || v.Versions["standing"] != "" {
		t.Fatalf("before anything speaks against the entry: %+v", v)
	}

	// One reviewer alone is not enough; what is no decision is passed over, and told.
	d.decided("pattern-0", 1, reviewqueue.Dismiss, "alice")
	d.decided("pattern-0", 1, reviewqueue.Dismiss, "bob") // too late: alice has decided this revision
	if _, err := d.producer.ProduceOne(d.ctx, pipeline.Record{Position: pipeline.Position{Topic: d.topic(pipeline.TopicDecisions)}, Value: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	got := govern()
	if got.Hits != 3 || got.Decisions != 2 || got.Bad != 1 || len(got.Changes) != 0 {
		t.Fatalf("%+v", got)
	}
	d.decided("pattern-0", 2, reviewqueue.Dismiss, "bob")
	got = govern()
	if got.Hits != 0 || got.Decisions != 1 || len(got.Changes) != 1 || got.Changes[0].State != lists.Held || got.Changes[0].Cause != lists.ByReview {
		t.Fatalf("%+v", got)
	}
	want := []lists.Counts{{EntryName: lists.EntryName{List: "generated", Entry: "pattern-0"}, Dismissed: 2, Reviewers: 2, Messages: 3}}
	if diff := cmp.Diff(want, got.Entries); diff != "" {
		t.Errorf("what is known (-want +got):\n%s", diff)
	}
	if again := govern(); len(again.Changes) != 0 || again.Version != got.Version {
		t.Errorf("nothing new changes something: %+v", again)
	}

	// All of it again, from the start, says the same.
	if err := os.Remove(d.path("governor.json")); err != nil {
		t.Fatal(err)
	}
	if again := govern(); again.Hits != 3 || len(again.Changes) != 0 || !slices.Equal(again.Entries, got.Entries) {
		t.Errorf("read again: %+v", again)
	}

	// The worker follows by itself.
	follows := func(version string) {
		t.Helper()
		taken := regexp.MustCompile("configuration taken over.*" + regexp.QuoteMeta(version))
		d.await("the worker to take the standing over", func() bool { return taken.Match(w.logged()) })
	}
	follows(got.Version)
	d.produce(d.pictured("second", 0, 1)...)
	d.awaitAllCommitted(w)
	v := verdict("second-0")
	if v.Action != pipeline.Review || v.Severity != pipeline.High || v.Versions["standing"] != got.Version ||
		!strings.Contains(v.Findings[0].Reason, "review at most, since the entry is held by governor") || !strings.Contains(v.Findings[0].Reason, "2 cases dismissed by 2 reviewers") {
		t.Errorf("%+v", v)
	}

	// A flood, seen by a governor that runs, which is killed and started again.
	args := []string{"lists", "govern", "--config", d.path("dmguard.yaml"), "--brokers", d.brokers, "--state", d.path("governor.json"), "--every", "200ms"}
	g := d.start("dmguard", nil, args...)
	d.produce(d.pictured("flood", 1, 150)...) // also where the hour ends meanwhile
	d.awaitAllCommitted(w)
	d.await("the flood to be held", func() bool { return d.standing("pattern-1") == lists.Held })
	g.kill()
	s, err := lists.ReadStandings(d.path("lists"))
	if err != nil {
		t.Fatal(err)
	}
	g = d.start("dmguard", nil, args...)
	d.await("the governor to go on", func() bool { return strings.Contains(string(g.logged()), "governing hash lists") })
	if now, err := lists.ReadStandings(d.path("lists")); err != nil || now.Version() != s.Version() {
		t.Errorf("a governor that was killed changes standings from %s to %s, %v", s.Version(), now.Version(), err)
	}

	// A person withdraws one; a reviewer confirms the other.
	d.dmguard("lists", "hold", "generated", "pattern-2", "--withdraw", "--reason", "a test card", "--by", "carol", "--lists", d.path("lists"))
	d.decided("pattern-1", 1, reviewqueue.Confirm, "alice")
	d.await("the confirmed entry to be released", func() bool { return d.standing("pattern-1") == lists.Released })
	g.drain()
	s, err = lists.ReadStandings(d.path("lists"))
	if err != nil {
		t.Fatal(err)
	}
	follows(s.Version())
	d.produce(d.pictured("released", 1, 1)...)
	d.produce(d.pictured("withdrawn", 2, 1)...)
	d.awaitAllCommitted(w)
	if v := verdict("released-0"); v.Action != pipeline.Block {
		t.Errorf("released: %+v", v)
	}
	if v := verdict("withdrawn-0"); v.Action != pipeline.Allow || v.Status != pipeline.Scanned || len(v.Findings) != 1 || v.Findings[0].Score != 0 ||
		!strings.Contains(v.Findings[0].Reason, "suppressed, since the entry is withdrawn by carol") {
		t.Errorf("withdrawn: %+v", v)
	}
	for _, r := range d.records(pipeline.TopicHits) {
		if h := decodeJSON[pipeline.Hit](t, r.Value); h.Verdict.MessageID == "withdrawn-0" {
			t.Error("what is suppressed opens a case")
		}
	}
	w.drain()
	left, err := filepath.Glob(d.path("lists/.*"))
	if err != nil || len(left) != 1 {
		t.Errorf("%q are left: %v", left, err)
	}
}

func TestAGovernorSaysWhereATopicWasMadeAnew(t *testing.T) {
	d := newRealDeployment(t, deploymentOptions{partitions: 1})
	state := `{"format":1,"latest":0,"horizon":0,"positions":{"` + d.topic(pipeline.TopicHits) + `":{"0":1000}},"entries":[]}`
	if err := os.WriteFile(d.path("governor.json"), []byte(state), 0o600); err != nil {
		t.Fatal(err)
	}
	f := d.try(nil, "lists", "govern", "--once", "--config", d.path("dmguard.yaml"), "--brokers", d.brokers, "--state", d.path("governor.json"))
	if f.status != 1 || !strings.Contains(f.err, "was made anew; remove "+d.path("governor.json")) {
		t.Errorf("status %d: %s", f.status, f.err)
	}
}
