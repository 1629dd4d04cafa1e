package envelope

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/tink-crypto/tink-go/v2/aead"

	"github.com/dmguard/dmguard/pipeline"
)

// vectors is testdata/vectors.json, which was made by another implementation.
type vectors struct {
	Keyset jsontext.Value `json:"keyset"`
	Open   []struct {
		Name           string `json:"name"`
		KID            uint32 `json:"kid"`
		ID             string `json:"id"`
		ConversationID string `json:"conversation_id"`
		AAD            string `json:"aad"`
		Nonce          string `json:"nonce"`
		Plaintext      string `json:"plaintext"`
		Envelope       string `json:"envelope"`
	} `json:"open"`
	Refuse []refusal `json:"refuse"`
	Inner  []refusal `json:"inner"`
}

type refusal struct {
	Name     string `json:"name"`
	Error    string `json:"error"`
	Envelope string `json:"envelope"`
}

func loadVectors(t testing.TB) (*vectors, *Keyset) {
	t.Helper()
	data, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	k, err := File{}.parse(v.Keyset)
	if err != nil {
		t.Fatal(err)
	}
	return &v, k
}

func TestVectorsOpen(t *testing.T) {
	v, k := loadVectors(t)
	for _, c := range v.Open {
		t.Run(c.Name, func(t *testing.T) {
			plain, env, err := k.Open([]byte(c.Envelope))
			if err != nil {
				t.Fatal(err)
			}
			if string(plain) != c.Plaintext {
				t.Errorf("opened to %q, want %q", plain, c.Plaintext)
			}
			if diff := cmp.Diff(Header{c.ID, c.ConversationID, c.KID}, env); diff != "" {
				t.Errorf("header: (-want +got)\n%s", diff)
			}
			if got := hex.EncodeToString(appendAAD(nil, c.ID, c.ConversationID)); got != c.AAD {
				t.Errorf("associated data %s, want %s", got, c.AAD)
			}
			if !IsEnvelope([]byte(c.Envelope)) {
				t.Error("not taken for an envelope")
			}
		})
	}
}

func TestVectorsThatMustNotOpen(t *testing.T) {
	v, k := loadVectors(t)
	for _, c := range v.Refuse {
		t.Run(c.Name, func(t *testing.T) {
			plain, _, err := k.Open([]byte(c.Envelope))
			if err == nil || plain != nil {
				t.Fatalf("opened to %d bytes, error %v", len(plain), err)
			}
			if !strings.Contains(err.Error(), c.Error) {
				t.Errorf("error %q does not say %q", err, c.Error)
			}
			if !pipeline.IsPermanent(err) {
				t.Errorf("error %q is not permanent", err)
			}
		})
	}
}

func TestInnerIDsMustBeTheOuterOnes(t *testing.T) {
	v, k := loadVectors(t)
	for _, c := range v.Inner {
		t.Run(c.Name, func(t *testing.T) {
			m, env := openMessage(t, k, c.Envelope)
			err := CheckIDs(env, m)
			if err == nil || !strings.Contains(err.Error(), c.Error) || !pipeline.IsPermanent(err) {
				t.Errorf("error %v, want a permanent one that says %q", err, c.Error)
			}
		})
	}
	m, env := openMessage(t, k, v.Open[0].Envelope)
	if err := CheckIDs(env, m); err != nil {
		t.Errorf("equal ids: %v", err)
	}
}

func openMessage(t *testing.T, k *Keyset, record string) (*pipeline.Message, Header) {
	t.Helper()
	plain, env, err := k.Open([]byte(record))
	if err != nil {
		t.Fatal(err)
	}
	m, err := pipeline.ParseMessage(plain)
	if err != nil {
		t.Fatal(err)
	}
	return m, env
}

// TestSealingGivesTheContractsBytes takes the nonce from what was sealed, so that
// the rest can be compared byte for byte with an own computation.
func TestSealingGivesTheContractsBytes(t *testing.T) {
	v, k := loadVectors(t)
	wrapped, err := aead.New(k.handle)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range v.Open {
		if c.KID != k.primary || c.Plaintext == "" {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			sealed, err := k.Seal([]byte(c.Plaintext))
			if err != nil {
				t.Fatal(err)
			}
			var e struct{ CT []byte }
			if err := json.Unmarshal(sealed, &e, json.MatchCaseInsensitiveNames(true)); err != nil {
				t.Fatal(err)
			}
			aad, _ := hex.DecodeString(c.AAD)
			if want := byHand(t, v, c.KID, c.ID, c.ConversationID, e.CT[5:17], aad, c.Plaintext); want != string(sealed) {
				t.Errorf("sealed\n%s\nwant\n%s", sealed, want)
			}
			if plain, err := wrapped.Decrypt(e.CT, aad); err != nil || string(plain) != c.Plaintext {
				t.Errorf("Tink's own primitive opens it to %q, %v", plain, err)
			}
			plain, _, err := k.Open(sealed)
			if err != nil || string(plain) != c.Plaintext {
				t.Errorf("opened to %q, %v", plain, err)
			}
			// The fixed nonce gives the fixed envelope.
			nonce, _ := hex.DecodeString(c.Nonce)
			if got := byHand(t, v, c.KID, c.ID, c.ConversationID, nonce, aad, c.Plaintext); !strings.Contains(c.Name, "other order") &&
				!strings.Contains(c.Name, "unknown") && !strings.Contains(c.Name, "slashes") && got != c.Envelope {
				t.Errorf("the vector is\n%s\nby hand\n%s", c.Envelope, got)
			}
		})
	}
}

