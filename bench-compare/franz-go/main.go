// franz-go under measurement, tuned as its documentation says for throughput: a linger, large batches, room to buffer; idempotent and
// all acks by its default. Started by bench-compare, which says what the words on the command line mean (../src/job.rs) and what the one
// line of JSON on standard output must hold (../src/line.rs).
//
// With "nothing" as the first argument only the pace is kept.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/twmb/franz-go/pkg/kgo"
)

type job struct {
	brokers, topic, codec                                string
	size, keySize, keys, values, batchEvents, batchBytes int
	partitions, memory                                   int
	count, warmUp, rate, lanes                           uint64
	linger                                               time.Duration
}

func parse(args []string) (job, error) {
	found := map[string]string{}
	for _, arg := range args {
		if name, value, ok := strings.Cut(arg, "="); ok {
			found[name] = value
		}
	}
	var wrong error
	number := func(name string) int {
		n, err := strconv.Atoi(found[name])
		if err != nil && wrong == nil {
			wrong = fmt.Errorf("%s=%s: expected a whole number", name, found[name])
		}
		return n
	}
	j := job{
		brokers: found["brokers"], topic: found["topic"], codec: found["codec"],
		size: number("size"), keySize: number("key_size"), keys: number("keys"), values: number("values"),
		batchEvents: number("batch_events"), batchBytes: number("batch_bytes"),
		partitions: number("partitions"), memory: number("memory"),
		count: uint64(number("count")), warmUp: uint64(number("warm_up")),
		rate: uint64(number("rate")), lanes: uint64(number("lanes")),
		linger: time.Duration(number("linger_us")) * time.Microsecond,
	}
	return j, wrong
}

// What became of the events.
type ledger struct {
	acknowledged, failed atomic.Uint64
	recording            atomic.Bool
	mutex                sync.Mutex
	latency              *hdrhistogram.Histogram
	firstError           error
}

func (l *ledger) outcome(began time.Time, err error) {
	if err != nil {
		l.failed.Add(1)
		l.mutex.Lock()
		if l.firstError == nil {
			l.firstError = err
		}
		l.mutex.Unlock()
		return
	}
	l.acknowledged.Add(1)
	if l.recording.Load() {
		us := min(max(time.Since(began).Microseconds(), 1), longest)
		l.mutex.Lock()
		_ = l.latency.RecordValue(us)
		l.mutex.Unlock()
	}
}

// The longest latency that is told apart, in microseconds.
const longest = 60_000_000

// send gives one event to the client.
type send func(key, value []byte)

func emit(j job, l load, count uint64, send send) time.Duration {
	behind := make([]time.Duration, j.lanes)
	var lanes sync.WaitGroup
	for lane := range j.lanes {
		lanes.Add(1)
		go func() {
			defer lanes.Done()
			share := count / j.lanes
			if lane < count%j.lanes {
				share++
			}
			p := newPace(j)
			for n := range share {
				p.wait(n)
				event := lane + n*j.lanes
				send(l.keys[event%uint64(len(l.keys))], l.values[event%uint64(len(l.values))])
			}
			behind[lane] = p.behind
		}()
	}
	lanes.Wait()
	furthest := time.Duration(0)
	for _, b := range behind {
		furthest = max(furthest, b)
	}
	return furthest
}

