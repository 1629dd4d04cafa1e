package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"go.uber.org/zap"

	"github.com/dmguard/dmguard/hashdb/lists"
	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/kafka"
	"github.com/dmguard/dmguard/reviewqueue"
)

// governFlags are those of "lists govern".
type governFlags struct {
	listFlags
	kafkaFlags
	logFlags
	state string
}

// governing follows hits and decisions and keeps the standings of a folder of lists.
type governing struct {
	history  *kafka.History
	governor *lists.Governor
	state    string // file
	dir      string // of the lists
	prefix   string // of topic names
	log      *zap.Logger
	bar      *progress

	hits, decisions, bad int64
}

// governResult is what "lists govern --once --json" prints.
type governResult struct {
	Hits      int64                  `json:"hits"` // records that were read
	Decisions int64                  `json:"decisions"`
	Bad       int64                  `json:"bad_records"` // that are not what their topic holds
	Changes   []lists.StandingChange `json:"changes"`
	Version   string                 `json:"standing"`
	Entries   []lists.Counts         `json:"entries"`
}

func runListsGovern(ctx context.Context, cl *commandLine) error {
	var f governFlags
	f.listFlags.add(cl)
	f.kafkaFlags.add(cl)
	f.logFlags.add(cl, "info")
	cl.env(&f.state, "state", "DMGUARD_GOVERNOR", "", "`file` that keeps what was read, for the next time; governor.json in --data if empty. "+
		"Without it everything that the topics still hold is read again")
	once := cl.Bool("once", false, "end when everything is read that is there now")
	every := cl.Duration("every", 5*time.Second, "how often to look for new records")
	asJSON := cl.Bool("json", false, "print JSON: with --once what was found, else a line for each change")
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	if *every < 100*time.Millisecond {
		return errors.New("flag -every: at least 100ms")
	}
	cfg, err := f.open()
	if err != nil {
		return err
	}
	log, err := f.logger(cl.err)
	if err != nil {
		return err
	}
	prefix := cfg.Topics.Prefix
	if f.brokers == "" {
		r, err := findRunning(*f.data)
		if err != nil {
			return err
		}
		f.brokers, prefix = joinList(r.Brokers), r.Prefix
	}
	conn, err := f.connection("dmguard-govern")
	if err != nil {
		return err
	}
	if info, err := os.Stat(cfg.Lists.Dir); err != nil || !info.IsDir() {
		return fmt.Errorf("%s is no folder of lists (%w)", cfg.Lists.Dir, err)
	}
	if f.state == "" {
		f.state = filepath.Join(*f.data, "governor.json")
	}
	g := &governing{state: f.state, dir: cfg.Lists.Dir, prefix: prefix, log: log}
	if err := g.resume(cfg.Lists.Govern); err != nil {
		return err
	}
	if g.history, err = kafka.NewHistory(conn, log); err != nil {
		return err
	}
	defer g.history.Close()

	g.bar = newProgress(cl.err, "records")
	changes, standings, err := g.round(ctx)
	g.bar.end()
	g.bar = nil // from now on there is little at a time
	if err != nil {
		return err
	}
	if *once && *asJSON {
		return json.MarshalWrite(cl.out, governResult{
			g.hits, g.decisions, g.bad, append([]lists.StandingChange{}, changes...), standings.Version(), g.governor.Counts(),
		}, jsontext.WithIndent("  "))
	}
	tell := func(changes []lists.StandingChange) error {
		for i := range changes {
			c := &changes[i]
			if *asJSON {
				if err := json.MarshalWrite(cl.out, c); err != nil {
					return err
				}
				fmt.Fprintln(cl.out)
				continue
			}
			fmt.Fprintf(cl.out, "%s %s/%s: %s\n", c.State, c.List, c.Entry, c.Reason)
		}
		return nil
	}
	if err := tell(changes); err != nil {
		return err
	}
	if *once {
		fmt.Fprintf(cl.out, "%d hits and %d decisions read, %d of no use; %d entries are known, %d changes\n", g.hits, g.decisions, g.bad, len(g.governor.Counts()), len(changes))
		return nil
	}
	log.Info("governing hash lists", zap.String("folder", g.dir), zap.String("standing", standings.Version()), zap.Int64("hits", g.hits), zap.Int64("decisions", g.decisions))
	tick := time.NewTicker(*every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		changes, _, err := g.round(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			// What was read is kept in memory, and is written at the next chance.
			log.Error("the standings could not be kept", zap.Error(err))
		}
		if err := tell(changes); err != nil {
			return err
		}
	}
}

