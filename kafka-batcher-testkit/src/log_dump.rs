//! Kafka's DumpLogSegments, parsed: a foreign judge of every byte of a log on disk.
//!
//! Runs with `--deep-iteration` and without `--print-data-log`: payloads may hold anything, also what looks like a line of
//! the dump. Refuses a log with a batch that is not `isvalid: true`, a batch whose records are not as many as its header
//! says, and any line that it does not know: the tool reports damage in words.

use std::path::{Path, PathBuf};

use crate::availability::script;
use crate::cluster::run_program;
use crate::{Error, RealKafka};

/// What DumpLogSegments saw, file by file. Every batch in it is valid.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogDump {
    /// In the order in which the files were given; segments of a partition by base offset.
    pub batches: Vec<Batch>,
}

/// One record batch. Fields as the tool names them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Kafka's own")]
pub struct Batch {
    /// The segment file it stands in.
    pub file: PathBuf,
    /// The partition, from the folder's name (`topic-3`); `None` elsewhere.
    pub partition: Option<i32>,
    pub base_offset: i64,
    pub last_offset: i64,
    pub count: u32,
    /// -1: none.
    pub base_sequence: i32,
    pub last_sequence: i32,
    /// -1: none.
    pub producer_id: i64,
    pub producer_epoch: i32,
    pub partition_leader_epoch: i32,
    pub is_transactional: bool,
    pub is_control: bool,
    /// Bytes from the file's start.
    pub position: u64,
    /// `CreateTime` or `LogAppendTime`.
    pub timestamp_type: String,
    /// The largest of the batch, milliseconds since 1970.
    pub timestamp: i64,
    /// Bytes, header included.
    pub size: u64,
    pub magic: u8,
    /// `none`, `gzip`, `snappy`, `lz4`, `zstd`.
    pub compress_codec: String,
    pub crc: u32,
}

impl LogDump {
    /// Dumps segment files, Kafka's or any in its format. Call it while nobody writes to them: a half-written batch is an
    /// error.
    ///
    /// # Errors
    /// The tool's words; [`Error::BadLog`] with the line for whatever is not as it should be.
    pub fn of_files(files: &[PathBuf]) -> Result<LogDump, Error> {
        let mut all = LogDump::default();
        // An argument may have 128 KiB on Linux.
        for some in files.chunks(500) {
            let names: Vec<String> = some.iter().map(|f| f.display().to_string()).collect();
            let mut command = script("tool");
            command.args(["kafka.tools.DumpLogSegments", "--deep-iteration", "--files", &names.join(",")]);
            let output = run_program(command, &[])?;
            all.batches.extend(LogDump::parse(&String::from_utf8_lossy(&output))?.batches);
        }
        Ok(all)
    }

    /// Parses the tool's output.
    ///
    /// # Errors
    /// [`Error::BadLog`] with the line for whatever is not as it should be.
    pub fn parse(text: &str) -> Result<LogDump, Error> {
        let mut dump = LogDump::default();
        let mut file = PathBuf::new();
        let mut records = 0;
        for line in text.lines() {
            let bad = |why: &str| Error::BadLog(format!("{}: {why}: {line}", file.display()));
            if let Some(name) = line.strip_prefix("Dumping ") {
                dump.check_records(records)?;
                file = PathBuf::from(name);
                // The check above was of the last file's last batch.
                records = dump.batches.last().map_or(0, |b| b.count);
            } else if line.starts_with("baseOffset: ") {
                dump.check_records(records)?;
                let (batch, valid) = Batch::parse(&file, line).ok_or_else(|| bad("not understood"))?;
                if !valid {
                    return Err(bad("not valid"));
                }
                dump.batches.push(batch);
                records = 0;
            } else if line.starts_with("| offset: ") {
                records += 1;
            } else if !line.is_empty() && !line.starts_with("Log starting offset: ") {
                return Err(bad("DumpLogSegments says"));
            }
        }
        dump.check_records(records)?;
        Ok(dump)
    }

    /// The batches of one partition.
    pub fn partition(&self, partition: i32) -> impl Iterator<Item = &Batch> {
        self.batches.iter().filter(move |b| b.partition == Some(partition))
    }

    /// The records in all batches, control batches left out.
    pub fn records(&self) -> u64 {
        self.batches.iter().filter(|b| !b.is_control).map(|b| u64::from(b.count)).sum()
    }

    fn check_records(&self, seen: u32) -> Result<(), Error> {
        match self.batches.last() {
            Some(last) if last.count != seen => Err(Error::BadLog(format!(
                "{}: the batch at offset {} says {} records and holds {seen}",
                last.file.display(),
                last.base_offset,
                last.count
            ))),
            _ => Ok(()),
        }
    }
}

