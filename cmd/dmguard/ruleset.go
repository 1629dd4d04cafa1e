package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"go.yaml.in/yaml/v3"

	"github.com/dmguard/dmguard/configs"
	"github.com/dmguard/dmguard/detectors"
	"github.com/dmguard/dmguard/detectors/grooming"
	"github.com/dmguard/dmguard/detectors/hashmatch"
	"github.com/dmguard/dmguard/hashdb"
	"github.com/dmguard/dmguard/hashdb/lists"
	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/media"
)

// rulesetOptions say where the rules come from, and what is not in a file.
type rulesetOptions struct {
	config    string
	lists     string
	canary    string
	seen      string   // file that remembers which lists were in force; "" for none
	fileRoots []string // beside those of the configuration
	decode    string   // where pictures are decoded; "" for in this process
}

// Where pictures are decoded.
const (
	decodeSandbox   = "sandbox"
	decodeInProcess = "in-process"
	decodeAuto      = "auto"
)

func (o *rulesetOptions) add(cl *commandLine) {
	cl.env(&o.config, "config", "DMGUARD_CONFIG", "", "configuration `file`; what it does not name is as in \"dmguard config reference\"")
	cl.env(&o.lists, "lists", "DMGUARD_LISTS", "", "`folder` of hash lists, snapshots of \"lists import\" or CSV files with the columns kind,hash,entry,category; instead of lists.dir")
}

func (o *rulesetOptions) addDecode(cl *commandLine, where string) {
	cl.StringVar(&o.decode, "decode", where, "where pictures are decoded: sandbox, in processes that can reach nothing; in-process, with ffmpeg alone in one of its own; "+
		"auto, in a sandbox where the kernel has one")
}

// rules is a configuration and the ruleset made of it, with what it takes to
// make the next.
type rules struct {
	opt      rulesetOptions
	config   *Config
	ruleset  *pipeline.Ruleset
	lists    *lists.Loaded // nil where there is no folder
	governed *lists.Governance
	grooming *grooming.Detector // nil where it is off
	listsIn  string             // the folder of these
	fetcher  *media.Fetcher
	preparer *hashmatch.Preparer
	limits   media.Config   // in force: they do not reload
	sandbox  *media.Sandbox // nil where pictures are decoded in this process
	stamp    string
	model    string // file of the message model that was asked for last, also where it was refused; "" for none
}

// close ends the processes that decode.
func (r *rules) close() {
	if r.sandbox != nil {
		r.sandbox.Close()
	}
}

