package console

import (
	"math"
	"regexp"
	"strconv"
	"testing"
)

// TestColoursKeepTheirContrast holds what console.css says of itself, by the
// formula of WCAG 2.2: 4.5 to 1 for text, 3 to 1 for the focus ring.
func TestColoursKeepTheirContrast(t *testing.T) {
	css, err := static.ReadFile("static/console.css")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile(`(?s):root \{(.*?)\}`).FindAllSubmatch(css, -1)
	if len(blocks) != 2 {
		t.Fatalf("%d palettes, want a light and a dark one", len(blocks))
	}
	for i, block := range blocks {
		palette := map[string]float64{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{6})`).FindAllSubmatch(block[1], -1) {
			rgb, err := strconv.ParseUint(string(m[2]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			palette[string(m[1])] = luminance(rgb)
		}
		check := func(front, back string, want float64) {
			f, okF := palette[front]
			b, okB := palette[back]
			if !okF || !okB {
				t.Fatalf("palette %d has no --%s or --%s", i, front, back)
			}
			if ratio := (max(f, b) + .05) / (min(f, b) + .05); ratio < want {
				t.Errorf("palette %d: --%s on --%s has a contrast of %.2f, want %.1f", i, front, back, ratio, want)
			}
		}
		for _, front := range []string{"ink", "soft", "accent", "late", "critical", "high", "medium", "low"} {
			for _, back := range []string{"ground", "card", "tint"} {
				check(front, back, 4.5)
			}
		}
		check("on-accent", "accent", 4.5)
		check("focus", "ground", 3)
		check("focus", "card", 3)
		check("mark", "track", 3)
	}
}

// luminance is the relative luminance of a colour.
func luminance(rgb uint64) float64 {
	linear := func(shift uint) float64 {
		c := float64(rgb>>shift&0xff) / 255
		if c <= .04045 {
			return c / 12.92
		}
		return math.Pow((c+.055)/1.055, 2.4)
	}
	return .2126*linear(16) + .7152*linear(8) + .0722*linear(0)
}
