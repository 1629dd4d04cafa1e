package grooming

import (
	"slices"

	"go.yaml.in/yaml/v3"
)

// label is one kind of behaviour that a cue speaks for. The numbers are part of
// the format of the state: new ones go to the end.
type label uint8

const (
	ageProbe label = iota
	placeProbe
	supervisionProbe
	secrecy
	isolation
	maturityFlattery
	platformMove
	gift
	imageRequest
	meetUp
	pressure
	labels // how many there are
)

var labelNames = [labels]string{
	"age_probe", "place_probe", "supervision_probe", "secrecy", "isolation", "maturity_flattery",
	"platform_move", "gift", "image_request", "meet_up", "pressure",
}

// labelReasons complete "the sender …".
var labelReasons = [labels]string{
	ageProbe:         "asks how old the other is",
	placeProbe:       "asks where the other lives or goes to school",
	supervisionProbe: "asks who is near or who sees the screen",
	secrecy:          "asks for secrecy",
	isolation:        "sets the other apart from family and friends",
	maturityFlattery: "calls the other mature or special",
	platformMove:     "wants to go on elsewhere",
	gift:             "offers gifts or money",
	imageRequest:     "asks for a picture",
	meetUp:           "proposes to meet",
	pressure:         "presses the other",
}

func (l label) String() string { return labelNames[l] }

// UnmarshalYAML reads the name of a label.
func (l *label) UnmarshalYAML(n *yaml.Node) error {
	i := slices.Index(labelNames[:], n.Value)
	if i < 0 {
		return faultAt(n, "unknown label %q: it is one of %v", n.Value, labelNames)
	}
	*l = label(i)
	return nil
}

// Labels returns the names of the behaviours that the detector tells apart, in
// the order of their numbers.
func Labels() []string { return slices.Clone(labelNames[:]) }