// resume begins where the state file ends, or anew.
func (g *governing) resume(rules lists.GovernorRules) error {
	data, err := os.ReadFile(g.state)
	if errors.Is(err, fs.ErrNotExist) {
		g.governor, err = lists.NewGovernor(rules)
		return err
	}
	if err != nil {
		return err
	}
	if g.governor, err = lists.ResumeGovernor(rules, data); err != nil {
		return fmt.Errorf("%s: %w; remove it to read everything again", g.state, err)
	}
	return nil
}

// round folds what is new, sets the standings that follow, and only then keeps the state: what was read before a crash in between is read again
// and changes nothing.
func (g *governing) round(ctx context.Context) ([]lists.StandingChange, *lists.Standings, error) {
	before := g.hits + g.decisions + g.bad
	// Decisions first, so that what was confirmed is not held for a moment.
	for _, topic := range []string{pipeline.TopicDecisions, pipeline.TopicHits} {
		if err := g.read(ctx, g.prefix+topic); err != nil {
			return nil, nil, err
		}
	}
	var changes []lists.StandingChange
	standings, err := lists.ChangeStandings(g.dir, func(s *lists.Standings) (err error) {
		changes, err = s.Govern(g.governor, time.Now())
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	for i := range changes {
		c := &changes[i]
		g.log.Warn("an entry of a hash list stands otherwise", zap.String("list", c.List), zap.String("entry", c.Entry), zap.String("state", string(c.State)),
			zap.String("cause", string(c.Cause)), zap.String("because", c.Reason))
	}
	if g.hits+g.decisions+g.bad == before {
		if _, err := os.Stat(g.state); err == nil {
			return changes, standings, nil
		}
	}
	return changes, standings, g.save()
}

func (g *governing) save() error {
	data, err := g.governor.Snapshot()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(g.state), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(g.state), "."+filepath.Base(g.state)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), g.state)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keeping what was read: %w", err), os.Remove(f.Name()))
	}
	return nil
}

// read folds the records of a topic from where the governor stands to its end.
func (g *governing) read(ctx context.Context, topic string) error {
	_, ends, err := g.history.Ends(ctx, topic)
	if err != nil {
		return err
	}
	from := g.governor.Positions(topic)
	for p, next := range from {
		if end, there := ends[p]; there && next > end {
			return fmt.Errorf("%s/%d ends at %d, and was read up to %d: the topic was made anew; remove %s to read everything again", topic, p, end, next, g.state)
		}
	}
	options := kafka.ScanOptions{From: from, OnGap: func(_ context.Context, gap pipeline.Gap) error {
		g.log.Warn("records were deleted before match governance has read them", zap.String("topic", gap.Topic), zap.Int32("partition", gap.Partition),
			zap.Int64("from", gap.From), zap.Int64("to", gap.To))
		return nil
	}}
	if g.bar != nil {
		options.Progress = g.bar.set
	}
	err = g.history.Scan(ctx, topic, options, func(r pipeline.Record) error {
		if err := g.fold(&r); err != nil {
			g.bad++
			g.log.Error("record left out of match governance", zap.String("topic", r.Topic), zap.Int32("partition", r.Partition), zap.Int64("offset", r.Offset), zap.Error(err))
		}
		g.governor.Passed(topic, r.Partition, r.Offset+1)
		return nil
	})
	if err != nil {
		return err
	}
	for p, end := range ends {
		g.governor.Passed(topic, p, end) // also past what is no record
	}
	return nil
}