// load reads the configuration, the lists and the rule packs, and reports every
// fault in them.
func (o *rulesetOptions) load(ctx context.Context, log *zap.Logger) (_ *rules, err error) {
	r := &rules{opt: *o}
	r.stamp = r.fingerprint()
	cfg, err := loadConfig(o.config)
	if err != nil {
		return nil, err
	}
	mediaConfig := cfg.Media
	mediaConfig.FileRoots = append(append([]string{}, mediaConfig.FileRoots...), o.fileRoots...)
	r.fetcher, err = media.Open(context.WithoutCancel(ctx), mediaConfig)
	if err != nil {
		return nil, err
	}
	examiner, err := r.examiner(ctx, mediaConfig, log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	r.preparer = hashmatch.NewPreparer(r.fetcher, examiner)
	r.limits = cfg.Media
	r.limits.FileRoots, r.limits.Stores, r.limits.FFmpeg = nil, nil, "" // where things lie is no rule
	if err := r.build(cfg, log); err != nil {
		return nil, err
	}
	r.stamp = r.fingerprint()
	return r, nil
}

// examiner returns what decodes pictures, as the options want it.
func (r *rules) examiner(ctx context.Context, cfg media.Config, log *zap.Logger) (hashmatch.Examiner, error) {
	if _, err := cfg.FindFFmpeg(); err != nil {
		log.Warn("videos are not looked at: verdicts about them are partial", zap.Error(err))
	}
	switch r.opt.decode {
	case decodeSandbox, decodeAuto:
		var err error
		r.sandbox, err = media.StartSandbox(ctx, cfg, 0, log)
		switch {
		case err == nil:
			return r.sandbox, nil
		case r.opt.decode == decodeSandbox:
			return nil, fmt.Errorf("%w\nto decode pictures in this process all the same, where a flaw of a decoder reaches everything: --decode=in-process", err)
		}
		log.Warn("pictures are decoded in this process, where a flaw of a decoder reaches everything", zap.Error(err))
	case decodeInProcess:
		log.Warn("pictures are decoded in this process, where a flaw of a decoder reaches everything")
	case "":
	default:
		return nil, fmt.Errorf("flag -decode: %q is none of sandbox, in-process, auto", r.opt.decode)
	}
	decoder, err := media.NewDecoder(cfg)
	if err != nil {
		return nil, err
	}
	return &media.InProcess{Decoder: decoder, Look: hashmatch.NewLook()}, nil
}

// build makes the ruleset of a configuration, or changes nothing.
func (r *rules) build(cfg *Config, log *zap.Logger) error {
	loaded, err := r.loadLists(cfg, log)
	packs, perr := rulePacks(cfg)
	r.model = ""
	if g := cfg.Detectors.Grooming; g != nil && g.Model != grooming.NoModel {
		r.model = g.Model
	}
	reader, merr := messageModel(cfg)
	if err := errors.Join(err, perr, merr); err != nil {
		return err
	}
	var set *hashdb.Set
	var governed *lists.Governance
	if loaded != nil {
		set = loaded.Set
		if governed, err = r.govern(cfg, loaded, log); err != nil {
			return err
		}
	}
	if r.opt.canary == "" {
		cfg.Detectors.Canary = nil // there is nothing to look for
	}
	catalogue, err := detectors.Build(cfg.Detectors, detectors.Deps{Lists: set, Governance: governed, RulePacks: packs, Grooming: r.grooming, MessageModel: reader, Canary: r.opt.canary})
	if err != nil {
		return err
	}
	var groom *grooming.Detector
	for _, d := range catalogue {
		if g, ok := d.(*grooming.Detector); ok {
			groom = g
			if lacks := g.Lacks(); len(lacks) > 0 {
				log.Warn("the message model was trained with ideas that the rule packs do not have: it sees less than it could",
					zap.Int("ideas", len(lacks)), zap.String("first", lacks[0]))
			}
		}
	}
	policy, err := digest(cfg.Policy)
	if err != nil {
		return err
	}
	sums := map[string]string{} // as YAML packs would be a line for each of their bytes
	for name, data := range packs {
		sum := sha256.Sum256(data)
		sums[name] = hex.EncodeToString(sum[:])
	}
	named := []any{cfg.Detectors, r.limits, sums, cfg.Lists.Settings}
	if reader != nil {
		named = append(named, reader.Digest())
	}
	ruleset, err := digest(named...)
	if err != nil {
		return err
	}
	versions := map[string]string{
		"policy": cfg.Policy.Version + "-" + policy, "ruleset": ruleset, "lists": listVersions(set), "build": buildVersion(),
	}
	var expand []hashmatch.Expansion
	if cfg.Detectors.Hashmatch != nil {
		expand = cfg.Detectors.Hashmatch.Expand
	}
	if v := governed.Version(); v != "" {
		versions["standing"] = v
	}
	r.config, r.lists, r.listsIn, r.governed, r.grooming = cfg, loaded, r.listsDir(cfg), governed, groom
	r.ruleset = &pipeline.Ruleset{
		Detectors: catalogue,
		Policy:    cfg.Policy,
		Prepare:   r.preparer.For(set, expand).Prepare,
		Versions:  versions,
	}
	return nil
}

// digest names values: equal ones have the same name.
func digest(values ...any) (string, error) {
	h := sha256.New()
	for _, v := range values {
		b, err := yaml.Marshal(v)
		if err != nil {
			return "", fmt.Errorf("naming a version: %w", err)
		}
		_, _ = h.Write(b) // never fails
	}
	return hex.EncodeToString(h.Sum(nil)[:6]), nil
}

// buildVersion names the program, whose code is a part of the rules.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			version = s.Value[:12]
		}
	}
	if version == "" {
		version = "unknown"
	}
	return version
}

func (r *rules) listsDir(cfg *Config) string {
	if r.opt.lists != "" {
		return r.opt.lists
	}
	return cfg.Lists.Dir
}

