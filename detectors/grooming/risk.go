package grooming

import (
	"math"
	"time"

	"github.com/dmguard/dmguard/pipeline"
)

// model turns evidence into a risk: the log-odds are a plain sum. The risk orders
// conversations and is shaped like a probability, but no field data stand behind
// it.
type model struct {
	bias     float64 // log-odds before anything was found
	halfLife float64 // seconds
	bands    [bands]float64
}

// bands is how many thresholds there are.
const bands = 2

// The constants, and those of evidence.go, were searched for on made-up
// conversations of authors that the message model had not been trained on,
// against harmless ones that are close in words, none of which is among those
// that figures are given for, and against the everyday corpora that the model
// card names: how rarely those are alerted is no test. readBias and what is taken
// off for two adults were set last, with the card's figures in view.
const (
	// The bias of rules alone, and where a message model finds more to add up.
	rulesBias = -4.0
	readBias  = -6.2

	// What one message alone said for a label counts as much as all other labels do,
	// and alone beyond that.
	alone = 2.0

	plain = 0.4 // log-odds from which a label counts as found

	// Without so much evidence of what strangers and classmates do not ask, the text
	// gives the log-odds everyday at most.
	told     = 0.5
	everyday = 0.25

	// Log-odds that account data give at most, and take at most.
	maxPrior = 2.5
	minPrior = -7.5

	// Fewer messages than several, however full of cues, are not yet a conversation
	// that develops: the log-odds are less by hasty.
	several = 3
	hasty   = 2.0

	// halfMessages is after how many messages of a conversation evidence counts
	// half: what is said once in a thousand messages says little.
	halfMessages = 50
)

// tellings says how much of the evidence for a label counts towards telling:
// everybody who gets to know someone asks for age, school, number and a meeting.
var tellings = [labels]float64{
	supervisionProbe: 1, secrecy: 1, isolation: 1, maturityFlattery: 1,
	gift: 0.5, imageRequest: 0.5, pressure: 0.5,
}

// decay returns what is left at to of evidence from from, seconds since 1970.
func (m *model) decay(from, to int64) float64 {
	if to <= from || from == 0 {
		return 1
	}
	return math.Exp2(-float64(to-from) / m.halfLife)
}

// account is what the log-odds of a risk are made of. Its entries add up to them.
type account struct {
	start    float64 // before anything was found
	labels   [labels]float64
	alone    float64 // taken off what one message alone said for a label
	everyday float64 // taken off what strangers and classmates ask, too
	data     float64 // of the accounts
	hasty    float64 // taken off where few messages say it

	single bool // there is one cue only
}

// total returns the log-odds.
func (a *account) total() float64 {
	return a.start + a.found() + a.alone + a.everyday + a.data + a.hasty
}

// found returns what all labels give.
func (a *account) found() float64 {
	sum := 0.
	for _, e := range a.labels {
		sum += e
	}
	return sum
}

// account weighs the evidence about one sender at a time, after so many more
// messages of the conversation, as it would be without one label, labels for
// none.
func (m *model) account(d *direction, at int64, quiet uint8, out label) (a account) {
	left := faded(quiet)
	if at = plausible(at); at > d.at {
		left *= m.decay(d.at, at)
	}
	unasked, greatest, once, found, repeated := 0., 0., false, 0, false
	for l := range d.labels {
		t := &d.labels[l]
		if t.count == 0 || label(l) == out {
			continue
		}
		e := float64(t.sum) * weightUnit * left
		a.labels[l] = e
		unasked += e * tellings[l]
		if e > greatest {
			greatest, once = e, t.count < 2
		}
		if e >= plain {
			found++
		}
		repeated = repeated || t.count >= 2
	}
	a.start, a.data, a.single = m.bias, float64(d.prior)*priorUnit, found < 2 && !repeated
	sum := a.found()
	if once {
		a.alone = min(0, sum-2*greatest+alone)
	}
	if unasked < told {
		a.everyday = min(0, everyday-(m.bias+sum+a.alone))
	}
	if d.messages < several {
		a.hasty = -hasty
	}
	return a
}

