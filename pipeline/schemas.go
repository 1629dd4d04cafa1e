package pipeline

import "embed"

// Schemas are the JSON Schemas (2020-12) of what goes in and comes out, one
// file NAME.schema.json each: message, envelope, verdict, verdicts, hit,
// features, deadletter and gap. message and verdict are the contract's.
//
//go:embed schemas/*.json
var Schemas embed.FS