// loadLists takes over what has changed in the folder of lists. At the start every list must be good; later one
// that is not stays as it was.
func (r *rules) loadLists(cfg *Config, log *zap.Logger) (*lists.Loaded, error) {
	dir := r.listsDir(cfg)
	if dir == "" {
		return nil, nil
	}
	before := r.lists
	if dir != r.listsIn {
		before = nil
	}
	loaded, err := lists.Load(lists.Options{
		Dir: dir, Trust: cfg.Lists.trust(), MaxChange: cfg.Lists.MaxChange, Settings: cfg.Lists.Settings, Seen: r.opt.seen,
	}, before)
	if err != nil {
		return nil, err
	}
	if before == nil {
		if err := loaded.Err(); err != nil {
			return nil, err
		}
	}
	for i := range loaded.Faults {
		log.Error("a list is refused; its last good version stays in force", zap.Error(&loaded.Faults[i]))
	}
	for _, w := range loaded.Warnings {
		if before == nil || !slices.Contains(before.Warnings, w) {
			log.Warn(w)
		}
	}
	if loaded.Set == nil {
		log.Warn("the folder holds no lists", zap.String("folder", dir))
	}
	was := before.Versions()
	for i := range loaded.Lists {
		list := &loaded.Lists[i]
		if was[list.Name] == list.Version {
			continue
		}
		log.Info("hash list", zap.String("list", list.Name), zap.String("version", list.Version), zap.Strings("signed_by", list.Signers),
			zap.Any("entries", list.Info.Entries), zap.Int("duplicates", list.Info.Duplicates), zap.Int("refused", list.Info.Refused))
		for _, refused := range list.Info.Refusals {
			log.Warn("a list entry is left out", zap.String("list", list.Name), zap.String("entry", refused.Entry), zap.String("because", refused.Reason))
		}
	}
	return loaded, nil
}

// govern reads how far matches with the lists are acted upon, and says what is new of it.
func (r *rules) govern(cfg *Config, loaded *lists.Loaded, log *zap.Logger) (*lists.Governance, error) {
	g, err := loaded.Governance(r.listsDir(cfg), time.Now())
	if err != nil {
		return nil, err
	}
	stale := g.Stale()
	for _, name := range slices.Sorted(maps.Keys(stale)) {
		if r.governed.Stale()[name] == "" {
			log.Warn("matches with a list ask a person at most", zap.String("list", name), zap.String("because", stale[name]), zap.String("contact", cfg.Lists.Settings[name].Contact))
		}
	}
	if v := g.Standings().Version(); v != r.governed.Standings().Version() {
		log.Info("standings of list entries", zap.String("version", v), zap.Int("standings", len(g.Standings().All())))
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Policy.Lists)) {
		if !slices.ContainsFunc(loaded.Lists, func(t lists.Taken) bool { return t.Name == name }) && r.governed == nil {
			log.Warn("policy.lists speaks of a list that is not there", zap.String("list", name))
		}
	}
	return g, nil
}

// listVersions names every list and its version, in one string that is the same
// for the same lists.
func listVersions(set *hashdb.Set) string {
	infos := set.Lists()
	if len(infos) == 0 {
		return "none"
	}
	var parts []string
	for _, i := range infos {
		parts = append(parts, i.Name+"@"+i.Version)
	}
	return strings.Join(parts, ",")
}

// rulePacks reads the rule packs that come with the program and those that the
// configuration names, and reports every file that cannot be read.
func rulePacks(cfg *Config) (map[string][]byte, error) {
	packs := map[string][]byte{}
	err := fs.WalkDir(configs.Rules(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".yaml") {
			return err
		}
		packs[name], err = fs.ReadFile(configs.Rules(), name)
		return err
	})
	errs := []error{err}
	for _, name := range ownPacks(cfg) {
		data, err := readPack(name)
		switch _, taken := packs[name]; {
		case err != nil:
			errs = append(errs, fmt.Errorf("reading a rule pack: %w", err))
		case taken:
			errs = append(errs, fmt.Errorf("rule pack %s: there is one of that name already", name))
		default:
			packs[name] = data
		}
	}
	return packs, errors.Join(errs...)
}

// ownPacks are the files of rule packs that a configuration names.
func ownPacks(cfg *Config) []string {
	if cfg == nil || cfg.Detectors.Grooming == nil {
		return nil
	}
	return cfg.Detectors.Grooming.Packs
}

// maxPack bounds what is read of a file that may be anything; the packs
// themselves may be less.
const maxPack = 4 << 20

func readPack(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxPack))
}