impl Batch {
    /// The batch of a line, and whether the tool calls it valid.
    fn parse(file: &Path, line: &str) -> Option<(Batch, bool)> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let get = |name: &str| {
            let at = words.iter().position(|w| w.strip_suffix(':') == Some(name))?;
            words.get(at + 1).copied()
        };
        let timestamp_type = ["CreateTime", "LogAppendTime"].into_iter().find(|t| get(t).is_some())?;
        let folder = file.parent().and_then(Path::file_name).and_then(|f| f.to_str());
        let batch = Batch {
            file: file.to_owned(),
            partition: folder.and_then(|f| f.rsplit_once('-')).and_then(|(_, p)| p.parse().ok()),
            base_offset: get("baseOffset")?.parse().ok()?,
            last_offset: get("lastOffset")?.parse().ok()?,
            count: get("count")?.parse().ok()?,
            base_sequence: get("baseSequence")?.parse().ok()?,
            last_sequence: get("lastSequence")?.parse().ok()?,
            producer_id: get("producerId")?.parse().ok()?,
            producer_epoch: get("producerEpoch")?.parse().ok()?,
            partition_leader_epoch: get("partitionLeaderEpoch")?.parse().ok()?,
            is_transactional: get("isTransactional")?.parse().ok()?,
            is_control: get("isControl")?.parse().ok()?,
            position: get("position")?.parse().ok()?,
            timestamp_type: timestamp_type.to_owned(),
            timestamp: get(timestamp_type)?.parse().ok()?,
            size: get("size")?.parse().ok()?,
            magic: get("magic")?.parse().ok()?,
            compress_codec: get("compresscodec")?.to_owned(),
            crc: get("crc")?.parse().ok()?,
        };
        Some((batch, get("isvalid")?.parse().ok()?))
    }
}

impl RealKafka {
    /// Dumps a topic's log: each partition on the disk of its leader. Call it when everything is acknowledged.
    ///
    /// # Errors
    /// As [`LogDump::of_files`]; a partition without leader; [`Error::NotOurs`].
    pub fn dump_log(&self, topic: &str) -> Result<LogDump, Error> {
        let mut files = Vec::new();
        for p in self.describe(topic)?.partitions {
            let node = u8::try_from(p.leader)
                .map_err(|_| Error::BadLog(format!("partition {} of {topic} has no leader", p.partition)))?;
            files.extend(self.segments(node, topic, p.partition)?);
        }
        LogDump::of_files(&files)
    }

    /// Dumps what one node holds of a topic's partition, whoever leads it.
    ///
    /// # Errors
    /// As [`LogDump::of_files`]; no such folder; [`Error::NotOurs`].
    pub fn dump_replica(&self, node: u8, topic: &str, partition: i32) -> Result<LogDump, Error> {
        LogDump::of_files(&self.segments(node, topic, partition)?)
    }

    /// Cuts the last `batches` batches off each partition's log on a node's disk, as a disk does that lost what was not
    /// fsynced when the power failed (Kafka itself does not fsync). Call it while the node is down after a KILL: at its next
    /// start it reads the log again, and knows of each producer what the log says. Returns how many events went.
    ///
    /// # Errors
    /// As [`LogDump::of_files`], or a file that cannot be cut.
    pub fn cut_log(&self, node: u8, topic: &str, partitions: i32, batches: usize) -> Result<u64, Error> {
        let mut gone = 0;
        for partition in 0..partitions {
            let dir = self.partition_dir(node, topic, partition)?;
            let Some(file) = self.segments(node, topic, partition)?.pop() else { continue };
            let dump = LogDump::of_files(std::slice::from_ref(&file))?.batches;
            let Some(cut) = dump.get(dump.len().saturating_sub(batches)..).filter(|cut| !cut.is_empty())
            else {
                continue;
            };
            gone += cut.iter().map(|batch| u64::from(batch.count)).sum::<u64>();
            let failed = || Error::io(format!("cannot cut {}", file.display()));
            let log = std::fs::OpenOptions::new().write(true).open(&file).map_err(failed())?;
            log.set_len(cut.iter().map(|batch| batch.position).min().unwrap_or(0)).map_err(failed())?;
            // What else would remember: the indexes, and the snapshots of producers.
            for entry in std::fs::read_dir(&dir).map_err(failed())? {
                let path = entry.map_err(failed())?.path();
                if path.extension().is_some_and(|e| e == "index" || e == "timeindex" || e == "snapshot") {
                    std::fs::remove_file(&path).map_err(failed())?;
                }
            }
        }
        Ok(gone)
    }

