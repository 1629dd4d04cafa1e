//go:build !linux

package hashdb

// adviseHuge does nothing where the system has no such advice.
func adviseHuge([]byte) {}