// messageModel reads the model that the configuration wants, nil for none.
func messageModel(cfg *Config) (*grooming.MessageModel, error) {
	if cfg.Detectors.Grooming == nil {
		return nil, nil
	}
	data, name := configs.MessageModel(), "the model of this program"
	switch path := cfg.Detectors.Grooming.Model; path {
	case grooming.NoModel:
		return nil, nil
	case "":
		if data == nil {
			return nil, nil
		}
	default:
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("detectors.grooming.model: %w", err)
		}
		defer f.Close()
		if data, err = io.ReadAll(io.LimitReader(f, grooming.MaxModelBytes+1)); err != nil {
			return nil, fmt.Errorf("detectors.grooming.model: %w", err)
		}
		name = path
	}
	m, err := grooming.LoadModel(data)
	if err != nil {
		return nil, fmt.Errorf("detectors.grooming.model: %s: %w", name, err)
	}
	return m, nil
}

// reload reads everything again. Where anything is at fault the last good rules
// stay in force as a whole.
func (r *rules) reload(log *zap.Logger) error {
	cfg, err := loadConfig(r.opt.config)
	if err != nil {
		return err
	}
	return r.build(cfg, log)
}

// reloadEvery is how often files are looked at for changes; listsEvery the same of rules and lists, where a second may
// matter to somebody.
const (
	reloadEvery = 2 * time.Second
	listsEvery  = 250 * time.Millisecond
	// retryEvery is how often lists at fault are looked at though no file has changed, and said to be so.
	retryEvery = time.Minute
)

// watch reloads on SIGHUP and when a file changes, and hands each new ruleset to
// apply; r itself, which others read, stays as it was. It returns nil when ctx
// ends.
func (r *rules) watch(ctx context.Context, log *zap.Logger, apply func(*pipeline.Ruleset)) error {
	live := *r
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	tick := time.NewTicker(listsEvery)
	defer tick.Stop()
	tried := time.Now()
	for {
		asked := false
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
			asked = true
		case now := <-tick.C:
			again := live.lists != nil && len(live.lists.Faults) > 0 && now.Sub(tried) >= retryEvery
			if !again && !live.governed.Changed(now) && live.fingerprint() == live.stamp {
				continue
			}
		}
		tried = time.Now()
		stamp, before := live.fingerprint(), live.ruleset.Versions
		if err := live.reload(log); err != nil {
			log.Error("the new configuration is refused; the last good one stays in force", zap.Error(err))
		} else if asked || !maps.Equal(before, live.ruleset.Versions) {
			apply(live.ruleset)
			log.Info("configuration taken over", zap.Any("versions", live.ruleset.Versions))
		}
		live.stamp = stamp
	}
}

// fingerprint changes whenever a file that the rules come from does.
func (r *rules) fingerprint() string {
	var b strings.Builder
	note := func(path string) {
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintf(&b, "%s %d %d\n", path, info.Size(), info.ModTime().UnixNano())
		}
	}
	if r.opt.config != "" {
		note(r.opt.config)
	}
	for _, pack := range ownPacks(r.config) {
		note(pack)
	}
	dir := r.opt.lists
	if r.config != nil {
		dir = r.listsDir(r.config)
	}
	if r.model != "" {
		note(r.model)
	}
	if dir != "" {
		entries, err := os.ReadDir(dir)
		if err == nil {
			for _, e := range entries {
				if !strings.HasPrefix(e.Name(), ".") && !lists.Private(e.Name()) {
					note(filepath.Join(dir, e.Name()))
				}
			}
		}
	}
	return b.String()
}

func runConfigCheck(ctx context.Context, cl *commandLine) error {
	var opt rulesetOptions
	opt.add(cl)
	if err := cl.parse(0, 1); err != nil {
		return err
	}
	if len(cl.args()) == 1 {
		opt.config = cl.args()[0]
	}
	log, err := (&logFlags{level: "warn"}).logger(cl.err)
	if err != nil {
		return err
	}
	opt.canary = "dmguard-canary-check" // the string itself is not part of the configuration
	r, err := opt.load(ctx, log)
	if err != nil {
		return err
	}
	fmt.Fprintln(cl.out, "ok")
	for _, k := range []string{"policy", "ruleset", "lists"} {
		fmt.Fprintf(cl.out, "%s: %s\n", k, r.ruleset.Versions[k])
	}
	return nil
}