// byHand makes an envelope with nothing but the standard library.
func byHand(t *testing.T, v *vectors, kid uint32, id, conversation string, nonce, aad []byte, plain string) string {
	t.Helper()
	var set struct {
		Key []struct {
			KeyID   uint32
			KeyData struct{ Value []byte }
		}
	}
	if err := json.Unmarshal(v.Keyset, &set, json.MatchCaseInsensitiveNames(true)); err != nil {
		t.Fatal(err)
	}
	for _, key := range set.Key {
		if key.KeyID != kid {
			continue
		}
		block, err := aes.NewCipher(key.KeyData.Value[2:]) // after the protobuf tag and length
		if err != nil {
			t.Fatal(err)
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		ct := append(binary.BigEndian.AppendUint32([]byte{1}, kid), nonce...)
		ct = gcm.Seal(ct, nonce, []byte(plain), aad)
		quote := func(s string) string { b, _ := jsontext.AppendQuote(nil, s); return string(b) }
		return fmt.Sprintf(`{"v":1,"kid":"%d","alg":"A256GCM","id":%s,"conversation_id":%s,"ct":"%s"}`,
			kid, quote(id), quote(conversation), base64.StdEncoding.EncodeToString(ct))
	}
	t.Fatalf("no key %d", kid)
	return ""
}

func TestSealRefusesWhatHasNoIDs(t *testing.T) {
	_, k := loadVectors(t)
	for _, in := range []string{
		"", "{}", `{"id":"m"}`, `{"conversation_id":"c"}`, `{"id":"","conversation_id":"c"}`, "[1]",
		`{"id":"` + strings.Repeat("m", 257) + `","conversation_id":"c"}`,
	} {
		if _, err := k.Seal([]byte(in)); err == nil {
			t.Errorf("sealed %q", in)
		}
	}
}

func TestEveryTamperedByteIsRefused(t *testing.T) {
	v, k := loadVectors(t)
	good := []byte(v.Open[0].Envelope)
	start := bytes.Index(good, []byte(`"ct":"`)) + 6
	ct, err := base64.StdEncoding.DecodeString(string(good[start : len(good)-2]))
	if err != nil {
		t.Fatal(err)
	}
	for i := range ct {
		for bit := range 8 {
			ct[i] ^= 1 << bit
			record := append(bytes.Clone(good[:start]), base64.StdEncoding.EncodeToString(ct)+`"}`...)
			if _, _, err := k.Open(record); err == nil {
				t.Fatalf("opened with bit %d of byte %d flipped", bit, i)
			}
			ct[i] ^= 1 << bit
		}
	}
}

func TestLimitsOfSize(t *testing.T) {
	_, k := loadVectors(t)
	if _, _, err := k.Open(make([]byte, MaxRecord+1)); err == nil || !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), "more than") {
		t.Errorf("error of a record over the limit: %v", err)
	}
	message := func(n int) []byte {
		return fmt.Appendf(nil, `{"id":"m","conversation_id":"c","text":"%s"}`, strings.Repeat("x", n))
	}
	if _, err := k.Seal(message(MaxRecord)); err == nil {
		t.Error("sealed a message over the limit")
	}
	big := message(11 << 20)
	sealed, err := k.Seal(big)
	if err != nil {
		t.Fatal(err)
	}
	if plain, _, err := k.Open(sealed); err != nil || !bytes.Equal(plain, big) {
		t.Errorf("a large message does not come back: %v", err)
	}
}

func TestNestingDoesNotExhaustTheStack(t *testing.T) {
	_, k := loadVectors(t)
	record := `{"x":` + strings.Repeat("[", 1<<20)
	if _, _, err := k.Open([]byte(record)); err == nil {
		t.Error("opened")
	}
}

