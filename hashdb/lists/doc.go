// Package lists keeps hash lists that others supply: every record with where it came from, so that a withdrawal is
// honoured, and the snapshots that are made of them, which scanners load.
//
// The package does not read the formats of clearing houses or talk to them, which package exchange does, and it
// does not search: that is package hashdb.
package lists
