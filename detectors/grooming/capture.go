package grooming

// capture is a kind of thing that a text may hold and that is known by its
// form: what it says is never kept and never shown.
type capture uint8

const (
	noCapture capture = iota
	userName
	link
	mailAddress
	phoneNumber
)

// captureNames are for reasons.
var captureNames = [...]string{
	userName: "a user name", link: "a link", mailAddress: "an e-mail address", phoneNumber: "a phone number",
}

const (
	// contactWeight is how much stronger a wish to go on elsewhere is that says
	// where, in log-odds.
	contactWeight = 0.4

	// nearby is how many bytes of the original may lie between a contact and
	// what it belongs to.
	nearby = 48

	maxToken = 64 // bytes of a contact that are looked at in each direction
	maxNear  = 64 // contacts of one message that are looked at
)

// platforms are names of places to go on, folded. They tell a user name from a
// word: "my snap is …".
var platforms = set("snap", "snapchat", "sc", "insta", "instagram", "ig", "whatsapp", "wa", "telegram", "tele", "tg", "kik", "discord", "disc",
	"signal", "wickr", "skype", "viber", "line", "wechat", "tiktok", "facebook", "messenger", "roblox", "steam", "twitch", "session", "threema")

// domains are the ends of links that are written without a scheme.
var domains = set("com", "net", "org", "io", "me", "gg", "tv", "app", "co", "de", "uk", "fr", "es", "it", "pt", "br", "eu", "us", "ly", "be", "info", "link", "chat", "site", "xyz", "to")

func set(words ...string) map[string]bool {
	m := make(map[string]bool, len(words))
	for _, w := range words {
		m[w] = true
	}
	return m
}

// strengthen makes the wish to go on elsewhere stronger where a contact stands
// near it or near the name of a platform.
func (s *scratch) strengthen() {
	c := &s.cues[platformMove]
	if c.n == 0 {
		return
	}
	v := &s.folded
	known := -nearby - 1 // where a platform was named last, in the original
	looked := 0
	for i := 0; i < len(v.b) && looked < maxNear; {
		if isToken(v.b[i]) && (i == 0 || !isToken(v.b[i-1])) {
			end := i + 1
			for end < len(v.b) && isToken(v.b[end]) && end-i < maxToken {
				end++
			}
			if platforms[string(v.b[i:end])] {
				known = int(v.at[end])
				if to := v.named(end); to > end {
					c.with(v, userName, end, to)
					return
				}
			}
		}
		kind, start, end := v.contactAt(i)
		if kind == noCapture {
			i++
			continue
		}
		looked++
		from, to := v.original(start, end)
		near := from-known <= nearby
		for _, sp := range c.spans[:c.n] {
			near = near || from-sp.end <= nearby && sp.start-to <= nearby
		}
		if near {
			c.with(v, kind, start, end)
			return
		}
		i = max(end, i+1)
	}
}

// with notes a contact that belongs to the cue.
func (c *cue) with(v *view, kind capture, start, end int) {
	from, to := v.original(start, end)
	c.contact = kind
	c.weight = max(c.weight, min(maxWeight, c.weight+contactWeight))
	c.add(c.rule, 0, span{from, to}, c.disguised)
}

// contactAt returns what begins at i, or is recognised there.
func (v *view) contactAt(i int) (kind capture, start, end int) {
	b := v.b
	switch c := b[i]; {
	case c == '@':
		start, end = i, i+1
		for start > 0 && i-start < maxToken && isToken(b[start-1]) {
			start--
		}
		for end < len(b) && end-i < maxToken && isToken(b[end]) {
			end++
		}
		switch {
		case end-i < 3:
		case start == i:
			return userName, start, end
		case hasDot(b[i:end]):
			return mailAddress, start, end
		}
	case c == ':' && i+3 < len(b) && b[i+1] == '/' && b[i+2] == '/' && b[i+3] != ' ' && i > 0 && isToken(b[i-1]):
		start, end = i, i+3
		for start > 0 && i-start < maxToken && isToken(b[start-1]) {
			start--
		}
		for end < len(b) && end-i < maxToken && b[end] != ' ' {
			end++
		}
		return link, start, end
	case c == '.' && i > 0 && isToken(b[i-1]) && b[i-1] != '.':
		end = i + 1
		for end < len(b) && end-i < maxToken && b[end] >= 'a' && b[end] <= 'z' {
			end++
		}
		if !domains[string(b[i+1:end])] || end < len(b) && isToken(b[end]) && b[end] != '.' {
			break
		}
		for start = i; start > 0 && i-start < maxToken && isToken(b[start-1]); {
			start--
		}
		if start > 0 && b[start-1] == '@' {
			break // of an address, seen before
		}
		return link, start, end
	case c >= '0' && c <= '9' && (i == 0 || !isToken(b[i-1])):
		digits := 0
		for end = i; end < len(b) && end-i < maxToken; end++ {
			switch d := b[end]; {
			case d >= '0' && d <= '9':
				if digits++; digits <= 15 {
					continue
				}
			case d == ' ' || d == '-' || d == '.' || d == '/' || d == '(' || d == ')':
				continue
			}
			break
		}
		for end > i && (b[end-1] < '0' || b[end-1] > '9') {
			end--
		}
		if digits >= 7 && digits <= 15 && (end == len(b) || !isToken(b[end])) {
			return phoneNumber, i, end
		}
	}
	return noCapture, 0, 0
}

