package training

import (
	"bytes"
	"testing"
)

func TestTheSameSeedGivesTheSameBytes(t *testing.T) {
	c := toyConfig()
	a, s, err := Model(t.Context(), c, toy(1, 200))
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := Model(t.Context(), c, toy(1, 200))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("two trainings differ")
	}
	c.Seed++
	if b, _, err = Model(t.Context(), c, toy(1, 200)); err != nil || bytes.Equal(a, b) {
		t.Errorf("another seed gives the same bytes, or %v", err)
	}
	t.Logf("%+v", s)
}