func TestPlainMessagesAreNotTakenForEnvelopes(t *testing.T) {
	for in, want := range map[string]bool{
		`{"id":"m","conversation_id":"c","text":"\"alg\":1,\"ct\":\"x\",\"v\":1"}`: false,
		`{"id":"m","text":"x","lang":"ct","region":"alg","v":1}`:                   false,
		`{"id":"m","attachments":[{"v":1,"alg":"x","ct":"y"}]}`:                    false,
		`{"id":"m","alg":"x","ct":"y"}`:                                            false,
		`[{"v":1,"alg":"x","ct":"y"}]`:                                             false,
		`"alg" "ct"`:                                                               false,
		``:                                                                         false,
		`{"v":1,"alg":"A256GCM","ct":"cut of`:                                      true,
		`{"ct":"","extra":{"a":[1]},"alg":null,"v":2}`:                             true,
	} {
		if got := IsEnvelope([]byte(in)); got != want {
			t.Errorf("IsEnvelope(%s) = %t", in, got)
		}
	}
}

func TestErrorsQuoteNothingOfTheRecord(t *testing.T) {
	_, k := loadVectors(t)
	const secret = "ZZSECRETZZ"
	for _, in := range []string{
		`{"` + secret + `":1,"` + secret + `":2}`,
		`{"v":"` + secret + `","kid":"` + secret + `","alg":"` + secret + `","id":"m","conversation_id":"c","ct":"` + secret + `!"}`,
		`{"v":1,"kid":"` + secret + `","alg":"A256GCM","id":"m","conversation_id":"c","ct":"` + strings.Repeat("A", 44) + `"}`,
		`{"v":1 ` + secret, `{"x":"\` + secret + `"}`, secret,
	} {
		_, _, err := k.Open([]byte(in))
		if err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("Open(%s): %v", in, err)
		}
	}
}

// FuzzOpen holds that nothing panics and that whatever opens says exactly what
// was sealed.
func FuzzOpen(f *testing.F) {
	v, k := loadVectors(f)
	type sealed struct{ id, conversation, plain string }
	known := map[sealed]bool{}
	for _, c := range v.Open {
		f.Add([]byte(c.Envelope))
		known[sealed{c.ID, c.ConversationID, c.Plaintext}] = true
	}
	for _, c := range v.Refuse {
		f.Add([]byte(c.Envelope))
	}
	for _, c := range v.Inner {
		f.Add([]byte(c.Envelope))
		plain, env, err := k.Open([]byte(c.Envelope))
		if err != nil {
			f.Fatal(err)
		}
		known[sealed{env.ID, env.ConversationID, string(plain)}] = true
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		sniffed := IsEnvelope(record)
		plain, env, err := k.Open(record)
		if err != nil {
			if plain != nil || !pipeline.IsPermanent(err) {
				t.Fatalf("plain %d bytes beside error %v", len(plain), err)
			}
			return
		}
		if !known[sealed{env.ID, env.ConversationID, string(plain)}] {
			t.Fatalf("opened what nobody sealed: %+v %q", env, plain)
		}
		// The sniff trades odd escapes of names for speed.
		if !sniffed && !bytes.Contains(record, []byte(`\u`)) {
			t.Fatal("opened but not taken for an envelope")
		}
	})
}

func FuzzSealAndOpen(f *testing.F) {
	_, k := loadVectors(f)
	f.Add([]byte(`{"id":"m","conversation_id":"c","text":"x"}`))
	f.Add([]byte(`{"id":"\u00e9\"","conversation_id":"\ud83d\ude00"}`))
	f.Fuzz(func(t *testing.T, message []byte) {
		sealed, err := k.Seal(message)
		if err != nil {
			return
		}
		plain, env, err := k.Open(sealed)
		if err != nil || !bytes.Equal(plain, message) {
			t.Fatalf("sealed %q, opened %q, %v", message, plain, err)
		}
		if id, conversation := pipeline.PeekIDs(message); env.ID != id || env.ConversationID != conversation {
			t.Fatalf("ids %+v of %q", env, message)
		}
	})
}

func benchmarkMessage(n int) []byte {
	m := []byte(`{"id":"m-123456","conversation_id":"c-123456","sent_at":"2026-03-01T16:00:00Z","sender":{"id":"u-1","age":14},"recipients":[{"id":"u-2"}],"text":"`)
	return append(append(m, strings.Repeat("x", max(0, n-len(m)-2))...), `"}`...)
}

func BenchmarkOpen(b *testing.B) {
	_, k := loadVectors(b)
	for _, n := range []int{300, 1024, 262144} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			sealed, err := k.Seal(benchmarkMessage(n))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := k.Open(sealed); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSeal(b *testing.B) {
	_, k := loadVectors(b)
	message := benchmarkMessage(300)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Seal(message); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIsEnvelope(b *testing.B) {
	_, k := loadVectors(b)
	sealed, err := k.Seal(benchmarkMessage(300))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		IsEnvelope(sealed)
	}
}