// named returns the end of the user name that the name of a platform before end
// announces, or 0: "snap: x", "snap is x_1". Behind "is" a plain word says
// rather how the platform is.
func (v *view) named(end int) int {
	b, i, sure, is := v.b, end, false, false
	for i < len(b) && i-end < 8 {
		switch {
		case b[i] == ' ':
			i++
			continue
		case b[i] == ':' || b[i] == '=' || b[i] == '@':
			sure = true
			i++
			continue
		case b[i] == 'i' && i+2 < len(b) && b[i+1] == 's' && b[i+2] == ' ' && !is && !sure:
			is = true
			i += 2
			continue
		}
		break
	}
	if !sure && !is {
		return 0
	}
	to, odd := i, false
	for to < len(b) && to-i < maxToken && isToken(b[to]) {
		odd = odd || b[to] >= '0' && b[to] <= '9' || b[to] == '_' || b[to] == '.' && to+1 < len(b) && isToken(b[to+1])
		to++
	}
	for to > i && b[to-1] == '.' {
		to--
	}
	if to-i < 3 || !sure && !odd {
		return 0
	}
	return to
}

// isToken reports whether c may be part of a user name or of an address.
func isToken(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == '-' || c >= 0x80
}

func hasDot(b []byte) bool {
	for i := 1; i+1 < len(b); i++ {
		if b[i] == '.' && b[i-1] != '.' && b[i-1] != '@' && isToken(b[i+1]) {
			return true
		}
	}
	return false
}

// selves are the words before a number by which people state their age, and
// units the words behind it that leave it one.
var (
	selves = set("im", "i am", "i m", "am", "ich bin", "bin", "tengo", "tenho", "ho", "jai", "j ai")
	units  = set("yo", "y", "yr", "yrs", "years", "year", "f", "m", "btw", "and", "but", "lol", "jahre", "anos", "anni", "ans", "u", "wbu", "hbu", "you", "too", "now")
)

// statedAge returns the age under 18 that the text's author states first, with
// its place, or 0.
func (v *view) statedAge() (age uint8, start, end int) {
	b := v.b
	for i := 1; i < len(b); i++ {
		if b[i] < '0' || b[i] > '9' || b[i-1] != ' ' {
			continue
		}
		n, end := 0, i
		for ; end < len(b) && end-i < 3 && b[end] >= '0' && b[end] <= '9'; end++ {
			n = 10*n + int(b[end]-'0')
		}
		if n < minStated || n >= adult || end-i > 2 || end < len(b) && wordByte(b[end]) != ' ' && !v.unit(end) {
			continue
		}
		behind := end
		for behind < len(b) && b[behind] == ' ' {
			behind++
		}
		if behind < len(b) && wordByte(b[behind]) != ' ' && !v.unit(behind) || behind < len(b) && (b[behind] == '%' || b[behind] == ':' || b[behind] == '/') {
			continue
		}
		start := wordBefore(b, i-1)
		if selves[string(b[start:i-1])] || start > 0 && selves[string(b[wordBefore(b, start-1):i-1])] {
			return uint8(n), start, end
		}
	}
	return 0, 0, 0
}

// wordBefore returns where the word begins that ends at end, within sight.
func wordBefore(b []byte, end int) int {
	i := end
	for i > 0 && end-i < 16 && wordByte(b[i-1]) != ' ' {
		i--
	}
	return i
}

// unit reports whether a word of units stands at i.
func (v *view) unit(i int) bool {
	end := i
	for end < len(v.b) && end-i < 16 && wordByte(v.b[end]) != ' ' {
		end++
	}
	return units[string(v.b[i:end])]
}

const (
	adult     = 18
	minStated = 6 // years; what is less is rather a number of something else
)