func (g *governing) fold(r *pipeline.Record) error {
	switch r.Topic {
	case g.prefix + pipeline.TopicHits:
		h, err := reviewqueue.ParseHit(r.Value)
		if err != nil {
			return err
		}
		g.hits++
		foldHit(g.governor, h, r.Time)
	case g.prefix + pipeline.TopicDecisions:
		d, err := reviewqueue.ParseDecision(r.Value)
		if err != nil {
			return err
		}
		g.decisions++
		foldDecision(g.governor, d, r.Position)
	}
	return nil
}

// foldHit counts the message for every entry that it matched, also those that the case is not about. A message
// makes several hits where it belongs to several cases, and counts once.
func foldHit(g *lists.Governor, h *pipeline.Hit, logged time.Time) {
	if logged.IsZero() {
		logged = h.Verdict.DecidedAt
	}
	if now := time.Now(); logged.After(now) {
		logged = now // a broker's clock must not have everything forgotten
	}
	for i := range h.Verdict.Findings {
		f := &h.Verdict.Findings[i]
		if f.Match == nil || f.Score == 0 { // 0: suppressed
			continue
		}
		g.See(&lists.Sighting{
			EntryName: lists.EntryName{List: f.Match.List, Entry: f.Match.Entry},
			Message:   h.Verdict.ConversationID + "\x00" + h.Verdict.MessageID, Sent: h.SentAt, Found: logged,
		})
	}
}

// foldDecision notes what a reviewer said of an entry. A decision about a conversation says nothing about lists.
func foldDecision(g *lists.Governor, d *reviewqueue.DecisionRecord, at pipeline.Position) {
	rest, ok := strings.CutPrefix(d.CaseKey, "media/")
	if d.Kind != pipeline.MediaCase || !ok {
		return
	}
	list, entry, ok := strings.Cut(rest, "/") // no list has a slash in its name
	if !ok {
		return
	}
	g.Rule(&lists.Ruling{
		EntryName: lists.EntryName{List: list, Entry: entry}, Revision: d.Revision, Partition: at.Partition, Offset: at.Offset,
		Opinion: lists.Opinion(d.Choice), Reviewer: d.Reviewer, At: d.DecidedAt,
	})
}

func runListsStanding(_ context.Context, cl *commandLine) error {
	var f listFlags
	f.add(cl)
	all := cl.Bool("all", false, "also entries that were released, and the history")
	asJSON := cl.Bool("json", false, "print JSON")
	if err := cl.parse(0, 0); err != nil {
		return err
	}
	cfg, err := f.open()
	if err != nil {
		return err
	}
	s, err := lists.ReadStandings(cfg.Lists.Dir)
	if err != nil {
		return err
	}
	shown := struct {
		Version   string                 `json:"version"`
		Standings []lists.Standing       `json:"standings"`
		History   []lists.StandingChange `json:"history,omitempty"`
	}{Version: s.Version(), Standings: []lists.Standing{}}
	for _, st := range s.All() {
		if *all || st.State != lists.Released {
			shown.Standings = append(shown.Standings, st)
		}
	}
	if *all {
		shown.History = s.History()
	}
	if *asJSON {
		return json.MarshalWrite(cl.out, shown, jsontext.WithIndent("  "))
	}
	if len(shown.Standings) == 0 {
		fmt.Fprintln(cl.out, "all entries are acted upon as policy says")
	}
	tw := tabwriter.NewWriter(cl.out, 0, 0, 2, ' ', 0)
	if len(shown.Standings) > 0 {
		fmt.Fprintln(tw, "LIST\tENTRY\tSTATE\tCAUSE\tSINCE\tBY\tREASON")
	}
	for i := range shown.Standings {
		st := &shown.Standings[i]
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", st.List, st.Entry, st.State, st.Cause, st.Since.Format(time.RFC3339), st.By, st.Reason)
	}
	if len(shown.History) > 0 {
		fmt.Fprintln(tw, "\nAT\tLIST\tENTRY\tWAS\tIS\tBY\tREASON")
	}
	for i := range shown.History {
		c := &shown.History[i]
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.At.Format(time.RFC3339), c.List, c.Entry, cmp.Or(string(c.Was), "-"), c.State, c.By, c.Reason)
	}
	return tw.Flush()
}

