// Package exchange reads what clearing houses and platforms exchange: their files, and their interfaces over HTTP.
//
// [Read] makes an update of a file, [Open] a source of updates of a file or an interface. Whoever keeps lists takes the
// batches, and gives the checkpoint of the last batch it took with the next request.
//
//	format          specification                                       file holds   withdrawn is
//	csv             RFC 4180, columns named by a mapping                whole list   what is missing, or a column says so
//	json            array of objects, or NDJSON, likewise               whole list   likewise
//	ncmec           NCMEC Hash Sharing API v2, XML                      changes      deletedImage, deletedVideo
//	stopncii        StopNCII.org API v1, FetchHashes                    changes      hashStatus Withdrawn, Deleted
//	threatexchange  Meta ThreatExchange, Graph API v21.0 threat_updates changes      should_delete, or no descriptors
//	tat             Tech Against Terrorism hash list v2                 changes      deleted
//	vics            Project VIC and CAID, VICS data model 1.x and 2.0   whole list   what is missing
//
// A record has an ID by which its owner withdraws it: of ncmec the member's number and the member's own ID, of stopncii
// the signal and its hash, of threatexchange and tat the owner's number. Entries of vics are numbered anew in every file, so
// that their hashes name them. Labels are classifications and tags, opinions the votes and
// feedback of members, as they came.
//
// Nothing is left out in silence: what cannot be read stands among the skipped of a batch, in part where a record has other hashes that are
// good, and kinds of hash that nothing here matches (photodna, tmk_pdqf, netclean, sha512 and others) are named by their record. Categories of
// vics that are not taken are told one by one. A whole list that breaks off, or has no record, replaces nothing. Memory
// does not depend on the size of a file; a record may have 4 MiB.
//
// # Interfaces
//
// What an interface is asked for goes on from the checkpoint, and the checkpoint only as far as the interface's own rules let it:
//
//   - ncmec: entries come in no order of time, so that time goes on when a window of it was drained, up to five seconds ago. In
//     between, the checkpoint is a cursor inside the window, used for twelve hours.
//   - stopncii: the time that the last page names. After 30 days without a fetch the whole list is fetched again.
//   - threatexchange: the latest time seen, read again from a minute before. After 85 days the whole list is fetched again, since
//     withdrawals are told for 90.
//   - tat: the checkpoint of each page.
//
// Without a checkpoint, an update is the whole list, except of ncmec, whose entries are too many to be taken all or not at all.
//
// Interfaces are asked over https, or over http on loopback. Credentials come from the environment or a file (see
// [CredentialsVariable]) and go to the host of the source alone, in headers: redirects and links to others are errors. No error
// shows them. What fails in passing is tried six times, with growing pauses and as Retry-After asks, up to five minutes; pages
// are at most 64 MiB, and a server that leads in a circle is an error.
//
// # Not here
//
// The package keeps nothing: a [lists.Update] is taken by whoever keeps lists. It sends nothing: no hashes, no votes, no feedback.
// It does not fetch the large fingerprints of ncmec that are files of their own, does not read the lists of the IWF and of GIFCT, whose
// formats are for their members (csv and json read exports of them), and does not unpack archives. The forms of
// stopncii, threatexchange, tat and vics are those that open clients and tools use; their owners publish no schema.
package exchange
