// The admin client that tests keep open: a JVM a command would cost a second of CPU each.
//
// One JSON object a line on standard input ({"do": "create", "topic": "t", ...}), one JSON object a line on standard
// output, in order: the answer, or {"kind": exception class, "error": what went wrong}. Everything a test wants to know
// from a second opinion is asked of Kafka's own classes here: its consumer, its partitioner, its murmur2.
// Ends at the end of input. Every command is bounded in time. Bytes travel as base64, null as null.

import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedOutputStream;
import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collection;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeoutException;
import java.util.function.Predicate;
import org.apache.kafka.clients.admin.AdminClient;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitionReassignment;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.ProducerState;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionInfo;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.ElectionNotNeededException;
import org.apache.kafka.common.errors.RetriableException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.protocol.ApiKeys;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.requests.AbstractResponse;
import org.apache.kafka.common.requests.MetadataRequest;
import org.apache.kafka.common.requests.MetadataResponse;
import org.apache.kafka.common.requests.RequestHeader;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.Utils;

public final class Admin {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final long DEFAULT_TIMEOUT_MS = 60_000;

    private final String bootstrap;
    private final AdminClient admin;
    /** For questions, which may be asked again: seen that a call stays with a frozen broker until its time is over. */
    private final AdminClient impatient;

    private Admin(String bootstrap) {
        this.bootstrap = bootstrap;
        this.admin = client(bootstrap, 5_000, 20_000);
        this.impatient = client(bootstrap, 1_000, 2_000);
    }

    private static AdminClient client(String bootstrap, int requestTimeoutMs, int callTimeoutMs) {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("request.timeout.ms", requestTimeoutMs);
        // Not by a call's options: describeTopics asks for the cluster first, and bounds that by this alone.
        p.put("default.api.timeout.ms", callTimeoutMs);
        p.put("reconnect.backoff.max.ms", "200");
        p.put("socket.connection.setup.timeout.ms", requestTimeoutMs);
        return AdminClient.create(p);
    }

