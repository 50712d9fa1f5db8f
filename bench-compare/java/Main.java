import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Stream;
import org.HdrHistogram.Histogram;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.AppInfoParser;

/**
 * Kafka's own producer under measurement, used as its ProducerPerformance uses it: `send` with a callback for each record. Started by
 * bench-compare, which says what the words on the command line mean (../src/job.rs) and what the one line of JSON on standard output must
 * hold (../src/line.rs). With "nothing" as the first argument only the pace is kept.
 */
public final class Main {
    /** The longest latency that is told apart, in microseconds. */
    private static final long LONGEST = 60_000_000;

    private final Map<String, String> words = new HashMap<>();
    private final Load load;
    private final long rate;
    private final int lanes;
    private final AtomicLong acknowledged = new AtomicLong();
    private final AtomicLong failed = new AtomicLong();
    private final AtomicReference<String> firstError = new AtomicReference<>();
    private final Histogram latency = new Histogram(LONGEST, 3);
    /** Context switches of threads that have ended: the kernel tells only those of threads that live. */
    private static final AtomicLong ENDED_VOLUNTARY = new AtomicLong();
    private static final AtomicLong ENDED_INVOLUNTARY = new AtomicLong();

    private volatile boolean recording;

    private Main(String[] args) {
        for (String arg : args) {
            int at = arg.indexOf('=');
            if (at > 0) {
                words.put(arg.substring(0, at), arg.substring(at + 1));
            }
        }
        load = new Load((int) number("keys"), (int) number("key_size"), (int) number("values"), (int) number("size"));
        rate = number("rate");
        lanes = (int) number("lanes");
    }

    private long number(String name) {
        try {
            return Long.parseLong(words.getOrDefault(name, ""));
        } catch (NumberFormatException e) {
            throw new IllegalArgumentException(name + "=" + words.get(name) + ": expected a whole number");
        }
    }

    private interface Send {
        void send(byte[] key, byte[] value) throws Exception;
    }

    private long stamp() {
        return rate > 0 ? System.nanoTime() : 0;
    }

    private void outcome(long began, Exception error) {
        if (error != null) {
            failed.incrementAndGet();
            firstError.compareAndSet(null, error.toString());
            return;
        }
        acknowledged.incrementAndGet();
        if (recording) {
            long us = Math.min(Math.max((System.nanoTime() - began) / 1000, 1), LONGEST);
            synchronized (latency) {
                latency.recordValue(us);
            }
        }
    }

    /** Emits so many events; answers how far the load was behind its rate, in nanoseconds. */
    private long emit(long count, Send send) throws Exception {
        Thread[] threads = new Thread[lanes];
        Load.Pace[] paces = new Load.Pace[lanes];
        AtomicReference<Exception> died = new AtomicReference<>();
        for (int number = 0; number < lanes; number++) {
            int lane = number;
            long share = count / lanes + (lane < count % lanes ? 1 : 0);
            Load.Pace pace = paces[lane] = new Load.Pace(rate, lanes);
            threads[lane] = new Thread(() -> {
                try {
                    for (long n = 0; n < share; n++) {
                        pace.await(n);
                        long event = lane + n * lanes;
                        send.send(
                            load.keys[(int) (event % load.keys.length)], load.values[(int) (event % load.values.length)]);
                    }
                    Path self = Path.of("/proc/thread-self");
                    ENDED_VOLUNTARY.addAndGet(status(self, "voluntary_ctxt_switches:"));
                    ENDED_INVOLUNTARY.addAndGet(status(self, "nonvoluntary_ctxt_switches:"));
                } catch (Exception e) {
                    died.compareAndSet(null, e);
                }
            });
            threads[lane].start();
        }
        long behind = 0;
        for (int lane = 0; lane < lanes; lane++) {
            threads[lane].join();
            behind = Math.max(behind, paces[lane].behind);
        }
        if (died.get() != null) {
            throw died.get();
        }
        return behind;
    }

    private Properties properties() {
        long batch = Math.min(
            number("batch_bytes"), number("batch_events") * (number("size") + number("key_size") + 12) + 70);
        // Kafka's advice for throughput is 100 to 200 kB; with many partitions no more than fits into the buffer twice.
        batch = Math.min(Math.min(batch, 200_000), number("memory") / number("partitions") / 2);
        Properties p = new Properties();
        p.put("bootstrap.servers", words.get("brokers"));
        p.put("client.id", "bench-compare");
        p.put("acks", "all");
        p.put("enable.idempotence", "true");
        p.put("linger.ms", Long.toString(number("linger_us") / 1000));
        p.put("batch.size", Long.toString(batch));
        p.put("buffer.memory", words.get("memory"));
        p.put("compression.type", words.get("codec"));
        if (words.get("codec").equals("zstd")) {
            p.put("compression.zstd.level", "1");
        }
        return p;
    }

