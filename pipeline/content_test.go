package pipeline_test

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	stdjson "encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"strings"
	"testing"
	"text/template"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.yaml.in/yaml/v3"

	"github.com/dmguard/dmguard/pipeline"
)

// hidden holds content in unexported fields, where fmt calls no method.
type hidden struct {
	text  pipeline.Text
	blob  pipeline.Blob
	texts []pipeline.Text
	named map[string]pipeline.Text
	inner *hidden
	any   any
}

type shown struct {
	Text  pipeline.Text
	Blob  pipeline.Blob
	Ptr   *pipeline.Text
	Texts []pipeline.Text
	Blobs map[string]pipeline.Blob
	Any   any
}

// contentError carries content as a careless error would.
type contentError struct {
	Text pipeline.Text
	blob pipeline.Blob
}

func (e contentError) Error() string { return fmt.Sprintf("cannot read %v %v", e.Text, e.blob) }

// shows reports in which form printed shows the secret.
func shows(printed string) string {
	decimal := strings.Trim(fmt.Sprintf("%d", []byte(secret)), "[]")
	for form, s := range map[string]string{
		"as it is": secret, "in hex": hex.EncodeToString([]byte(secret)), "in decimal": decimal, "in decimal, listed": strings.ReplaceAll(decimal, " ", ", "),
		"in decimal, packed": strings.ReplaceAll(decimal, " ", ","), "in hex, spaced": fmt.Sprintf("% x", secret), "in Go syntax": strings.Trim(fmt.Sprintf("%#v", []byte(secret)), "[]byte{}"),
		"in octal": strings.Trim(fmt.Sprintf("%o", []byte(secret)), "[]"), "in binary": strings.Trim(fmt.Sprintf("%b", []byte(secret)), "[]"),
		"in characters": strings.Trim(fmt.Sprintf("%c", []byte(secret)), "[]"), "a part of it": "old mill",
		"in base64": base64.RawStdEncoding.EncodeToString([]byte(secret))[:24], "in URL-safe base64": base64.RawURLEncoding.EncodeToString([]byte(secret))[:24],
	} {
		if strings.Contains(strings.ToLower(printed), strings.ToLower(s)) {
			return form
		}
	}
	return ""
}

