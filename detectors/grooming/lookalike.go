package grooming

import "strings"

// lookalikes maps letters of other scripts and of typographic games to the
// Latin letters that they are read as. Compatibility characters (full width,
// mathematical, circled) are not here: normalisation resolves them. Nothing
// here maps ASCII, which would damage plain words.
var lookalikes = func() map[rune]string {
	m := make(map[rune]string, 400)
	// Each field is a Latin reading followed by the characters so read.
	const table = `
a аαɑᴀдΑАΛ b ЬвᴃʙΒВьЪ c сϲᴄСϹ¢ d ԁᴅɗ e еєεᴇɛЕΕ℮ f ꜰƒғϝ g ɡɢԍ h һнʜΗНհ i іιıɪΙІ
j јᴊЈϳ k кκᴋΚК l ⅼʟӏӀ m мᴍΜМ n пɴηΝИиπ o оοᴏσΟОօ〇 p рρᴘΡР q ԛգ r гʀᴦя s ѕꜱЅ
t тτᴛΤТ u υᴜцʋ v νᴠѵν w ԝшωᴡщѡ x хχΧХ y уγʏΥУүỿ z ᴢΖʐ
æ:ae œ:oe ß:ss ø:o đ:d ð:d ł:l þ:th ħ:h ŧ:t ĸ:k ŋ:n ə:e`
	last := ""
	for f := range strings.FieldsSeq(table) {
		if chars, reading, ok := strings.Cut(f, ":"); ok {
			for _, r := range chars {
				m[r] = reading
			}
			continue
		}
		if len(f) == 1 {
			last = f
			continue
		}
		for _, r := range f {
			m[r] = last
		}
	}
	for _, r := range "’‘ʼ´ˈ＇′" {
		m[r] = "'"
	}
	for i := range rune(26) {
		letter := string('a' + i)
		m[0x1f130+i] = letter // squared
		m[0x1f150+i] = letter // negative circled
		m[0x1f170+i] = letter // negative squared
		m[0x1f1e6+i] = letter // regional indicators
	}
	return m
}()