    /** CPU in seconds, of it user and system in ticks, and context switches, as far as a process in Java can know its own. */
    private static double[] used() throws Exception {
        String stat = Files.readString(Path.of("/proc/self/stat"));
        String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
        var os = (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
        long voluntary = ENDED_VOLUNTARY.get();
        long involuntary = ENDED_INVOLUNTARY.get();
        try (Stream<Path> tasks = Files.list(Path.of("/proc/self/task"))) {
            for (Path task : (Iterable<Path>) tasks::iterator) {
                try {
                    voluntary += status(task, "voluntary_ctxt_switches:");
                    involuntary += status(task, "nonvoluntary_ctxt_switches:");
                } catch (java.io.IOException | java.io.UncheckedIOException e) {
                    // The thread has ended since.
                    continue;
                }
            }
        }
        return new double[] {
            os.getProcessCpuTime() / 1e9, Double.parseDouble(fields[11]), Double.parseDouble(fields[12]), voluntary, involuntary};
    }

    private static long status(Path process, String name) throws java.io.IOException {
        for (String line : Files.readAllLines(process.resolve("status"))) {
            if (line.startsWith(name)) {
                return Long.parseLong(line.substring(name.length()).replace("kB", "").trim());
            }
        }
        return 0;
    }

    private void run(boolean sends) throws Exception {
        Map<String, String> settings = new TreeMap<>();
        KafkaProducer<byte[], byte[]> producer = null;
        Send send = (key, value) -> outcome(stamp(), null);
        if (sends) {
            Properties properties = properties();
            properties.forEach((name, value) -> settings.put(name.toString(), value.toString()));
            settings.remove("bootstrap.servers");
            settings.put("(heap)", "512 MiB");
            producer = new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer());
            KafkaProducer<byte[], byte[]> to = producer;
            String topic = words.get("topic");
            to.partitionsFor(topic);
            send = (key, value) -> {
                long began = stamp();
                to.send(new ProducerRecord<>(topic, key, value), (metadata, error) -> outcome(began, error));
            };
        }
        long warmUp = number("warm_up");
        long count = number("count");
        emit(warmUp, send);
        if (sends) {
            producer.flush();
        }
        long warmed = acknowledged.get();
        if (warmed != warmUp) {
            throw new IllegalStateException(
                warmed + " of " + warmUp + " events were acknowledged in the warm-up: " + firstError.get());
        }
        recording = rate > 0;
        double[] from = used();
        long began = System.nanoTime();
        long behind = emit(count, send);
        if (sends) {
            producer.flush();
        }
        double wall = (System.nanoTime() - began) / 1e9;
        double[] to = used();
        // The sum is known to the nanosecond, its parts to the tick: they share it in their proportion.
        double cpu = to[0] - from[0];
        double ticks = to[1] - from[1] + to[2] - from[2];
        double user = ticks > 0 ? cpu * (to[1] - from[1]) / ticks : cpu;
        System.out.printf(
            java.util.Locale.ROOT,
            "{\"version\":%s,\"load\":%s,\"events\":%d,\"acknowledged\":%d,\"errors\":%d,\"first_error\":%s,\"wall_s\":%.6f,"
                + "\"user_s\":%.6f,\"system_s\":%.6f,\"peak_rss\":%d,\"voluntary\":%d,\"involuntary\":%d,\"behind_us\":%d,"
                + "\"latency\":%s,\"settings\":%s}%n",
            text("kafka-clients " + AppInfoParser.getVersion() + ", Java " + Runtime.version().feature()),
            text(load.digest()), count, acknowledged.get() - warmed, failed.get(), text(firstError.get()), wall,
            user, cpu - user, status(Path.of("/proc/self"), "VmHWM:") * 1024,
            // A thread of the runtime's own may have ended, and taken its count with it.
            (long) Math.max(0, to[3] - from[3]), (long) Math.max(0, to[4] - from[4]), behind / 1000, latency(), object(settings));
        if (sends) {
            producer.close();
        }
    }

    private String latency() {
        if (latency.getTotalCount() == 0) {
            return "null";
        }
        return String.format(
            "{\"events\":%d,\"p50_us\":%d,\"p99_us\":%d,\"p999_us\":%d,\"max_us\":%d}", latency.getTotalCount(),
            latency.getValueAtPercentile(50), latency.getValueAtPercentile(99), latency.getValueAtPercentile(99.9),
            latency.getMaxValue());
    }

    private static String text(String text) {
        return text == null ? "null" : "\"" + text.replace("\\", "\\\\").replace("\"", "\\\"").replaceAll("\\s", " ") + "\"";
    }

    private static String object(Map<String, String> entries) {
        StringBuilder out = new StringBuilder("{");
        entries.forEach((name, value) ->
            out.append(out.length() > 1 ? "," : "").append(text(name)).append(':').append(text(value)));
        return out.append('}').toString();
    }

    public static void main(String[] args) throws Exception {
        if (args.length == 0) {
            throw new IllegalArgumentException("expected send or nothing, and the words of a job");
        }
        new Main(args).run(args[0].equals("send"));
    }
}
