package lists

import (
	"time"

	"github.com/dmguard/dmguard/hashdb"
)

// Settings are what a platform says of a list that it uses.
type Settings struct {
	// Category is the kind of harm of records that name none.
	Category string `yaml:"category,omitempty"`
	// Thresholds are distances in bits up to which entries match, by kind; [hashdb.Kind.Threshold] where absent, and never more.
	Thresholds map[hashdb.Kind]int `yaml:"thresholds,omitempty"`
	// VideoShare is the percentage of a known video's frames that make a match; [hashdb.DefaultVideoShare] where 0.
	VideoShare int `yaml:"video_share,omitempty"`
	// Negative says that the list names known false positives: a match with it suppresses others, visibly.
	Negative bool `yaml:"negative,omitempty"`
	// Expires is when the list is no longer to be acted upon without a person, or zero; MaxAge is how old its last
	// update may be until then, or zero.
	Expires time.Time     `yaml:"expires,omitempty"`
	MaxAge  time.Duration `yaml:"max_age,omitempty"`
	// Contact is whom to ask about the list.
	Contact string `yaml:"contact,omitempty"`
}
