package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/dmguard/dmguard/configs"
	"github.com/dmguard/dmguard/detectors"
	"github.com/dmguard/dmguard/hashdb/lists"
	"github.com/dmguard/dmguard/pipeline"
	"github.com/dmguard/dmguard/pipeline/media"
	"github.com/dmguard/dmguard/pipeline/secondlook"
)

// Config is a configuration file. configs/dmguard.yaml explains every key.
type Config struct {
	Policy    pipeline.Policy  `yaml:"policy"`
	Detectors detectors.Config `yaml:"detectors"`
	Lists     ListsConfig      `yaml:"lists"`
	Media     media.Config     `yaml:"media"`
	Worker    WorkerConfig     `yaml:"worker"`
	Topics    TopicConfig      `yaml:"topics"`
	Queue     QueueConfig      `yaml:"queue"`
	Access    AccessConfig     `yaml:"access"`

	SecondLook secondlook.Config `yaml:"second_look"`
}

// ListsConfig says where hash lists come from and how far they are believed.
type ListsConfig struct {
	Dir        string                    `yaml:"dir"`
	Keys       []string                  `yaml:"keys"`
	Signatures int                       `yaml:"signatures"`
	MaxChange  lists.Bound               `yaml:"max_change"`
	Settings   map[string]lists.Settings `yaml:"settings"`
	Govern     lists.GovernorRules       `yaml:"govern"`
}

func (c *ListsConfig) trust() lists.Trust {
	return lists.Trust{Keys: c.Keys, Signatures: c.Signatures}
}