func options(j job) ([]kgo.Opt, map[string]string) {
	// Its batches are bounded in bytes alone: as many as so many events take, with what the format adds to each.
	const perEvent, perBatch = 12, 70
	batch := min(j.batchBytes, max(j.batchEvents*(j.size+j.keySize+perEvent)+perBatch, 512))
	records := min(j.memory/(j.size+j.keySize+100), 500_000)
	codec := kgo.NoCompression()
	switch j.codec {
	case "lz4":
		codec = kgo.Lz4Compression()
	case "zstd":
		codec = kgo.ZstdCompression().WithLevel(1)
	}
	return []kgo.Opt{
			kgo.SeedBrokers(strings.Split(j.brokers, ",")...),
			kgo.DefaultProduceTopic(j.topic),
			kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
			kgo.ProducerLinger(j.linger),
			kgo.ProducerBatchMaxBytes(int32(batch)),
			kgo.MaxBufferedRecords(records),
			kgo.MaxBufferedBytes(j.memory),
			kgo.ProducerBatchCompression(codec),
		}, map[string]string{
			"RequiredAcks":             "all (default)",
			"idempotent":               "true (default)",
			"RecordPartitioner":        "StickyKeyPartitioner (murmur2)",
			"ProducerLinger":           j.linger.String(),
			"ProducerBatchMaxBytes":    strconv.Itoa(batch),
			"MaxBufferedRecords":       strconv.Itoa(records),
			"MaxBufferedBytes":         strconv.Itoa(j.memory),
			"ProducerBatchCompression": j.codec,
			"(records)":                "reused through a sync.Pool",
		}
}

type usage struct {
	user, system                float64
	rss, voluntary, involuntary int64
}

func used() usage {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return usage{seconds(r.Utime), seconds(r.Stime), r.Maxrss * 1024, r.Nvcsw, r.Nivcsw}
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == "github.com/twmb/franz-go" {
				return "franz-go " + module.Version + ", " + runtime.Version()
			}
		}
	}
	return "franz-go, " + runtime.Version()
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("expected send or nothing, and the words of a job")
	}
	j, err := parse(args[1:])
	if err != nil {
		return err
	}
	l := newLoad(j)
	led := &ledger{latency: hdrhistogram.New(1, longest, 3)}
	stamp := func() time.Time {
		if j.rate > 0 {
			return time.Now()
		}
		return time.Time{}
	}
	settings := map[string]string{}
	give := func(_, _ []byte) { led.outcome(stamp(), nil) }
	settle := func() error { return nil }
	if args[0] == "send" {
		var opts []kgo.Opt
		opts, settings = options(j)
		client, err := kgo.NewClient(opts...)
		if err != nil {
			return err
		}
		defer client.Close()
		ctx := context.Background()
		if err := client.Ping(ctx); err != nil {
			return err
		}
		pool := sync.Pool{New: func() any { return new(kgo.Record) }}
		give = func(key, value []byte) {
			began := stamp()
			record := pool.Get().(*kgo.Record)
			*record = kgo.Record{Key: key, Value: value}
			client.Produce(ctx, record, func(record *kgo.Record, err error) {
				led.outcome(began, err)
				pool.Put(record)
			})
		}
		settle = func() error { return client.Flush(ctx) }
	}

	emit(j, l, j.warmUp, give)
	if err := settle(); err != nil {
		return err
	}
	warmed := led.acknowledged.Load()
	if warmed != j.warmUp {
		return fmt.Errorf("%d of %d events were acknowledged in the warm-up: %v", warmed, j.warmUp, led.firstError)
	}
	led.recording.Store(j.rate > 0)
	from, began := used(), time.Now()
	behind := emit(j, l, j.count, give)
	if err := settle(); err != nil {
		return err
	}
	wall, to := time.Since(began), used()

	line := map[string]any{
		"version": version(), "load": l.digest(),
		"events": j.count, "acknowledged": led.acknowledged.Load() - warmed, "errors": led.failed.Load(), "first_error": nil,
		"wall_s": wall.Seconds(), "user_s": to.user - from.user, "system_s": to.system - from.system, "peak_rss": to.rss,
		"voluntary": to.voluntary - from.voluntary, "involuntary": to.involuntary - from.involuntary,
		"behind_us": behind.Microseconds(), "latency": nil, "settings": settings,
	}
	if led.firstError != nil {
		line["first_error"] = led.firstError.Error()
	}
	if h := led.latency; h.TotalCount() > 0 {
		line["latency"] = map[string]int64{
			"events": h.TotalCount(), "p50_us": h.ValueAtQuantile(50), "p99_us": h.ValueAtQuantile(99),
			"p999_us": h.ValueAtQuantile(99.9), "max_us": h.Max(),
		}
	}
	return json.NewEncoder(os.Stdout).Encode(line)
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "franz-go:", err)
		os.Exit(1)
	}
}
