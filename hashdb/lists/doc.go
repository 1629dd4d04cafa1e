// Package lists keeps hash lists that others supply: every record with where it came from, so that a withdrawal is
// honoured, and the snapshots that are made of them, which scanners load.
//
// A [Store] is the records of one list. It takes an [Update] batch by batch and publishes snapshots: NAME.manifest, which is put in place by
// renaming and may be signed by several people, beside the files that it names with their digests. [Load] takes over what lies in a folder, believes
// none of it before signatures, digests, order and size of change are as [Options] want them, and shares with what is in
// force whatever has not changed. A list at fault stays as it was; what is at fault is said, never left out in silence.
//
// The package does not read the formats of clearing houses or talk to them, which package exchange does, and it
// does not search: that is package hashdb. It does not act on [Settings.Negative], [Settings.Expires] or [Settings.MaxAge]; who matches does.
// It keeps no secret: records are in the clear in a file that only its owner may read, snapshots for whoever may read
// the folder, and pictures can in part be made again from perceptual hashes.
package lists
