// Package detectors is the catalogue of everything that looks at a message.
//
// To add a detector:
//
//  1. Write NAME.go, or a sub-package where it needs several files, with a type
//     that implements [pipeline.Detector].
//  2. Write testdata/NAME.ndjson: one message a line beside the findings
//     expected of it, as canary.ndjson shows. The corpus test runs it.
//  3. Add its settings to [Config] and one line to [Build].
//
// Everything here reads hostile input: bound it. A detector fetches nothing and
// remembers nothing; see [pipeline.Detector] for what else it must keep to.
// What becomes of a finding is not decided here but by a policy.
package detectors