// standingFlags are those of a change by hand.
type standingFlags struct {
	listFlags
	reason, by string
}

func (f *standingFlags) add(cl *commandLine) {
	f.listFlags.add(cl)
	cl.StringVar(&f.reason, "reason", "", "why, in one line that reviewers will read")
	cl.StringVar(&f.by, "by", "", "`who` says so; the user of this machine if empty")
}

// entry returns what the arguments name, and the folder of lists.
func (f *standingFlags) entry(cl *commandLine) (lists.EntryName, *Config, error) {
	name := lists.EntryName{List: cl.args()[0], Entry: cl.args()[1]}
	if f.reason == "" {
		return name, nil, errors.New("say why with --reason")
	}
	if f.by == "" {
		u, err := user.Current()
		if err != nil {
			return name, nil, fmt.Errorf("who are you? say so with --by: %w", err)
		}
		f.by = u.Username
	}
	cfg, err := f.open()
	return name, cfg, err
}

func runListsHold(_ context.Context, cl *commandLine) error {
	var f standingFlags
	f.add(cl)
	withdraw := cl.Bool("withdraw", false, "nothing follows from a match, which is still shown in the verdict")
	unlisted := cl.Bool("unlisted", false, "the entry need not be in the list now")
	if err := cl.parse(2, 2); err != nil {
		return err
	}
	name, cfg, err := f.entry(cl)
	if err != nil {
		return err
	}
	if !*unlisted {
		if err := findEntry(&cfg.Lists, name); err != nil {
			return err
		}
	}
	state := lists.Held
	if *withdraw {
		state = lists.Withdrawn
	}
	return f.set(cl, cfg, name, state, func(was lists.Standing) error {
		if was.State == state && was.Cause == lists.ByHand {
			return fmt.Errorf("%s/%s is %s by %s already: %s", name.List, name.Entry, state, was.By, was.Reason)
		}
		return nil
	})
}

func runListsRelease(_ context.Context, cl *commandLine) error {
	var f standingFlags
	f.add(cl)
	if err := cl.parse(2, 2); err != nil {
		return err
	}
	name, cfg, err := f.entry(cl)
	if err != nil {
		return err
	}
	return f.set(cl, cfg, name, lists.Released, func(was lists.Standing) error {
		if was.State != lists.Held && was.State != lists.Withdrawn {
			return fmt.Errorf("%s/%s is neither held nor withdrawn", name.List, name.Entry)
		}
		return nil
	})
}

// set notes a standing by hand, where allowed has nothing against the one before.
func (f *standingFlags) set(cl *commandLine, cfg *Config, name lists.EntryName, state lists.State, allowed func(was lists.Standing) error) error {
	s, err := lists.ChangeStandings(cfg.Lists.Dir, func(s *lists.Standings) error {
		was, _ := s.Of(name.List, name.Entry)
		if err := allowed(was); err != nil {
			return err
		}
		now := time.Now()
		return s.Set(lists.Standing{EntryName: name, State: state, Cause: lists.ByHand, Reason: f.reason, By: f.by, Since: now}, now)
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(cl.out, "%s/%s is %s by %s; standings %s\n", name.List, name.Entry, state, f.by, s.Version())
	return nil
}

// findEntry makes sure that an entry is in a list: a mistyped one would be held in vain.
func findEntry(cfg *ListsConfig, name lists.EntryName) error {
	loaded, err := lists.Load(lists.Options{Dir: cfg.Dir, Trust: cfg.trust(), MaxChange: cfg.MaxChange, Settings: cfg.Settings}, nil)
	if err != nil {
		return err
	}
	if _, there := loaded.Versions()[name.List]; !there {
		return errors.Join(fmt.Errorf("%s holds no list %s (--unlisted to go on all the same)", cfg.Dir, name.List), loaded.Err())
	}
	for list, e := range loaded.Set.Entries() {
		if list == name.List && e.ID == name.Entry {
			return nil
		}
	}
	return fmt.Errorf("list %s has no entry %s (--unlisted to go on all the same)", name.List, name.Entry)
}
