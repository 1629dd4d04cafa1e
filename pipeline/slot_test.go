package pipeline

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// kill returns the journal that the next process finds where this one dies now.
func kill(t *testing.T, j *Journal) *Journal {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"inflight", "suspects.json"} {
		data, err := os.ReadFile(filepath.Join(j.dir, name))
		if err != nil {
			continue // there may be no suspects yet
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return open(t, dir)
}

func open(t *testing.T, dir string) *Journal {
	t.Helper()
	j, err := OpenJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func TestALongTopicIsRecognisedAgain(t *testing.T) {
	for name, topic := range map[string]string{
		"the longest of Kafka": strings.Repeat("t", 249), "a file's path": strings.Repeat("/é", 2000), "not UTF-8": "a\xff\xfeb", "empty": "",
	} {
		j := open(t, t.TempDir())
		p := Position{Topic: topic, Partition: 7, Offset: 1 << 40}
		for want := 1; want <= MaxKills; want++ {
			s := j.slot()
			s.set(p)
			j = kill(t, j)
			if got := j.Kills(p); got != want || j.Suspects() != 1 {
				t.Fatalf("%s: %d kills of %d suspects, want %d of one", name, got, j.Suspects(), want)
			}
		}
		j.Forget(p)
		if j = kill(t, j); j.Suspects() != 0 {
			t.Errorf("%s: not forgotten", name)
		}
	}
}

func TestAMessageInTwoSlotsDiedOnce(t *testing.T) {
	j := open(t, t.TempDir())
	p := Position{Topic: "t", Offset: 3}
	j.slot().set(p)
	j.slot().set(p)
	if j = kill(t, j); j.Kills(p) != 1 {
		t.Errorf("%d kills, want one", j.Kills(p))
	}
}

func TestWhatWasLetGoIsNoSuspect(t *testing.T) {
	j := open(t, t.TempDir())
	s := j.slot()
	s.set(Position{Topic: "t", Offset: 1})
	s.set(Position{Topic: "t", Offset: 2})
	other := j.slot()
	other.set(Position{Topic: "t", Offset: 3})
	other.clear()
	freed := j.slot()
	freed.set(Position{Topic: "t", Offset: 4})
	freed.free()
	if j = kill(t, j); j.Suspects() != 1 || j.Kills(Position{Topic: "t", Offset: 2}) != 1 {
		t.Errorf("%d suspects, want only offset 2", j.Suspects())
	}
}

func TestWhereAllSlotsAreTakenTheOthersNoteNothing(t *testing.T) {
	j := open(t, t.TempDir())
	var slots []*journalSlot
	for i := range int64(journalSlots) {
		s := j.slot()
		s.set(Position{Topic: "t", Offset: i})
		slots = append(slots, s)
	}
	beyond := j.slot()
	beyond.set(Position{Topic: "t", Offset: journalSlots})
	beyond.clear()
	beyond.free()
	after := kill(t, j)
	if after.Suspects() != journalSlots || after.Kills(Position{Topic: "t", Offset: journalSlots - 1}) != 1 {
		t.Errorf("%d suspects, want %d", after.Suspects(), journalSlots)
	}
	slots[5].free()
	if s := j.slot(); s == nil || s.i != slots[5].i {
		t.Error("a slot that was freed is not used again")
	}
}

func TestASuspectIsForgottenAfterThirtyDays(t *testing.T) {
	j := open(t, t.TempDir())
	j.kills[Position{Topic: "t", Offset: 1}] = suspect{2, time.Now().Add(-suspectsKept - time.Minute)}
	j.kills[Position{Topic: "t", Offset: 2}] = suspect{2, time.Now().Add(-suspectsKept + time.Minute)}
	if err := j.writeSuspects(); err != nil {
		t.Fatal(err)
	}
	if j = kill(t, j); j.Suspects() != 1 || j.Kills(Position{Topic: "t", Offset: 2}) != 2 {
		t.Errorf("%d suspects, want only offset 2", j.Suspects())
	}
}

func TestACleanCloseLeavesNoSuspects(t *testing.T) {
	j := open(t, t.TempDir())
	j.slot().set(Position{Topic: "t", Offset: 1})
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if j = open(t, j.dir); j.Suspects() != 0 {
		t.Errorf("%d suspects after a clean end", j.Suspects())
	}
}
