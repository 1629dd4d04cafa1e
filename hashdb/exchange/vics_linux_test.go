package exchange

import (
	"bufio"
	"fmt"
	"io"
	"runtime"
	"runtime/metrics"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The bars of reading: how fast at least, and in how much memory at most, whatever the file's size.
const (
	barVICS   = 50 << 20 // bytes a second of processor time
	barMemory = 64 << 20 // bytes of heap
)

// vicsStream writes a file of about size bytes, without it ever being anywhere whole.
func vicsStream(w io.Writer, size int64) error {
	out := bufio.NewWriterSize(w, 64<<10)
	entry := func(i int) string {
		return fmt.Sprintf(`{"MediaID":%d,"Category":%d,"MD5":"%032X","SHA1":"%040X","PhotoDNA":"%s","MediaSize":%d,"VictimIdentified":false,"OffenderIdentified":"False","IsDistributed":true,"IsPrecategorized":true,"Series":null,"Tags":"","DateUpdated":"2026-01-02T03:04:05.8300Z","Exifs":[{"PropertyName":"Model","PropertyValue":"Invented %d"}],"MediaFiles":[{"FileName":"%d.jpg","FilePath":"C:\\invented\\folder\\%d","MD5":"%032X"}]}`,
			i, i%6, i, i, strings.Repeat("QUJD", 48), i*7, i, i, i, i)
	}
	fmt.Fprint(out, "\ufeff"+`{"@odata.context":"http://github.com/VICSDATAMODEL/ProjectVic/DataModels/2.0.xml/US/$metadata#Media","value":[`)
	// A template that is filled in anew, since making each entry would take longer than reading it.
	var done int64
	for i := 1; done < size; i++ {
		if i > 1 {
			out.WriteByte(',')
		}
		n, err := out.WriteString(entry(i))
		if err != nil {
			return err
		}
		done += int64(n)
	}
	fmt.Fprint(out, "]}")
	return out.Flush()
}

// processor is how long this process has computed.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func heap() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// vicsRun reads a stream and returns how many records it had, the processor time without that of making it, and the most heap.
func vicsRun(tb testing.TB, size int64) (records int, cpu time.Duration, peak uint64) {
	tb.Helper()
	start := processor()
	if err := vicsStream(io.Discard, size); err != nil {
		tb.Fatal(err)
	}
	making := processor() - start

	runtime.GC()
	start = processor()
	r, w := io.Pipe()
	go func() { w.CloseWithError(vicsStream(w, size)) }()
	for b, err := range read(tb, VICS, r, Options{}) {
		if err != nil {
			tb.Fatal(err)
		}
		records += len(b.Put) + len(b.Skipped)
		peak = max(peak, heap())
	}
	return records, processor() - start - making, peak
}

func TestMemoryDoesNotGrowWithTheFile(t *testing.T) {
	_, _, small := vicsRun(t, 4<<20)
	records, _, large := vicsRun(t, 64<<20)
	if records < 50_000 {
		t.Errorf("%d records", records)
	}
	if large > barMemory {
		t.Errorf("64 MiB of entries took %d MiB of heap, and 4 MiB took %d", large>>20, small>>20)
	}
}

func BenchmarkVICS(b *testing.B) {
	const size = 500 << 20
	for b.Loop() {
		records, cpu, peak := vicsRun(b, size)
		rate := size / cpu.Seconds()
		b.ReportMetric(rate/1e6, "MB/cpu-s")
		b.ReportMetric(float64(records)/cpu.Seconds(), "records/cpu-s")
		b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
		if rate < barVICS {
			b.Errorf("%.0f MB a second, the bar is %d", rate/1e6, barVICS>>20)
		}
	}
}
