package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the test binary stand in for dmguard: scripts, and tests that
// start processes, find it in PATH.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"dmguard": main, "dmguard-poisoned": poisonedWorker})
}
