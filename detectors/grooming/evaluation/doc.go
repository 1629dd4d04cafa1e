// Package evaluation makes conversations up and measures what the grooming
// detector makes of them, and of corpora of everyday conversations.
//
// Conversations are assembled from data/: short phrases by intent and author
// (risk-AUTHOR.yaml), scripts of harmless conversations that are close to risky
// ones in words (negative-AUTHOR.yaml), fillers of slots and small talk. A plan
// of intents is walked as a Markov chain, set into small talk, typed with slips
// and given times and accounts. The other side never writes anything but neutral
// replies. Everything follows from the seed.
//
// [Data.Lines] and [Data.TalkMessages] write what a message model is trained on:
// the phrases, lines that use the same words to a harmless end
// (harmless-AUTHOR.yaml), the lines of the scripts, small talk (talk-AUTHOR.yaml)
// and talk that is full of what looks like cues (everyday-AUTHOR.yaml).
//
// Authors, scripts, fillers, small talk and functional tests belong to one of
// two splits, [Train] and [Test]. What is trained or tuned may see the first
// alone. [Data.TestDigest] names the state of the second; a test holds it.
//
// To add an author of risky phrases: write data/risk-NAME.yaml with author,
// language, register, split and labels, each a list of short phrases in the
// syntax of the rule packs, (a|b) and [a], with {slot} from data/slots.yaml. Keep
// them mild: no phrase is explicit, and none needs to be. A new test author
// changes the digest that the test holds.
//
// What it does not do: it knows no real case. Its figures compare versions of
// the detector with one another; they are no evidence of how any of them does in
// the field. It says nothing about who a person is.
package evaluation