    fn partition_dir(&self, node: u8, topic: &str, partition: i32) -> Result<PathBuf, Error> {
        Ok(self.node_dir(node)?.join("data").join(format!("{topic}-{partition}")))
    }

    /// The log segments of a partition on a node's disk, oldest first.
    ///
    /// # Errors
    /// No such folder; [`Error::NotOurs`].
    pub fn segments(&self, node: u8, topic: &str, partition: i32) -> Result<Vec<PathBuf>, Error> {
        let dir = self.partition_dir(node, topic, partition)?;
        let failed = || Error::io(format!("cannot list {}", dir.display()));
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            if path.extension().is_some_and(|e| e == "log") {
                files.push(path);
            }
        }
        // Twenty digits of base offset: the order of names is the order of offsets.
        files.sort();
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // As Kafka 4.1.0 prints it.
    const GOOD: &str = "\
Dumping /d/t-x-1/00000000000000000000.log
Log starting offset: 0
baseOffset: 0 lastOffset: 1 count: 2 baseSequence: 5 lastSequence: 6 producerId: 7 producerEpoch: 1 partitionLeaderEpoch: 3 isTransactional: false isControl: false deleteHorizonMs: OptionalLong.empty position: 0 CreateTime: 1795440045050 size: 116 magic: 2 compresscodec: zstd crc: 2927950935 isvalid: true
| offset: 0 CreateTime: 1795440045050 keySize: 2 valueSize: 2 sequence: 5 headerKeys: [a,c]
| offset: 1 CreateTime: 1795440045050 keySize: -1 valueSize: 6 sequence: 6 headerKeys: []
Dumping /d/t-x-0/00000000000000000000.log
Log starting offset: 0
Dumping /d/t-x-2/00000000000000000000.log
Log starting offset: 0
baseOffset: 4 lastOffset: 4 count: 1 baseSequence: -1 lastSequence: -1 producerId: 1 producerEpoch: 1 partitionLeaderEpoch: 0 isTransactional: true isControl: true deleteHorizonMs: OptionalLong[5] position: 271 LogAppendTime: 9 size: 78 magic: 2 compresscodec: none crc: 1702841345 isvalid: true
| offset: 4 LogAppendTime: 9 keySize: 4 valueSize: 6 sequence: -1 headerKeys: [] endTxnMarker: ABORT coordinatorEpoch: 0
";

    #[test]
    fn every_field_of_a_batch_is_read() {
        let dump = LogDump::parse(GOOD).expect("a good dump");
        assert_eq!(dump.records(), 2, "the control batch is no record");
        let first = dump.partition(1).next().expect("a batch");
        let expected = Batch {
            file: PathBuf::from("/d/t-x-1/00000000000000000000.log"),
            partition: Some(1),
            base_offset: 0,
            last_offset: 1,
            count: 2,
            base_sequence: 5,
            last_sequence: 6,
            producer_id: 7,
            producer_epoch: 1,
            partition_leader_epoch: 3,
            is_transactional: false,
            is_control: false,
            position: 0,
            timestamp_type: "CreateTime".to_owned(),
            timestamp: 1_795_440_045_050,
            size: 116,
            magic: 2,
            compress_codec: "zstd".to_owned(),
            crc: 2_927_950_935,
        };
        assert_eq!(*first, expected);
        let control = dump.partition(2).next().expect("a batch");
        assert_eq!((control.is_control, control.timestamp_type.as_str()), (true, "LogAppendTime"));
    }

    #[test]
    fn a_batch_that_is_not_valid_is_an_error() {
        let text = GOOD.replacen("isvalid: true", "isvalid: false", 1);
        let error = LogDump::parse(&text).expect_err("invalid").to_string();
        assert!(error.contains("not valid") && error.contains("t-x-1"), "{error}");
    }

    #[test]
    fn a_batch_with_fewer_or_more_records_than_it_says_is_an_error() {
        for (from, to) in [("count: 2", "count: 3"), ("count: 2", "count: 1"), ("count: 1", "count: 2")] {
            let error = LogDump::parse(&GOOD.replacen(from, to, 1)).expect_err("miscounted").to_string();
            assert!(error.contains("records and holds"), "{error}");
        }
    }

    #[test]
    fn a_word_of_damage_from_the_tool_is_an_error() {
        let text = format!("{GOOD}Found 20 invalid bytes at the end of 00000000000000000000.log\n");
        assert!(LogDump::parse(&text).expect_err("damage").to_string().contains("20 invalid bytes"));
        assert!(LogDump::parse("baseOffset: 0 lastOffset: x\n").is_err());
    }
}