func (c *ListsConfig) validate(fail func(format string, args ...any)) {
	if err := c.trust().Validate(); err != nil {
		fail("lists.keys: %w", err)
	}
	if c.Signatures < 1 {
		fail("lists.signatures is %d, less than 1", c.Signatures)
	}
	if err := c.MaxChange.Validate(); err != nil {
		fail("lists.max_change: %w", err)
	}
	if err := c.Govern.Validate(); err != nil {
		fail("lists.govern: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Settings)) {
		settings := c.Settings[name]
		if err := errors.Join(lists.CheckName(name), settings.Validate()); err != nil {
			fail("lists.settings.%s: %w", name, err)
		}
	}
}

// WorkerConfig bounds what a worker does at once.
type WorkerConfig struct {
	Lanes           int           `yaml:"lanes"`
	Batch           int           `yaml:"batch"`
	InFlight        int           `yaml:"in_flight"`
	DetectorTimeout time.Duration `yaml:"detector_timeout"`
	PrepareTimeout  time.Duration `yaml:"prepare_timeout"`
	DrainTimeout    time.Duration `yaml:"drain_timeout"`
	SessionTimeout  time.Duration `yaml:"session_timeout"`
	StuckAfter      time.Duration `yaml:"stuck_after"`
	StateTTL        time.Duration `yaml:"state_ttl"`
	RebuildWindow   time.Duration `yaml:"rebuild_window"`
}

// TopicConfig names the topics and says how "topics create" makes them.
type TopicConfig struct {
	Prefix      string `yaml:"prefix"`
	Partitions  int    `yaml:"partitions"`
	Replication int    `yaml:"replication"`
}

// QueueConfig is how cases wait.
type QueueConfig struct {
	Lease       time.Duration                       `yaml:"lease"`
	SLA         map[pipeline.Severity]time.Duration `yaml:"sla"`
	MaxAttempts int                                 `yaml:"max_attempts"`
	Labels      []string                            `yaml:"labels"`
	Shards      int                                 `yaml:"shards"`
}

// AccessConfig is what makes an access lawful.
type AccessConfig struct {
	LegalRequests []string `yaml:"legal_requests"`
}

// loadConfig reads the reference configuration and over it the file at path,
// where one is named. It reports every fault at once.
func loadConfig(path string) (*Config, error) {
	var c Config
	if err := configs.Decode("configs/dmguard.yaml", configs.Reference, &c); err != nil {
		return nil, err
	}
	if path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("reading the configuration: %w", err)
		}
		if err := configs.Decode(path, data, &c); err != nil {
			return nil, err
		}
	}
	if err := c.validate(); err != nil {
		if path == "" {
			path = "configs/dmguard.yaml"
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &c, nil
}

// validate reports every fault at once.
func (c *Config) validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Policy.Version == "" {
		fail("policy.version is missing")
	}
	for i, t := range c.Policy.Thresholds {
		if t.Category == "" {
			fail("policy.thresholds[%d].category is missing", i)
		}
		if !(t.Min >= 0 && t.Min <= 1) {
			fail("policy.thresholds[%d].min is outside 0 to 1", i)
		}
	}
	for name := range c.Policy.Lists {
		if name == "" {
			fail("policy.lists has a list without a name")
		}
	}
	for i, r := range c.Policy.SkipRegions {
		if len(r) != 2 || strings.ToUpper(r) != r {
			fail("policy.skip_regions[%d] is not a region of two capital letters", i)
		}
	}
	atLeast := func(name string, value, least int64) {
		if value < least {
			fail("%s is %d, less than %d", name, value, least)
		}
	}
	positive := func(name string, d time.Duration) {
		if d <= 0 {
			fail("%s must be more than nothing", name)
		}
	}
	if err := c.Media.Validate(); err != nil {
		errs = append(errs, err)
	}
	c.Lists.validate(fail)
	if err := c.SecondLook.Validate(); err != nil {
		errs = append(errs, err)
	}
	atLeast("worker.lanes", int64(c.Worker.Lanes), 0)
	atLeast("worker.batch", int64(c.Worker.Batch), 1)
	atLeast("worker.in_flight", int64(c.Worker.InFlight), 1)
	positive("worker.detector_timeout", c.Worker.DetectorTimeout)
	positive("worker.prepare_timeout", c.Worker.PrepareTimeout)
	positive("worker.drain_timeout", c.Worker.DrainTimeout)
	positive("worker.stuck_after", c.Worker.StuckAfter)
	if c.Worker.SessionTimeout <= c.Worker.DrainTimeout {
		fail("worker.session_timeout must be longer than worker.drain_timeout: no sign of life is sent while draining")
	}
	positive("worker.state_ttl", c.Worker.StateTTL)
	if c.Worker.RebuildWindow < 0 {
		fail("worker.rebuild_window is negative")
	}
	if c.Worker.StuckAfter > 0 && c.Worker.StuckAfter <= c.Worker.PrepareTimeout {
		fail("worker.stuck_after must be longer than worker.prepare_timeout: slow is not stuck")
	}
	if c.Worker.PrepareTimeout > 0 && c.Worker.PrepareTimeout <= c.Media.VideoTime {
		fail("worker.prepare_timeout must be longer than media.video_time: a message that never gets ready is tried for ever")
	}
	atLeast("topics.partitions", int64(c.Topics.Partitions), 1)
	atLeast("topics.replication", int64(c.Topics.Replication), 1)
	positive("queue.lease", c.Queue.Lease)
	for _, s := range []pipeline.Severity{pipeline.None, pipeline.Low, pipeline.Medium, pipeline.High, pipeline.Critical} {
		positive("queue.sla."+s.String(), c.Queue.SLA[s])
	}
	atLeast("queue.max_attempts", int64(c.Queue.MaxAttempts), 1)
	atLeast("queue.shards", int64(c.Queue.Shards), 1)
	if len(c.Queue.Labels) == 0 {
		fail("queue.labels is empty: a decision could not be labelled")
	}
	return errors.Join(errs...)
}

func configCommand() *command {
	return &command{name: "config", summary: "check a configuration, or print the reference", group: []*command{
		{
			name: "check", args: "[FILE]", summary: "report every fault of a configuration file, its lists and rules",
			example: "dmguard config check dmguard.yaml", run: runConfigCheck,
		},
		{
			name: "reference", summary: "print the reference configuration, every key at its default",
			example: "dmguard config reference > dmguard.yaml",
			run: func(_ context.Context, cl *commandLine) error {
				if err := cl.parse(0, 0); err != nil {
					return err
				}
				_, err := cl.out.Write(configs.Reference)
				return err
			},
		},
	}}
}