func TestNoWayOfPrintingShowsContent(t *testing.T) {
	text, blob := pipeline.NewText(secret), pipeline.NewBlob([]byte(secret))
	sh := shown{text, blob, &text, []pipeline.Text{text}, map[string]pipeline.Blob{"x": blob}, text}
	hi := hidden{text: text, blob: blob, texts: []pipeline.Text{text}, named: map[string]pipeline.Text{"x": text}, any: blob}
	hi.inner = &hidden{text: text, any: &sh}
	m, err := pipeline.ParseMessage([]byte(message("m-1", "c-1")))
	if err != nil {
		t.Fatal(err)
	}
	m.Attachments = []pipeline.Attachment{{ID: "a-1", Data: blob}}
	m.UserReports = []pipeline.UserReport{{ID: "r-1", Reason: text}}
	failure := contentError{text, blob}
	values := map[string]any{
		"text": text, "blob": blob, "pointer": &text, "pointer to blob": &blob, "slice": []pipeline.Text{text}, "array": [2]pipeline.Blob{blob, blob},
		"map": map[string]pipeline.Text{"x": text}, "exported": sh, "pointer to exported": &sh, "hidden": hi, "pointer to hidden": &hi, "slice of hidden": []hidden{hi},
		"map of hidden": map[string]*hidden{"x": &hi}, "message": *m, "pointer to message": m, "item": &pipeline.Item{Message: m}, "outcome": &pipeline.Outcome{Item: &pipeline.Item{Message: m}},
		"error": failure, "joined": errors.Join(failure, fmt.Errorf("wrapped: %w", failure)), "anything": []any{text, blob, hi, &sh},
	}
	for name, v := range values {
		said := func(how, printed string) {
			t.Helper()
			if form := shows(printed); form != "" {
				t.Errorf("%s by %s shows the content %s: %s", name, how, form, printed)
			}
		}
		for verb := '!'; verb <= 'z'; verb++ {
			for _, flags := range []string{"", "+", "#", " ", "-", "0", "+#", "# ", "300", ".300", "+#300.300"} {
				said("%"+flags+string(verb), fmt.Sprintf("%"+flags+string(verb), v))
			}
		}
		said("Sprint", fmt.Sprint(v))
		said("Sprintln", fmt.Sprintln(v))
		said("Errorf", fmt.Errorf("%v %+v %#v", v, v, v).Error())

		// What cannot be encoded is an error, which must not show it either.
		both := func(b []byte, err error) string { return string(b) + fmt.Sprint(err) }
		said("json", both(stdjson.Marshal(v)))
		said("json v2", both(json.Marshal(v)))
		said("yaml", both(func() (b []byte, err error) {
			defer func() {
				if r := recover(); r != nil {
					err = fmt.Errorf("%v", r)
				}
			}()
			return yaml.Marshal(v)
		}()))
		said("xml", both(xml.Marshal(v)))
		var b bytes.Buffer
		err := gob.NewEncoder(&b).Encode(v)
		said("gob", b.String()+fmt.Sprint(err))
		for _, source := range []string{`{{.}}`, `{{printf "%s %x %q %v %d" . . . . .}}`, `{{print .}}`, `{{html .}}{{js .}}`} {
			b.Reset()
			err := template.Must(template.New("").Parse(source)).Execute(&b, v)
			said("text/template", b.String()+fmt.Sprint(err))
		}
		b.Reset()
		err = htmltemplate.Must(htmltemplate.New("").Parse(`<p title="{{.}}">{{.}}</p><script>x = {{.}}</script>`)).Execute(&b, v)
		said("html/template", b.String()+fmt.Sprint(err))

		for _, encoder := range []zapcore.Encoder{
			zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig()),
		} {
			b.Reset()
			log := zap.New(zapcore.NewCore(encoder, zapcore.AddSync(&b), zapcore.DebugLevel))
			log.Info("x", zap.Any("any", v), zap.Reflect("reflect", v))
			if s, ok := v.(fmt.Stringer); ok {
				log.Info("x", zap.Stringer("stringer", s))
			}
			if e, ok := v.(error); ok {
				log.Info("x", zap.Error(e), zap.NamedError("named", e))
			}
			log.Sugar().Infow("x", "v", v)
			log.Sugar().Infof("%v %+v %#v %s", v, v, v, v)
			log.Sugar().Info(v)
			said("zap", b.String())
		}
	}

	// A comparison that fails prints by reflection, unexported fields too.
	other, otherBlob := pipeline.NewText(strings.ToUpper(secret)), pipeline.NewBlob([]byte(strings.ToUpper(secret)))
	for _, diff := range []string{
		cmp.Diff(text, other), cmp.Diff(blob, otherBlob), cmp.Diff(sh, shown{other, otherBlob, &other, nil, nil, other}),
		cmp.Diff(contentError{text, blob}, contentError{other, otherBlob}, cmp.AllowUnexported(contentError{})),
		cmp.Diff(any(text), any(secret[:3])),
	} {
		if form := shows(diff); diff == "" || form != "" {
			t.Errorf("a failed comparison shows the content %s: %s", form, diff)
		}
	}
}

func TestContentIsWhatWasPutIn(t *testing.T) {
	text, blob := pipeline.NewText(secret), pipeline.NewBlob([]byte(secret))
	if text.Reveal() != secret || string(blob.Reveal()) != secret || text.Len() != len(secret) || blob.Len() != len(secret) {
		t.Error("content was changed")
	}
	if !text.Equal(pipeline.NewText(secret)) || text.Equal(pipeline.NewText("x")) || !blob.Equal(pipeline.NewBlob([]byte(secret))) || blob.Equal(pipeline.Blob{}) {
		t.Error("Equal does not compare content")
	}
	if got := fmt.Sprint(text, blob, pipeline.Text{}, pipeline.NewBlob(nil)); got != "[text, 23 bytes] [blob, 23 bytes] [text, 0 bytes] [blob, 0 bytes]" {
		t.Errorf("printed as %s", got)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q", "%t"} {
		if got := fmt.Sprintf(verb+verb, text, blob); got != "[text, 23 bytes][blob, 23 bytes]" {
			t.Errorf("%s prints %s", verb, got)
		}
	}
	var none pipeline.Message
	if none.Text.Reveal() != "" || none.Text.Len() != 0 || (pipeline.Blob{}).Reveal() != nil {
		t.Error("a zero value holds something")
	}
}
