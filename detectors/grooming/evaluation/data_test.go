package evaluation

import (
	"bytes"
	"testing"
)

func data(t testing.TB) *Data {
	t.Helper()
	d, err := LoadData()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func generator(t testing.TB, opt Options) *Generator {
	t.Helper()
	g, err := NewGenerator(data(t), opt)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// written is a conversation as it leaves the program.
func written(t testing.TB, c *Conversation) string {
	t.Helper()
	var b bytes.Buffer
	if err := WriteLabels(&b, &c.Labels); err != nil {
		t.Fatal(err)
	}
	for _, m := range c.Messages {
		l, err := EncodeMessage(m)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(l)
	}
	return b.String()
}

func TestEqualSeedsGiveEqualConversations(t *testing.T) {
	one := generator(t, Options{Seed: 7, Split: Train, Obfuscation: Mixed})
	two := generator(t, Options{Seed: 7, Split: Train, Obfuscation: Mixed})
	other := generator(t, Options{Seed: 8, Split: Train, Obfuscation: Mixed})
	differ := 0
	for i := 59; i >= 0; i-- { // in any order
		a := written(t, one.Conversation(i))
		if b := written(t, two.Conversation(i)); a != b {
			t.Fatalf("conversation %d differs", i)
		}
		if a != written(t, other.Conversation(i)) {
			differ++
		}
	}
	if differ < 60 {
		t.Errorf("another seed changed only %d of 60 conversations", differ)
	}
}
