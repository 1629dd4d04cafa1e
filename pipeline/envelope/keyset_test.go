package envelope

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/core/registry"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/mac"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/dmguard/dmguard/pipeline"
)

const someMessage = `{"id":"m-1","conversation_id":"c-1","text":"see you at practice"}`

func newKeyset(t *testing.T) *Keyset {
	t.Helper()
	k, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func seal(t *testing.T, k interface{ Seal([]byte) ([]byte, error) }) []byte {
	t.Helper()
	sealed, err := k.Seal([]byte(someMessage))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestOldKeysOpenAfterRotationAndTheNewOneSeals(t *testing.T) {
	old := newKeyset(t)
	first := seal(t, old)
	rotated, id, err := old.Rotate()
	if err != nil {
		t.Fatal(err)
	}
	second := seal(t, rotated)
	for _, sealed := range [][]byte{first, second} {
		if plain, _, err := rotated.Open(sealed); err != nil || string(plain) != someMessage {
			t.Errorf("opened to %q, %v", plain, err)
		}
	}
	_, env, err := old.Open(second)
	if err == nil || env.KeyID != id || !strings.Contains(err.Error(), fmt.Sprintf("unknown key %d", id)) {
		t.Errorf("the old keyset, which must not have changed, says %v of key %d", err, id)
	}
	want := []Key{
		{ID: old.primary, Status: "enabled", Type: keyType},
		{ID: id, Status: "enabled", Primary: true, Type: keyType},
	}
	if diff := cmp.Diff(want, rotated.Describe()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestADisabledKeyOpensNothingUntilItIsEnabled(t *testing.T) {
	old := newKeyset(t)
	sealed := seal(t, old)
	if _, err := old.Disable(old.primary); err == nil || !strings.Contains(err.Error(), "rotate first") {
		t.Errorf("disabling the primary key: %v", err)
	}
	rotated, _, err := old.Rotate()
	if err != nil {
		t.Fatal(err)
	}
	disabled, err := rotated.Disable(old.primary)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := disabled.Open(sealed); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("key %d is disabled", old.primary)) {
		t.Errorf("opening with a disabled key: %v", err)
	}
	if _, _, err := rotated.Open(sealed); err != nil {
		t.Errorf("disabling changed the keyset it was called on: %v", err)
	}
	enabled, err := disabled.Enable(old.primary)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := enabled.Open(sealed); err != nil {
		t.Error(err)
	}
	for _, f := range []func(uint32) (*Keyset, error){rotated.Disable, rotated.Enable} {
		if _, err := f(1); err == nil || !strings.Contains(err.Error(), "unknown key 1") {
			t.Errorf("a key that is not there: %v", err)
		}
	}
}

func TestKeysOfOtherTypesAreRefusedAllAtOnce(t *testing.T) {
	m := keyset.NewManager()
	var ids []uint32
	for _, template := range []*tinkpb.KeyTemplate{
		aead.AES256GCMKeyTemplate(), aead.AES128GCMKeyTemplate(), aead.ChaCha20Poly1305KeyTemplate(), aead.AES256GCMNoPrefixKeyTemplate(), mac.HMACSHA256Tag128KeyTemplate(),
	} {
		id, err := m.Add(template)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if err := m.SetPrimary(ids[0]); err != nil {
		t.Fatal(err)
	}
	_, err := fromManager(m)
	if err == nil {
		t.Fatal("accepted")
	}
	for i, id := range ids {
		if named := strings.Contains(err.Error(), fmt.Sprintf("key %d is not AES256_GCM", id)); named != (i > 0) {
			t.Errorf("key %d (%d of the keyset) named: %t, in %q", id, i, named, err)
		}
	}
}

func TestNoVerbPrintsAKey(t *testing.T) {
	_, k := loadVectors(t)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		if got := fmt.Sprintf(verb, k); got != "keyset of 3 keys, primary 1234567890" {
			t.Errorf("%s prints %s", verb, got)
		}
	}
}

func TestAKeysetFileIsCreatedOnceReplacedWholeAndPrivate(t *testing.T) {
	dir := t.TempDir()
	f := File{Path: filepath.Join(dir, "keys.json")}
	k := newKeyset(t)
	if err := f.Create(k); err != nil {
		t.Fatal(err)
	}
	if err := f.Create(newKeyset(t)); !errors.Is(err, os.ErrExist) {
		t.Errorf("creating over a keyset: %v", err)
	}
	info, err := os.Stat(f.Path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	loaded, warning, err := f.Load()
	if err != nil || warning != "" {
		t.Fatal(warning, err)
	}
	if diff := cmp.Diff(k.Describe(), loaded.Describe()); diff != "" {
		t.Error(diff)
	}
	if _, _, err := loaded.Open(seal(t, k)); err != nil {
		t.Error(err)
	}
	rotated, _, err := loaded.Rotate()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Replace(rotated); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	if err := os.Chmod(f.Path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, warning, err = f.Load(); err != nil || !strings.Contains(warning, "mode 0644") {
		t.Errorf("warning %q, %v", warning, err)
	}
}

func TestAFaultyKeysetFileIsRefusedWithoutQuotingIt(t *testing.T) {
	v, _ := loadVectors(t)
	good := strings.ReplaceAll(string(v.Keyset), " ", "")
	for name, content := range map[string]string{
		"empty":             "",
		"damaged":           strings.Replace(good, "GiAAAQIDBAUGBwg", "GiA!AQIDBAUGBwg", 1),
		"cut off":           good[:200],
		"unquoted":          strings.Replace(good, `"GiAAAQIDBAUGBwg`, `GiAAAQIDBAUGBwg`, 1),
		"key too short":     strings.Replace(good, "GiAAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHw==", "GhAAAQIDBAUGBwgJCgsMDQ4P", 1),
		"no such primary":   strings.Replace(good, `"primaryKeyId":1234567890`, `"primaryKeyId":5`, 1),
		"primary disabled":  strings.Replace(good, `"primaryKeyId":1234567890`, `"primaryKeyId":7`, 1),
		"without TINK":      strings.Replace(good, "TINK", "RAW", 1),
		"not JSON":          "GiAAAQIDBAUGBwg",
		"too large":         strings.Repeat(" ", maxFile) + good,
		"the wrapped kind":  `{"encryptedKeyset":"GiAAAQIDBAUGBwg="}`,
		"empty and wrapped": `{"encryptedKeyset":""}`,
	} {
		t.Run(name, func(t *testing.T) {
			if content == good {
				t.Fatal("nothing was made faulty")
			}
			f := File{Path: filepath.Join(t.TempDir(), "k.json")}
			if err := os.WriteFile(f.Path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, _, err := f.Load()
			if err == nil || strings.Contains(err.Error(), "AQIDBAUG") || !strings.Contains(err.Error(), "k.json") {
				t.Errorf("error %v", err)
			}
		})
	}
	if _, _, err := (File{Path: filepath.Join(t.TempDir(), "none")}).Load(); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// fakeKMS is a KMS whose keys live in the test.
type fakeKMS struct {
	mu   sync.Mutex
	keys map[string]tink.AEAD
	down bool
}

func (f *fakeKMS) Supported(uri string) bool { return strings.HasPrefix(uri, "fakekms://") }

func (f *fakeKMS) GetAEAD(uri string) (tink.AEAD, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, errors.New("connection refused")
	}
	if f.keys[uri] == nil {
		handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
		if err != nil {
			return nil, err
		}
		if f.keys[uri], err = aead.New(handle); err != nil {
			return nil, err
		}
	}
	return f.keys[uri], nil
}

func (f *fakeKMS) setDown(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = down
}

func registerFakeKMS(t *testing.T) *fakeKMS {
	t.Helper()
	kms := &fakeKMS{keys: map[string]tink.AEAD{}}
	registry.RegisterKMSClient(kms)
	t.Cleanup(registry.ClearKMSClients)
	return kms
}

func TestAWrappedKeysetNeedsItsKMSKey(t *testing.T) {
	f := File{Path: filepath.Join(t.TempDir(), "keys.json"), KMSKeyURI: "fakekms://one"}
	k := newKeyset(t)
	if err := f.Create(k); err == nil || !strings.Contains(err.Error(), "no KMS client for fakekms://one") {
		t.Errorf("without a client: %v", err)
	}
	kms := registerFakeKMS(t)
	if err := f.Create(k); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	var plaintext bytes.Buffer
	if err := insecurecleartextkeyset.Write(k.handle, keyset.NewJSONWriter(&plaintext)); err != nil {
		t.Fatal(err)
	}
	_, value, _ := strings.Cut(plaintext.String(), `"value":"`)
	value, _, _ = strings.Cut(value, `"`)
	if len(value) < 40 || bytes.Contains(data, []byte(value)) {
		t.Errorf("the key, %d characters, lies in the clear in the wrapped file", len(value))
	}
	loaded, warning, err := f.Load()
	if err != nil || warning != "" {
		t.Fatal(warning, err)
	}
	if _, _, err := loaded.Open(seal(t, k)); err != nil {
		t.Error(err)
	}
	if _, _, err := (File{Path: f.Path, KMSKeyURI: "fakekms://two"}).Load(); err == nil || !strings.Contains(err.Error(), "unwrapping with fakekms://two") {
		t.Errorf("another KMS key: %v", err)
	}
	if _, _, err := (File{Path: f.Path}).Load(); err == nil || !strings.Contains(err.Error(), "wrapped by a KMS") {
		t.Errorf("no KMS key: %v", err)
	}
	kms.setDown(true)
	if _, _, err := f.Load(); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("KMS down: %v", err)
	}
	plain := File{Path: filepath.Join(t.TempDir(), "plain.json")}
	if err := plain.Create(k); err != nil {
		t.Fatal(err)
	}
	if _, _, err := (File{Path: plain.Path, KMSKeyURI: "fakekms://one"}).Load(); err == nil || !strings.Contains(err.Error(), "not wrapped") {
		t.Errorf("a clear keyset where a wrapped one is due: %v", err)
	}
}

func TestARotationIsPickedUpByTheFirstRecordThatNeedsIt(t *testing.T) {
	f := File{Path: filepath.Join(t.TempDir(), "keys.json")}
	k := newKeyset(t)
	if err := f.Create(k); err != nil {
		t.Fatal(err)
	}
	r, _, err := NewReloader(f)
	if err != nil {
		t.Fatal(err)
	}
	if changed, _, err := r.Reload(); changed || err != nil {
		t.Errorf("nothing changed, but %t, %v", changed, err)
	}
	stranger := seal(t, newKeyset(t))
	if _, _, err := r.Open(stranger); !pipeline.IsPermanent(err) {
		t.Errorf("a key that is nowhere: %v", err)
	}
	rotated, _, err := k.Rotate()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Replace(rotated); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		sealed := seal(t, rotated)
		wg.Go(func() {
			if plain, _, err := r.Open(sealed); err != nil || string(plain) != someMessage {
				t.Errorf("opened to %q, %v", plain, err)
			}
		})
	}
	wg.Wait()
	if plain, _, err := r.Open(seal(t, r)); err != nil || string(plain) != someMessage {
		t.Errorf("opened to %q, %v", plain, err)
	}
}

func TestABadFileLeavesTheLastGoodKeysetInForce(t *testing.T) {
	kms := registerFakeKMS(t)
	f := File{Path: filepath.Join(t.TempDir(), "keys.json"), KMSKeyURI: "fakekms://one"}
	k := newKeyset(t)
	if err := f.Create(k); err != nil {
		t.Fatal(err)
	}
	r, _, err := NewReloader(f)
	if err != nil {
		t.Fatal(err)
	}
	rotated, _, err := k.Rotate()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Replace(rotated); err != nil {
		t.Fatal(err)
	}
	kms.setDown(true)
	if changed, _, err := r.Reload(); changed || err == nil {
		t.Errorf("reloaded %t, %v", changed, err)
	}
	if _, _, err := r.Open(seal(t, k)); err != nil {
		t.Errorf("the last good keyset: %v", err)
	}
	if _, _, err := r.Open(seal(t, rotated)); err == nil || pipeline.IsPermanent(err) {
		t.Errorf("a record whose key is on its way: %v", err)
	}
	kms.setDown(false)
	if _, _, err := r.Open(seal(t, rotated)); err != nil {
		t.Error(err)
	}
}
