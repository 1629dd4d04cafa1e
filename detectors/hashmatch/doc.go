// Package hashmatch finds known pictures and files among the attachments of a
// message.
//
// It has two halves. [Preparer] fetches and decodes attachments and computes
// their hashes, whether or not any list is loaded, because the hashes are
// recorded for later lists as well. [Detector] looks the hashes up in one
// immutable set of lists and does nothing else, so that the same item and the
// same set always give the same answer.
//
// What could not be looked at is an error of the detector, which makes the
// verdict partial: a picture or video that does not decode, an
// attachment that is not there. No such thing are files that are neither picture nor video,
// whose digests are looked up, and pictures with too little structure for a
// perceptual hash, such as a blank page: those match nothing by themselves.
//
// A match is evidence for a person, not a verdict: pictures can be made that
// collide. The package does not decide what follows, does not compute PhotoDNA
// and takes none from the platform.
package hashmatch