    public static void main(String[] args) throws Exception {
        // Answers alone on stdout, whatever a library prints.
        PrintStream out = System.out;
        System.setOut(System.err);
        Admin self = new Admin(args[0]);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = in.readLine()) != null; ) {
            ObjectNode answer = JSON.createObjectNode();
            try {
                self.perform(JSON.readTree(line), answer);
            } catch (Throwable t) {
                Throwable cause = t instanceof ExecutionException && t.getCause() != null ? t.getCause() : t;
                answer.removeAll();
                answer.put("kind", cause.getClass().getSimpleName()).put("error", String.valueOf(cause.getMessage()));
            }
            byte[] bytes = JSON.writeValueAsBytes(answer);
            out.write(bytes, 0, bytes.length);
            out.write('\n');
            out.flush();
        }
        self.admin.close(Duration.ofSeconds(2));
        self.impatient.close(Duration.ZERO);
    }

    private void perform(JsonNode q, ObjectNode a) throws Exception {
        String what = text(q, "do");
        switch (what) {
            case "cluster" -> cluster(a);
            case "create" -> create(q);
            case "grow" -> grow(q);
            case "delete" -> delete(q);
            case "topics" -> patiently(() -> impatient.listTopics().names().get()).forEach(a.putArray("topics")::add);
            case "describe" -> show(describe(text(q, "topic")), a);
            case "wait" -> waitFor(q, a);
            case "move_leader" -> moveLeader(q);
            case "grant" -> grant(q);
            case "alter_configs" -> alterConfigs(q);
            case "configs" -> configs(q, a);
            case "producers" -> producers(q, a);
            case "offsets" -> offsets(text(q, "topic"), a);
            case "consume" -> consume(q, a);
            case "produce" -> produce(q, a);
            case "partition_for_key" -> {
                int partitions = q.required("partitions").asInt();
                each(q, a, key -> BuiltInPartitioner.partitionForKey(key, partitions));
            }
            case "murmur2" -> each(q, a, Utils::murmur2);
            default -> throw new IllegalArgumentException("no command '" + what + "'");
        }
    }

    // ---- cluster and topics ---------------------------------------------------------------------------------------

    private void cluster(ObjectNode a) throws Exception {
        a.put("cluster_id", patiently(() -> impatient.describeCluster().clusterId().get()));
        ArrayNode nodes = a.putArray("nodes");
        for (Node n : patiently(this::nodes)) {
            nodes.addObject().put("id", n.id()).put("host", n.host()).put("port", n.port());
        }
    }

    private void create(JsonNode q) throws Exception {
        String topic = text(q, "topic");
        int partitions = q.required("partitions").asInt();
        int rf = q.required("rf").asInt();
        admin.createTopics(List.of(new NewTopic(topic, partitions, (short) rf).configs(strings(q, "configs")))).all().get();
        // Created means that it is in the log of the controller; ready, that each partition has its leader and replicas.
        everywhere(topic, timeout(q), d -> d.partitions().size() == partitions
            && d.partitions().stream().allMatch(p -> leader(p) >= 0 && p.isr().size() == rf), "all leaders and replicas");
        led(topic, partitions, timeout(q));
    }

    private void grow(JsonNode q) throws Exception {
        String topic = text(q, "topic");
        int partitions = q.required("partitions").asInt();
        admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(partitions))).all().get();
        everywhere(topic, timeout(q), d -> d.partitions().size() == partitions
            && d.partitions().stream().allMatch(p -> leader(p) >= 0), partitions + " partitions with leaders");
        led(topic, partitions, timeout(q));
    }

    /**
     * A broker may tell all clients that it leads before it does, and answers the first of them NOT_LEADER_OR_FOLLOWER. The end
     * of a partition is told by its leader alone; the client asks until it is (KIP-396).
     */
    private void led(String topic, int partitions, long timeoutMs) throws Exception {
        Map<TopicPartition, OffsetSpec> ends = new HashMap<>();
        for (int p = 0; p < partitions; p++) ends.put(new TopicPartition(topic, p), OffsetSpec.latest());
        until(timeoutMs, () -> impatient.listOffsets(ends).all().get() != null, "each partition's end");
    }

    private void delete(JsonNode q) throws Exception {
        String topic = text(q, "topic");
        admin.deleteTopics(List.of(topic)).all().get();
        until(timeout(q), () -> {
            for (Node n : nodes()) if (askOne(n, topic) != null) return false;
            return true;
        }, "topic " + topic + " to be gone");
    }

    private void grant(JsonNode q) throws Exception {
        // Write implies Describe.
        AccessControlEntry entry = new AccessControlEntry("User:" + text(q, "user"), "*", AclOperation.WRITE, AclPermissionType.ALLOW);
        ResourcePattern topic = new ResourcePattern(ResourceType.TOPIC, text(q, "topic"), PatternType.LITERAL);
        admin.createAcls(List.of(new AclBinding(topic, entry))).all().get();
    }

    private static void show(TopicDescription d, ObjectNode a) {
        a.put("topic_id", d.topicId().toString());
        ArrayNode partitions = a.putArray("partitions");
        for (TopicPartitionInfo p : d.partitions()) {
            ObjectNode o = partitions.addObject().put("partition", p.partition()).put("leader", leader(p));
            p.replicas().forEach(n -> o.withArray("replicas").add(n.id()));
            o.putArray("isr");
            p.isr().forEach(n -> o.withArray("isr").add(n.id()));
        }
    }

    /** Until every partition (or the one named) has a leader, at least {@code isr} replicas in sync, and the leader asked for. */
    private void waitFor(JsonNode q, ObjectNode a) throws Exception {
        String topic = text(q, "topic");
        int isr = q.path("isr").asInt(1);
        int partition = q.path("partition").asInt(-1);
        int leader = q.path("leader").asInt(-1);
        int not = q.path("leader_not").asInt(-1);
        show(everywhere(topic, timeout(q), d -> d.partitions().stream()
            .filter(p -> partition < 0 || p.partition() == partition)
            .allMatch(p -> leader(p) >= 0 && p.isr().size() >= isr
                && (leader < 0 || leader(p) == leader) && (not < 0 || leader(p) != not)), q.toString()), a);
    }

    /** The way Kafka's own tools do it: put the broker first among the replicas, then elect the preferred one. */
    private void moveLeader(JsonNode q) throws Exception {
        String topic = text(q, "topic");
        int to = q.required("to").asInt();
        TopicPartition tp = new TopicPartition(topic, q.required("partition").asInt());
        TopicPartitionInfo info = partition(tp);
        List<Integer> replicas = new ArrayList<>(info.replicas().stream().map(Node::id).toList());
        if (!replicas.remove((Integer) to)) {
            throw new IllegalArgumentException("broker " + to + " holds no replica of " + tp + ", replicas are " + info.replicas());
        }
        replicas.add(0, to);
        var first = Map.of(tp, Optional.of(new NewPartitionReassignment(replicas)));
        patiently(() -> admin.alterPartitionReassignments(first).all().get());
        until(timeout(q), () -> {
            // Also after the reassignment the broker may still be catching up, and one that is busy may be fenced for a moment
            // just when it leads: ask until all see that it does.
            if (impatient.listPartitionReassignments(Set.of(tp)).reassignments().get().containsKey(tp)) return false;
            Optional<Throwable> refused = admin.electLeaders(ElectionType.PREFERRED, Set.of(tp)).partitions().get()
                .getOrDefault(tp, Optional.empty());
            if (refused.isPresent() && !(refused.get() instanceof ElectionNotNeededException)) return false;
            return everyBroker(topic, d -> d.partitions().stream().anyMatch(p -> p.partition() == tp.partition() && leader(p) == to));
        }, "broker " + to + " to lead " + tp);
    }

    private void alterConfigs(JsonNode q) throws Exception {
        List<AlterConfigOp> ops = new ArrayList<>();
        strings(q, "configs").forEach((k, v) -> ops.add(new AlterConfigOp(new ConfigEntry(k, v), AlterConfigOp.OpType.SET)));
        admin.incrementalAlterConfigs(Map.of(resource(q), (Collection<AlterConfigOp>) ops)).all().get();
        // Brokers apply it when they replay the controller's log: the answer to a question shows it.
        until(timeout(q), () -> {
            Config now = impatient.describeConfigs(List.of(resource(q))).all().get().get(resource(q));
            return ops.stream().allMatch(op -> {
                ConfigEntry e = now.get(op.configEntry().name());
                return e != null && (e.isSensitive() || op.configEntry().value().equals(e.value()));
            });
        }, "the configuration to be applied");
    }

    private void configs(JsonNode q, ObjectNode a) throws Exception {
        ObjectNode o = a.putObject("configs");
        for (ConfigEntry e : patiently(() -> impatient.describeConfigs(List.of(resource(q))).all().get()).get(resource(q)).entries()) {
            o.put(e.name(), e.value());
        }
    }

    private static ConfigResource resource(JsonNode q) {
        return q.has("broker")
            ? new ConfigResource(ConfigResource.Type.BROKER, q.get("broker").asText())
            : new ConfigResource(ConfigResource.Type.TOPIC, text(q, "topic"));
    }

    // ---- what lies in a topic -------------------------------------------------------------------------------------

    private void producers(JsonNode q, ObjectNode a) throws Exception {
        TopicPartition tp = new TopicPartition(text(q, "topic"), q.required("partition").asInt());
        ArrayNode list = a.putArray("producers");
        for (ProducerState s : patiently(() -> impatient.describeProducers(List.of(tp)).partitionResult(tp).get()).activeProducers()) {
            list.addObject().put("producer_id", s.producerId()).put("epoch", s.producerEpoch())
                .put("last_sequence", s.lastSequence()).put("last_timestamp", s.lastTimestamp())
                .put("coordinator_epoch", s.coordinatorEpoch().orElse(-1))
                .put("transaction_start_offset", s.currentTransactionStartOffset().orElse(-1));
        }
    }

    private void offsets(String topic, ObjectNode a) throws Exception {
        Map<TopicPartition, OffsetSpec> first = new HashMap<>();
        Map<TopicPartition, OffsetSpec> next = new HashMap<>();
        for (TopicPartitionInfo p : describe(topic).partitions()) {
            TopicPartition tp = new TopicPartition(topic, p.partition());
            first.put(tp, OffsetSpec.earliest());
            next.put(tp, OffsetSpec.latest());
        }
        var from = patiently(() -> impatient.listOffsets(first).all().get());
        var to = patiently(() -> impatient.listOffsets(next).all().get());
        ArrayNode list = a.putArray("partitions");
        from.keySet().stream().sorted((x, y) -> x.partition() - y.partition()).forEach(tp -> list.addObject()
            .put("partition", tp.partition()).put("earliest", from.get(tp).offset()).put("latest", to.get(tp).offset()));
    }

    /** Everything that stands in the topic now, by Kafka's own consumer, one JSON object a line into a file. */
    private void consume(JsonNode q, ObjectNode a) throws Exception {
        String topic = text(q, "topic");
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("isolation.level", text(q, "isolation"));
        p.put("allow.auto.create.topics", "false");
        p.put("enable.auto.commit", "false");
        p.put("auto.offset.reset", "none");
        p.put("max.poll.records", "10000");
        p.put("check.crcs", "true");
        long count = 0;
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer());
             BufferedWriter file = Files.newBufferedWriter(Path.of(text(q, "file")))) {
            List<TopicPartition> all = describe(topic).partitions().stream().map(i -> new TopicPartition(topic, i.partition())).toList();
            consumer.assign(all);
            consumer.seekToBeginning(all);
            Map<TopicPartition, Long> end = consumer.endOffsets(all);
            long progress = System.nanoTime();
            while (all.stream().anyMatch(tp -> consumer.position(tp) < end.get(tp))) {
                for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(100))) {
                    progress = System.nanoTime();
                    // What came after the question is not part of the answer.
                    if (r.offset() >= end.get(new TopicPartition(topic, r.partition()))) continue;
                    file.write(JSON.writeValueAsString(json(r)));
                    file.write('\n');
                    count++;
                }
                if (System.nanoTime() - progress > timeout(q) * 1_000_000) {
                    throw new TimeoutException("after " + count + " records of " + topic + " nothing more comes, but the ends are " + end);
                }
            }
        }
        a.put("count", count);
    }

    private static ObjectNode json(ConsumerRecord<byte[], byte[]> r) {
        ObjectNode o = JSON.createObjectNode().put("partition", r.partition()).put("offset", r.offset())
            .put("timestamp", r.timestamp()).put("timestamp_type", r.timestampType().toString())
            .put("key", base64(r.key())).put("value", base64(r.value()));
        ArrayNode headers = o.putArray("headers");
        for (Header h : r.headers()) headers.addArray().add(h.key()).add(base64(h.value()));
        return o;
    }

    /** A file of objects as `consume` writes them (partition and timestamp may be absent), by Kafka's own producer. */
    private void produce(JsonNode q, ObjectNode a) throws Exception {
        String topic = text(q, "topic");
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("acks", "all");
        p.put("linger.ms", "5");
        p.put("delivery.timeout.ms", String.valueOf(timeout(q)));
        p.put("request.timeout.ms", String.valueOf(Math.min(10_000, timeout(q) - 100)));
        p.putAll(strings(q, "configs"));
        String transaction = q.path("transaction").asText("");
        if (!transaction.isEmpty()) p.put("transactional.id", "test-" + topic);
        ArrayNode offsets = a.putArray("offsets");
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer())) {
            if (!transaction.isEmpty()) {
                producer.initTransactions();
                producer.beginTransaction();
            }
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (String line : Files.readAllLines(Path.of(text(q, "file")))) {
                JsonNode r = JSON.readTree(line);
                List<Header> headers = new ArrayList<>();
                r.path("headers").forEach(h -> headers.add(new RecordHeader(h.get(0).asText(), bytes(h.get(1)))));
                sent.add(producer.send(new ProducerRecord<>(topic, r.hasNonNull("partition") ? r.get("partition").asInt() : null,
                    r.hasNonNull("timestamp") ? r.get("timestamp").asLong() : null, bytes(r.get("key")), bytes(r.get("value")), headers)));
            }
            producer.flush();
            for (Future<RecordMetadata> f : sent) offsets.addArray().add(f.get().partition()).add(f.get().offset());
            if (transaction.equals("commit")) producer.commitTransaction();
            if (transaction.equals("abort")) producer.abortTransaction();
        }
    }

    // ---- helpers --------------------------------------------------------------------------------------------------

    private interface Ready {
        boolean check() throws Exception;
    }

    private interface OfBytes {
        int apply(byte[] bytes);
    }

    /** Asks again every 20 ms; questions that fail because a broker is away are asked again too. */
    private static void until(long timeoutMs, Ready ready, String what) throws Exception {
        long end = System.nanoTime() + timeoutMs * 1_000_000;
        Throwable last = null;
        do {
            try {
                if (ready.check()) return;
            } catch (ExecutionException e) {
                last = e.getCause();
            } catch (IOException e) {
                last = e;
            }
            Thread.sleep(20);
        } while (System.nanoTime() < end);
        throw new TimeoutException("waited " + timeoutMs + " ms for " + what + (last == null ? "" : "; last answer: " + last));
    }

    private TopicDescription describe(String topic) throws Exception {
        return patiently(() -> impatient.describeTopics(List.of(topic)).allTopicNames().get().get(topic));
    }

    private Collection<Node> nodes() throws Exception {
        return impatient.describeCluster().nodes().get();
    }

    /**
     * Until every broker of the cluster sees the topic so. Brokers learn of a change one after another, one that a test
     * froze long after the others; what a test asks or sends next may go to any.
     */
    private TopicDescription everywhere(String topic, long timeoutMs, Predicate<TopicDescription> so, String what) throws Exception {
        TopicDescription[] last = {null};
        until(timeoutMs, () -> everyBroker(topic, d -> {
            last[0] = d;
            return so.test(d);
        }), "topic " + topic + ": " + what);
        return last[0];
    }

    /** Whether every broker sees it so now. */
    private boolean everyBroker(String topic, Predicate<TopicDescription> so) throws Exception {
        Collection<Node> nodes = nodes();
        for (Node n : nodes) {
            TopicDescription seen = askOne(n, topic);
            if (seen == null || !so.test(seen)) return false;
        }
        return !nodes.isEmpty();
    }

    /** What this one broker says of the topic (the admin client chooses whom it asks); null: unknown to it. */
    private static TopicDescription askOne(Node node, String topic) throws IOException {
        short version = 12;
        RequestHeader header = new RequestHeader(ApiKeys.METADATA, version, "test-admin", 1);
        ByteBuffer request = new MetadataRequest.Builder(List.of(topic), false).build(version).serializeWithHeader(header);
        try (Socket socket = new Socket()) {
            socket.connect(new InetSocketAddress(node.host(), node.port()), 1_000);
            socket.setSoTimeout(2_000);
            DataOutputStream out = new DataOutputStream(new BufferedOutputStream(socket.getOutputStream()));
            out.writeInt(request.remaining());
            out.write(Utils.toArray(request));
            out.flush();
            DataInputStream in = new DataInputStream(socket.getInputStream());
            byte[] answer = new byte[in.readInt()];
            in.readFully(answer);
            MetadataResponse response = (MetadataResponse) AbstractResponse.parseResponse(ByteBuffer.wrap(answer), header);
            for (MetadataResponse.TopicMetadata t : response.topicMetadata()) {
                if (t.error() == Errors.UNKNOWN_TOPIC_OR_PARTITION) return null;
                List<TopicPartitionInfo> partitions = t.partitionMetadata().stream()
                    .map(p -> new TopicPartitionInfo(p.partition(), p.leaderId.map(Admin::id).orElse(null),
                        p.replicaIds.stream().map(Admin::id).toList(), p.inSyncReplicaIds.stream().map(Admin::id).toList()))
                    .sorted(Comparator.comparingInt(TopicPartitionInfo::partition)).toList();
                return new TopicDescription(topic, t.isInternal(), partitions, Set.of(), t.topicId());
            }
        }
        return null;
    }

    private static Node id(int id) {
        return new Node(id, "", -1);
    }

    /** Asks once more, perhaps another broker, while the answer is that time is over or that it passes; for 20 s. */
    private static <T> T patiently(Callable<T> question) throws Exception {
        long end = System.nanoTime() + 20_000_000_000L;
        while (true) {
            try {
                return question.call();
            } catch (ExecutionException e) {
                boolean passes = e.getCause() instanceof RetriableException
                    // What tests ask for on purpose.
                    && !(e.getCause() instanceof UnknownTopicOrPartitionException);
                if (!passes || System.nanoTime() > end) throw e;
            }
        }
    }

    private TopicPartitionInfo partition(TopicPartition tp) throws Exception {
        return describe(tp.topic()).partitions().stream().filter(p -> p.partition() == tp.partition()).findFirst()
            .orElseThrow(() -> new IllegalArgumentException("no partition " + tp));
    }

    private static int leader(TopicPartitionInfo p) {
        return p.leader() == null ? -1 : p.leader().id();
    }

    private static void each(JsonNode q, ObjectNode a, OfBytes f) {
        ArrayNode list = a.putArray("values");
        q.required("keys").forEach(key -> list.add(f.apply(bytes(key))));
    }

    private static long timeout(JsonNode q) {
        return q.path("timeout_ms").asLong(DEFAULT_TIMEOUT_MS);
    }

    private static String text(JsonNode q, String name) {
        return q.required(name).asText();
    }

    private static Map<String, String> strings(JsonNode q, String name) {
        return q.has(name) ? JSON.convertValue(q.get(name), new TypeReference<Map<String, String>>() { }) : Map.of();
    }

    private static String base64(byte[] b) {
        return b == null ? null : Base64.getEncoder().encodeToString(b);
    }

    private static byte[] bytes(JsonNode n) {
        return n == null || n.isNull() ? null : Base64.getDecoder().decode(n.asText());
    }
}
