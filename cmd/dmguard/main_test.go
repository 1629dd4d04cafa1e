package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/dmguard/dmguard/detectors/hashmatch"
	"github.com/dmguard/dmguard/pipeline/media"
)

// programs are what the test binary stands in for, by name.
var programs = map[string]func(){"dmguard": main, "dmguard-poisoned": poisonedWorker}

// TestMain makes the test binary stand in for dmguard: scripts, and tests that
// start processes, find it in PATH.
func TestMain(m *testing.M) {
	if media.ServeSandbox(hashmatch.NewLook()) {
		return // this was a decoder of a dmguard that a test started
	}
	// A program under the race detector sleeps for a second before it ends, and tests start hundreds.
	os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=0")
	testscript.Main(m, programs)
}
