import java.nio.charset.StandardCharsets;

/** The same events as ../src/load.rs makes, step by step; the digest in the result shows it. */
final class Load {
    private static final String BEFORE = "{\"text\":\"";
    private static final String AFTER = "\"}";
    private static final String[] WORDS = {
        "flight", "origin", "delay", "gate", "carrier", "airport", "weather", "minutes", "cancelled", "diverted",
        "runway", "taxi", "wheels", "scheduled", "actual", "distance", "SEA", "JFK", "ORD", "ATL", "DFW", "LAX", "2026",
        "11", "26", "0", "17", "true", "false", "null", "on", "to",
    };
    private static final long TICK = 1_000_000;

    final byte[][] keys;
    final byte[][] values;
    /** xorshift64*. */
    private long state = 0x9e3779b97f4a7c15L;

    Load(int keys, int keySize, int values, int size) {
        this.keys = new byte[keys][keySize];
        for (byte[] key : this.keys) {
            for (int at = 0; at < keySize; at++) {
                key[at] = (byte) ('A' + fiveBits());
            }
        }
        this.values = new byte[values][];
        int room = Math.max(size - BEFORE.length() - AFTER.length(), 0);
        for (int n = 0; n < values; n++) {
            StringBuilder text = new StringBuilder();
            while (text.length() < room) {
                text.append(WORDS[fiveBits()]).append(' ');
            }
            text.setLength(room);
            this.values[n] = (BEFORE + text + AFTER).getBytes(StandardCharsets.US_ASCII);
        }
    }

    private int fiveBits() {
        state ^= state >>> 12;
        state ^= state << 25;
        state ^= state >>> 27;
        return (int) ((state * 0x2545f4914f6cdd1dL) >>> 59);
    }

    /** FNV-1a (64 bits) over all keys and then all values. */
    String digest() {
        long hash = 0xcbf29ce484222325L;
        for (byte[][] list : new byte[][][] {keys, values}) {
            for (byte[] bytes : list) {
                for (byte b : bytes) {
                    hash = (hash ^ (b & 0xff)) * 0x100000001b3L;
                }
            }
        }
        return String.format("%016x", hash);
    }

    /** When events are due. */
    static final class Pace {
        private final long began = System.nanoTime();
        /** Nanoseconds between two events; 0: none. */
        private final long interval;
        /** The furthest that the load was behind its rate, in nanoseconds. */
        long behind;

        Pace(long rate, long lanes) {
            interval = rate == 0 ? 0 : (long) (1e9 * lanes / rate);
        }

        /** Returns when event number n of the lane is due. */
        void await(long n) throws InterruptedException {
            while (interval != 0) {
                long early = n * interval - (System.nanoTime() - began);
                if (early <= TICK / 2) {
                    behind = Math.max(behind, -early);
                    return;
                }
                java.util.concurrent.locks.LockSupport.parkNanos(Math.max(early, TICK));
            }
        }
    }
}