// risk returns what the log-odds of an account amount to.
func (m *model) risk(a *account) float64 {
	if a.found() == 0 {
		return 0
	}
	risk := 1 / (1 + math.Exp(-a.total()))
	if a.single { // however strong, one cue is not a conversation
		risk = min(risk, m.bands[0]*0.9)
	}
	return risk
}

// of returns the risk of one sender at a time, after so many more messages of
// the conversation.
func (m *model) of(d *direction, at int64, quiet uint8) float64 {
	a := m.account(d, at, quiet, labels)
	return m.risk(&a)
}

// faded returns what is left of evidence after so many more messages.
func faded(messages uint8) float64 { return fading[messages] }

var fading = func() (t [math.MaxUint8 + 1]float64) {
	for i := range t {
		t[i] = math.Exp2(-float64(i) / halfMessages)
	}
	return t
}()

// conversation returns the greatest risk of any sender.
func (m *model) conversation(s *state, at int64) float64 {
	risk := 0.
	for i := range s.directions {
		risk = max(risk, m.of(&s.directions[i], at, s.quiet))
	}
	return risk
}

// band returns how many thresholds the risk reaches.
func (m *model) band(risk float64) uint8 {
	n := uint8(0)
	for _, t := range m.bands {
		if risk >= t {
			n++
		}
	}
	return n
}

// prior returns what account data add to the log-odds that the text gives. Each
// fact is monotone, none is needed, and what all of them together add is less
// than one strong cue: they never raise an alert by themselves. stated is the
// least age under 18 that another member of the conversation stated, or 0.
func prior(m *pipeline.Message, stated uint8) float64 {
	p, known := agePrior(m)
	if !known {
		p += statedPrior(m.Sender.Age, stated)
	}
	s := &m.Sender
	if c := s.Connected; c != nil {
		if *c {
			p -= 0.6
		} else {
			p += 0.3
		}
	}
	if c := s.AccountCreatedAt; c != nil {
		switch age := m.SentAt.Sub(*c); {
		case age < 7*24*time.Hour:
			p += 0.4
		case age < 30*24*time.Hour:
			p += 0.2
		}
	}
	if b := s.Behaviour; b != nil {
		p += counted(b.MinorsContacted, 0.1, 0.4)
		p += counted(b.StrangersContacted, 0.05, 0.3)
		p += counted(b.BlockedBy, 0.25, 0.6)
		p += counted(b.ReportedBy, 0.4, 0.9)
	}
	return max(minPrior, min(maxPrior, p))
}

// agePrior compares the sender with the youngest recipient of known age. known
// says that the platform knows one.
func agePrior(m *pipeline.Message) (p float64, known bool) {
	youngest := pipeline.MaxAge + 1
	for i := range m.Recipients {
		if a := m.Recipients[i].Age; a != nil {
			youngest = min(youngest, *a)
		}
	}
	if youngest > pipeline.MaxAge {
		return 0, false
	}
	if m.Sender.Age == nil {
		return 0, true
	}
	gap := *m.Sender.Age - youngest
	switch {
	case youngest >= adult:
		return -6.8, true // ages may be claimed: this lowers, it does not exempt
	case gap <= 2:
		return -2.5, true
	case gap <= 4:
		return -0.8, true
	case m.Sender.Connected != nil && *m.Sender.Connected: // a parent, a coach, and who became a friend
		return min(0.2, 0.02*float64(gap)), true
	default:
		return min(1, 0.1*float64(gap)), true
	}
}

// statedPrior weighs an age under 18 that was only said, where the platform
// knows none. It is weak, grows as that age falls, and never lowers a risk:
// what people say of themselves costs them nothing.
func statedPrior(sender *int, stated uint8) float64 {
	switch {
	case stated == 0:
		return 0
	case sender == nil:
		return 0.2
	case *sender-int(stated) <= 4:
		return 0
	default:
		return min(0.4, 0.04*float64(*sender-int(stated)))
	}
}

// counted grows with the logarithm of a count.
func counted(n *int, each, limit float64) float64 {
	if n == nil {
		return 0
	}
	return min(limit, each*math.Log2(1+float64(*n)))
}
