//! `DiskStorage`: keeps batches on disk, in order, until Kafka takes them. What was answered with Ok survives the process
//! and a power loss; what was answered with an error never comes back. [`Spool`] looks at one without changing it.
//!
//! # The format, version 1
//!
//! **What lies there.** Directories have mode 0700, files 0600. Every number is big-endian.
//!
//! | file | what |
//! |---|---|
//! | `lock` | flock'ed by the process that uses the spool, and names it |
//! | `format` | `kafka-batcher spool 1`: the version; another is refused |
//! | `reserve` | bytes kept back, given up when the disk is full, so that the spool can drain |
//! | `topics/T/<20 digits>.log` | a segment of the log of topic T, named by its first position |
//! | `topics/T/checkpoint` | through which position each partition is settled: a hint |
//! | `topics/T/dead-letters/<20 digits>.log` | events that Kafka will never take, in the same format |
//! | `topics/T/<20 digits>.<byte>.damaged` | damaged bytes, kept aside; nothing reads them |
//! | `*.tmp`, `*.cleaned` | unfinished replacements; removed at the next start |
//!
//! **Segments** are Kafka's: record batches (magic 2) one behind another, which DumpLogSegments reads. A batch is on disk as it
//! goes on the wire, but for two fields outside its CRC: the base offset is the *position* of its first event, the partition
//! leader epoch is the partition (-1: the unassigned lane). All partitions of a topic share one log, and one fdatasync.
//!
//! **Control batches.** Neither field is under the CRC, so each group commit ends with a batch of the storage's own. It is an
//! ordinary uncompressed batch with partition -2, known by producer id -1 *and producer epoch -2* (both under the CRC; no batch
//! of events has them). It holds as many positions as it has records. A record's key is two bytes, type and version (1 so
//! far); the value:
//!
//! | type | at | bytes | field |
//! |---|---:|---:|---|
//! | 1 group, always first | 0 | 8 | base of the segment it stands in |
//! | | 8 | 8 | byte of the segment at which this control batch begins |
//! | | 16 | 8 | its own position |
//! | | 24 | 8 | *from*: it accounts for all positions from here to its own |
//! | | 32 | 4 | n, the number of members: the batches directly before it, in order |
//! | | 36 | 26 n | each: position 8, partition 4, events 4, length 4, CRC 4, index of its origin 2 (65535: never sent) |
//! | | | 2 | m, the number of origins |
//! | | | | each: length of the cluster id 2 (65535: not known), cluster id, topic id 16 |
//! | 2 numbers | 0 | 8 | position of the first of some events within one saved batch |
//! | | 8 | 4 | partition |
//! | | 12 | 4 | how many events |
//! | | 16 | 4 | CRC of that batch: other bytes are not meant |
//! | | 20 | 8 | producer id |
//! | | 28 | 2 | epoch |
//! | | 30 | 4 | sequence of the first |
//! | | 34 | 2 | index of the origin in this control batch |
//! | 3 hole | 0 | 20 | as in 2: these events are dead letters |
//! | 4 regrouped | 0 | 8 | everything of the unassigned lane below this position is settled |
//! | 5 partitions | 0 | 4 | how many partitions the topic has |
//! | 6 settled | 0 | 4 | partition |
//! | | 4 | 8 | everything of it below this position is settled |
//! | 7 dropped | 0 | 4 | partition |
//! | | 4 | 8 | what of it lies from this position |
//! | | 12 | 8 | up to this one was given up, undelivered |
//!
//! The numbers that a batch was saved with are its own stamp with the origin of the group's table; later control batches win.
//! A control batch names the place where it stands, so that a copy of one in an event's payload vouches for nothing. A group
//! without its valid control batch was never acknowledged to anybody: so many batches, or a regrouping, are one step.
//!
//! Each group also says what the log does not know yet: how far partitions were settled since the last (so that hints become
//! durable with the next save), and how many partitions there are. Of log and checkpoint the one that goes further holds; of the
//! number of partitions, the checkpoint's if it was written behind the log's last word on it.
//!
//! A control batch's time is when its batches were saved (told to the tenth of a second, rounded down). Of a segment that was
//! cleaned, where batches of many groups share one control batch, its first record has a header `saved`: n times position 8
//! and milliseconds since the Unix epoch 8, each for what lies there and behind it. Where a control batch is damaged, nobody
//! knows when its batches were saved. The same record has a header `given` where users gave events their times: n times position
//! 8 and count 4 of such events among the listed ones. (A time that the broker refuses is a dead letter if the user gave it, and
//! held, restamped or a dead letter if we did.)
//!
//! **The checkpoint**: `kbspoolc`, version 4 (1), next position 8, end of the log 8, partitions 4 (-1: not known), n 4, n times
//! partition 4 and position 8, CRC-32C of all that 4. Replaced whole: `.tmp`, fsync, rename, fsync of the directory. Written
//! before anything is deleted, after 64 commits or 1 MiB settled, after a second without work, at the end, and when somebody
//! asks for a durable commit.
//!
//! **Writing.** One thread; it drains its queue (up to 8 MiB) into one write and one fdatasync a topic. A new segment is made,
//! fsynced and its directory fsynced before it is used; each start begins one, above every position in log, checkpoint and names. A
//! file on which a write or an fsync failed is never written again: what was not durable is cut off, and the next segment is
//! named by the first position that is not durable. What an older segment holds at or above the base of the next does not
//! exist. What could not be cut is cut later, and no segment behind it is deleted before it is. Limit: a disk that refuses the
//! cut *and* the new segment may bring the failed group back after a crash; it is then sent once more.
//! Each group commit looks whether its file still has a name: in a directory that somebody removed nothing is durable. The write
//! fails; the next makes the directory anew and takes hold of it, unless another process has.
//! With `always`, where nobody reads what is written as long as all is well, the topic's log is written past the page cache (`O_DIRECT`, on
//! Linux, where the file system can): by whole blocks of 4096 bytes, 1 MiB at once, the last block filled up with zeros until more comes. They
//! are cut off, durably, before the next segment begins and at an orderly end; where that fails it is told, and they stay. Behind a process
//! that was killed they lie until its topic is opened again. DumpLogSegments stops at them. Replay of a backlog reads from the disk.
//!
//! **Recovery** reads every byte and trusts none.
//!
//! - The walk looks for control batches; what a valid one lists is checked by its CRC where it says it lies. So a damaged
//!   batch costs itself alone, and is named: file, byte, partition, positions, events.
//! - Where a batch's header disagrees with its control batch outside the CRC (position, length, partition, magic, CRC field),
//!   the control batch wins: the header is healed when the batch is read, and told.
//! - A damaged control batch in the middle: its batches are kept if their CRCs hold and their headers continue the row of
//!   positions without a gap; where their numbers were given is then not known, and what else it said is lost. Told.
//! - Behind the last valid group: whole batches and the beginning of one, or zeros, are what a crash leaves; cut in silence.
//!   Anything else is told and kept aside before it is cut: damage and a write that a power loss interrupted look alike. What
//!   cannot be kept aside (a full disk) stays where it is, and costs nothing further: the next segment's name says so.
//! - Fewer zeros than a block has, up to a block's end, are what fills it up, and nothing is missing there. Limit: a group that a disk
//!   lost from there after it had called it durable is not told, where the zeros could not be cut off or the segment ended with a block.
//! - A regrouping is a group of its own. Is it the last of the log, of which the checkpoint knows nothing, and not whole, so it did
//!   not happen: a disk writes in the order that it likes, and the unassigned lane still has its events. Further in front, what
//!   it says of the lane is not believed either: what the lane still holds comes twice rather than not at all. Told.
//! - What the checkpoint covers cannot be damage; what may have been anybody's is covered when it covers every partition and the
//!   unassigned lane. Entries above the end of the log are cut back and told, unless the log was deleted when they were written.
//! - What the disk does not give, read block by block, is zeros and told; at the end of the log it is not cut off, and no position in
//!   it is given again, so that it comes back when the disk gives it. Replay takes a batch for damaged that the disk refused five
//!   times while it gives other bytes of that file. A checkpoint that cannot be read is a damaged one. Who only looks passes over
//!   a file that cannot be opened, and names it.
//! - Who looks beside a writer reads the checkpoint first, then lists the segments, and again if they changed meanwhile, or if the last one
//!   ends with a block and looks damaged otherwise than before: that block may be written just then.
//! - What is kept is fsynced before it is called durable, and before a file goes whose name said where another ends.
//!
//! **Deletion and cleaning.** A segment of which nothing waits is deleted; the last one only when nothing of the topic waits.
//! One of which less than half waits is cleaned once replay has passed it; where room is short, one of which a quarter does
//! not wait: the live batches at their positions and a control batch in the place of the segment's last one, in `.cleaned`,
//! fsync, rename, fsync of the directory. What control batches of such segments say of events that are still there is written
//! again first: of a batch all that is said of it, in order, since one word alone would come behind those that overrule it;
//! how far each partition is settled, as long as anything below lies in the log; how many partitions there are. So a newer word
//! never goes before an older one about the same, and a lost checkpoint brings nothing back that was known otherwise. Giving events up begins a new segment where room is short, so that the one that was being written can go too.

mod bytes;
mod checkpoint;
mod control;
mod dead_letters;
#[cfg(target_os = "linux")]
mod direct;
mod files;
mod fs;
mod index;
mod load;
mod log;
mod place;
mod reader;
mod recovery;
mod resend;
mod scan;
mod settings;
#[cfg(test)]
mod tests;
mod threads;
mod tidy;
mod times;
mod topic;
mod walk;
mod work;
mod writer;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use kafka_batcher_core::{
    Backlog, DeadLetter, RecordBatch, Renumbered, StorageError, ToSave, TopicPartition,
};
use tokio::sync::{Semaphore, oneshot};

use self::dead_letters::DeadLetters;
use self::fs::{Fs, RealFs, failed};
pub use self::load::Damage;
use self::load::missing;
use self::place::{SpoolDir, check_topic};
use self::recovery::recover;
pub use self::resend::Resent;
pub use self::scan::{BatchScan, SegmentScan, Spool, TopicScan};
pub use self::settings::DiskSettings;
use self::threads::{Ended, closed, contained, serve, spawn};
use self::topic::{State, Topic};
use self::work::Work;
use self::writer::{Job, Owned, Writer};
use super::{DroppedLetters, FsyncObserver, Read, Recovered, StorageUsage, TempStorage};
use crate::producer::BoxFuture;

/// The headers of a dead letter that tell why it is one. They stand behind the event's own.
pub mod dead_letter_headers {
    pub use super::dead_letters::{CODE, MESSAGE, POSITION, REASON, TIME};
}

/// How long whoever drops a storage that was not closed waits for it.
const DROPPING: Duration = Duration::from_secs(2);

/// Keeps batches in a directory.
pub struct DiskStorage {
    place: Arc<SpoolDir>,
    topics: Mutex<HashMap<String, Arc<Topic>>>,
    /// Topics that are being recovered.
    opening: Arc<Mutex<HashSet<String>>>,
    /// Who may read a log: see [`RECOVERIES`].
    recoveries: Arc<Semaphore>,
    threads: Mutex<Option<Threads>>,
    writer_ended: Ended,
    reader_ended: Ended,
}

/// So many topics are recovered at a time: each holds a segment in memory, 64 MiB unless set and up to 1 GiB. One reads while
/// the other checks.
const RECOVERIES: usize = 2;

/// What waits for threads to end.
type Join = Box<dyn FnOnce() + Send>;

/// The threads, and how to reach them; gone once closed.
struct Threads {
    writer: mpsc::Sender<Job>,
    reader: mpsc::Sender<reader::Job>,
    handles: Vec<JoinHandle<()>>,
}

impl fmt::Debug for DiskStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskStorage").field("dir", &self.place.settings.dir).finish_non_exhaustive()
    }
}

impl DiskStorage {
    /// Takes hold of the directory, which is made if it is not there.
    ///
    /// Blocks for a moment: it looks at the directory, and writes the reserve where there is none.
    ///
    /// # Errors
    /// [`StorageError::Failed`]: another process holds the directory (it is named), it has the format of a newer version, or
    /// the disk fails. [`StorageError::Full`]: it cannot be made for want of room.
    pub fn new(settings: DiskSettings) -> Result<Self, StorageError> {
        DiskStorage::with(Arc::new(RealFs), settings, true)
    }

    fn with(fs: Arc<dyn Fs>, settings: DiskSettings, lock: bool) -> Result<Self, StorageError> {
        let place = Arc::new(SpoolDir::open(fs, settings, lock)?);
        let (writer, jobs) = mpsc::channel();
        let (reader, reads) = mpsc::channel();
        let (writing, reading) = (Writer::new(place.clone()), place.clone());
        let (writes, writer_ended) = serve("spool-writer", move || writing.run(&jobs))?;
        let (reads, reader_ended) = serve("spool-reader", move || reader::run(&reading, &reads))?;
        let threads = Mutex::new(Some(Threads { writer, reader, handles: vec![writes, reads] }));
        let recoveries = Arc::new(Semaphore::new(RECOVERIES));
        Ok(DiskStorage {
            place,
            topics: Mutex::default(),
            opening: Arc::default(),
            recoveries,
            threads,
            writer_ended,
            reader_ended,
        })
    }

    /// Asks the writer for something.
    async fn ask(&self, job: Job) -> Result<(), StorageError> {
        let asked = lock(&self.threads).as_ref().map(|threads| threads.writer.send(job).is_ok());
        match asked {
            Some(true) => Ok(()),
            Some(false) => Err(self.writer_ended.why().await),
            None => Err(closed()),
        }
    }

    fn topic(&self, name: &str) -> Result<Arc<Topic>, StorageError> {
        let topics = lock(&self.topics);
        topics.get(name).cloned().ok_or_else(|| {
            StorageError::Failed(format!(
                "the topic {name} was not opened in {}",
                self.place.settings.dir.display()
            ))
        })
    }

    async fn write(&self, topic: &str, work: Work) -> Result<Vec<u64>, StorageError> {
        let topic = self.topic(topic)?;
        let (done, answer) = oneshot::channel();
        self.ask(Job::Write { topic, work, done }).await?;
        self.writer_ended.answer(answer).await
    }

    /// Recovers a topic on a thread of its own: it may take seconds, and other topics go on meanwhile.
    async fn recover(&self, name: &str) -> Result<Recovered, StorageError> {
        check_topic(name)?;
        // Whoever was restarted asks again: the log is open, and what waits is known.
        if let Ok(topic) = self.topic(name) {
            return Ok(found(&topic.state(), &[]));
        }
        let opening = Opening::new(&self.opening, name)?;
        let (place, topic) = (self.place.clone(), name.to_owned());
        let work = move || {
            let recovered = open_topic(&place, &topic)?;
            Ok((recovered, DeadLetters::if_there(&place, &topic), opening))
        };
        let (recovered, letters, _opening) = self.on_a_thread(work).await?;
        let found = found(&recovered.state, &recovered.damage);
        let topic = Arc::new(Topic::new(name, &self.place.topic_dir(name), recovered.state));
        let owned = Owned::new(topic.clone(), recovered.log, letters);
        self.ask(Job::Adopt(Box::new(owned))).await?;
        lock(&self.topics).insert(name.to_owned(), topic);
        Ok(found)
    }

    /// Puts the dead letters of a topic back: they wait behind all other events of their partitions, without the headers
    /// that said why they were refused, and are sent by the next batcher that uses this storage. What Kafka refuses again
    /// becomes a dead letter again.
    ///
    /// To be called once what they were refused for is mended, and before a batcher uses the storage. Needs room for the
    /// letters of a segment (an eighth of [`dead_letter_bytes`](DiskSettings::dead_letter_bytes)) until they have moved. A
    /// crash meanwhile loses nothing, but may send some of them twice.
    ///
    /// ```no_run
    /// use kafka_batcher::KafkaBatcher;
    /// use kafka_batcher::storage::disk::DiskStorage;
    /// use kafka_batcher::storage::DiskSettings;
    ///
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let storage = DiskStorage::new(DiskSettings::new("/var/spool/events"))?;
    /// let resent = storage.resend_dead_letters("flights").await?;
    /// println!("{} dead letters are sent again", resent.events);
    /// let batcher = KafkaBatcher::builder(["localhost:9092"]).storage(storage).start().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// Cancel-safe: it goes on by itself.
    ///
    /// # Errors
    /// [`StorageError::Failed`]: the topic is open already, or its log cannot be read. What went wrong later stands in
    /// [`Resent::stopped`].
    pub async fn resend_dead_letters(&self, topic: &str) -> Result<Resent, StorageError> {
        check_topic(topic)?;
        if self.topic(topic).is_ok() {
            return Err(StorageError::Failed(format!(
                "the topic {topic} is open already; its dead letters can be put back before a batcher uses the storage"
            )));
        }
        let opening = Opening::new(&self.opening, topic)?;
        let (place, name) = (self.place.clone(), topic.to_owned());
        let work = move || {
            let _opening = opening;
            let recovered = open_topic(&place, &name)?;
            let damage = recovered.damage.iter().map(Damage::to_string).collect();
            let mut resent = Resent { damage, missing: missing(&recovered.damage), ..Resent::default() };
            let topic = Arc::new(Topic::new(&name, &place.topic_dir(&name), recovered.state));
            // Nobody else writes this log: the writer gets it when the topic is opened.
            let mut owned = Owned::new(topic, recovered.log, None);
            resent.stopped = resend::resend(&place, &mut owned, &mut resent).err();
            owned.log.retire();
            Ok(resent)
        };
        self.on_a_thread(work).await
    }

    /// Does what may take seconds on a thread of its own, when its turn has come. Who closes the storage waits for it.
    async fn on_a_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let turn = self.recoveries.clone().acquire_owned().await.map_err(|_| closed())?;
        let (done, answer) = oneshot::channel();
        let run = move || {
            let _turn = turn;
            let _ = done.send(contained("spool-recovery", work).and_then(|worked| worked));
        };
        {
            let mut threads = lock(&self.threads);
            let threads = threads.as_mut().ok_or_else(closed)?;
            threads.handles.retain(|handle| !handle.is_finished());
            threads.handles.push(spawn("spool-recovery", run)?);
        }
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Waits for the threads on one that `start` starts, or, if it cannot, on this one: whoever lets go of the directory while
    /// the writer still writes has it written by two.
    async fn close_with(&self, start: impl FnOnce(Join) -> Result<(), StorageError>) {
        let handles = Arc::new(Mutex::new(self.end()));
        let join = |handles: &Mutex<Vec<JoinHandle<()>>>| {
            for handle in std::mem::take(&mut *lock(handles)) {
                let _ = handle.join();
            }
        };
        let (done, ended) = oneshot::channel();
        let elsewhere = handles.clone();
        let started = start(Box::new(move || {
            join(&elsewhere);
            let _ = done.send(());
        }));
        match started {
            Ok(()) => drop(ended.await),
            Err(_) => join(&handles),
        }
        // Another process, or another batcher of this one, may have the directory now.
        self.place.let_go();
    }

    fn end(&self) -> Vec<JoinHandle<()>> {
        let threads = lock(&self.threads).take();
        threads.map_or_else(Vec::new, |threads| {
            // The writer ends after what was asked of it before, the reader when nobody can ask any more.
            let _ = threads.writer.send(Job::Close);
            threads.handles
        })
    }
}

/// That a topic is being recovered, for as long as this lives.
struct Opening {
    all: Arc<Mutex<HashSet<String>>>,
    name: String,
}

impl Opening {
    fn new(all: &Arc<Mutex<HashSet<String>>>, name: &str) -> Result<Self, StorageError> {
        if !lock(all).insert(name.to_owned()) {
            return Err(StorageError::Failed(format!("the topic {name} is being opened already")));
        }
        Ok(Opening { all: all.clone(), name: name.to_owned() })
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.name);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is told of a topic when it is opened.
fn found(state: &State, damage: &[Damage]) -> Recovered {
    let backlogs = state.lanes.keys().map(|partition| (*partition, state.backlog(*partition)));
    let backlogs = backlogs.filter(|(_, backlog)| backlog.events > 0).collect();
    let missing = missing(damage);
    // What costs something first.
    let (costs, free): (Vec<&Damage>, Vec<&Damage>) = damage.iter().partition(|damage| damage.events > 0);
    let damage = costs.into_iter().chain(free).map(Damage::to_string).collect();
    Recovered { backlogs, partitions: state.partitions, damage, missing }
}

fn open_topic(place: &SpoolDir, name: &str) -> Result<recovery::Recovered, StorageError> {
    let dir = place.topic_dir(name);
    let fs = &place.fs;
    fs.create_dir(&dir).map_err(|error| failed("create", &dir, &error))?;
    if let Some(topics) = dir.parent() {
        let names = fs.list(topics).map_err(|error| failed("list", topics, &error))?;
        if !names.iter().any(|other| other == name) {
            return Err(StorageError::Failed(format!(
                "{} does not tell upper from lower case, and another topic has the directory of {name}; use another file system",
                topics.display()
            )));
        }
        fs.sync_dir(topics).map_err(|error| failed("fsync", topics, &error))?;
    }
    let recovered = recover(place, &dir, place.segment_bytes)?;
    Ok(recovery::Recovered { log: recovered.log.directly(place.settings.direct_io), ..recovered })
}

impl Drop for DiskStorage {
    /// Waits until what was asked of it is done, but not for long: it may be a runtime's thread that drops it, and the disk
    /// may not answer, or a long recovery be under way. What is left goes on by itself, and holds the directory until then.
    fn drop(&mut self) {
        let handles = self.end();
        let (done, ended) = mpsc::channel();
        let join = move || {
            for handle in handles {
                let _ = handle.join();
            }
            let _ = done.send(());
        };
        if spawn("spool-closing", join).is_ok() {
            let _ = ended.recv_timeout(DROPPING);
        }
    }
}

impl TempStorage for DiskStorage {
    fn open<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Recovered, StorageError>> {
        Box::pin(self.recover(topic))
    }

    fn keep_partitions<'a>(
        &'a self,
        topic: &'a str,
        partitions: i32,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move { self.write(topic, Work::Partitions(partitions)).await.map(drop) })
    }

    fn save_batch<'a>(
        &'a self,
        partition: &'a TopicPartition,
        batches: Vec<ToSave>,
    ) -> BoxFuture<'a, Result<Vec<u64>, StorageError>> {
        Box::pin(async move {
            let work = Work::Save { partition: partition.partition, batches };
            self.write(&partition.topic, work).await
        })
    }

    fn renumber<'a>(
        &'a self,
        partition: &'a TopicPartition,
        numbers: Vec<Renumbered>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            let work = Work::Renumber { partition: partition.partition, numbers };
            self.write(&partition.topic, work).await.map(drop)
        })
    }

    fn is_empty<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<bool, StorageError>> {
        Box::pin(async move { Ok(self.backlog(partition).await?.events == 0) })
    }

    fn backlog<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<Backlog, StorageError>> {
        Box::pin(async move { Ok(self.topic(&partition.topic)?.state().backlog(partition.partition)) })
    }

    fn read<'a>(
        &'a self,
        partition: &'a TopicPartition,
        from: u64,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Read, StorageError>> {
        Box::pin(async move {
            let topic = self.topic(&partition.topic)?;
            let (done, answer) = oneshot::channel();
            let job = reader::Job { topic, partition: partition.partition, from, max_bytes, done };
            let asked = lock(&self.threads).as_ref().map(|threads| threads.reader.send(job).is_ok());
            match asked {
                Some(true) => self.reader_ended.answer(answer).await,
                Some(false) => Err(self.reader_ended.why().await),
                None => Err(closed()),
            }
        })
    }

    fn commit<'a>(
        &'a self,
        partition: &'a TopicPartition,
        through: u64,
        durable: bool,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            let topic = self.topic(&partition.topic)?;
            let wake = {
                let mut state = topic.state();
                // What is not saved yet cannot be settled.
                let through = through.min(state.next);
                state.settle(partition.partition, through);
                state.commits += 1;
                // The writer looks after work by itself; it is woken when it may sleep without knowing of any.
                state.commits == 1 || state.commits % 64 == 0
            };
            if durable {
                let (done, answer) = oneshot::channel();
                self.ask(Job::Checkpoint { topic, done }).await?;
                return self.writer_ended.answer(answer).await.map(drop);
            }
            if wake {
                self.ask(Job::Settled).await?;
            }
            Ok(())
        })
    }

    fn reject<'a>(
        &'a self,
        partition: &'a TopicPartition,
        letters: Vec<DeadLetter>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            let work = Work::Reject { partition: partition.partition, letters };
            self.write(&partition.topic, work).await.map(drop)
        })
    }

    fn take_dropped_letters(&self, topic: &str) -> DroppedLetters {
        self.topic(topic).map(|topic| std::mem::take(&mut topic.state().dropped_letters)).unwrap_or_default()
    }

    fn drop_events<'a>(
        &'a self,
        partition: &'a TopicPartition,
        from: u64,
        through: u64,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            let work = Work::Drop { partition: partition.partition, from, through };
            self.write(&partition.topic, work).await.map(drop)
        })
    }

    fn regroup<'a>(
        &'a self,
        topic: &'a str,
        through: u64,
        batches: Vec<(i32, RecordBatch)>,
    ) -> BoxFuture<'a, Result<Vec<u64>, StorageError>> {
        Box::pin(self.write(topic, Work::Regroup { through, batches }))
    }

    fn usage(&self) -> Option<StorageUsage> {
        // At most one waits, however long the disk keeps the writer.
        if !self.place.look_asked.swap(true, Ordering::Relaxed)
            && let Some(threads) = lock(&self.threads).as_ref()
        {
            let _ = threads.writer.send(Job::Look);
        }
        Some(self.place.usage())
    }

    fn observe_fsyncs(&self, told: FsyncObserver) {
        self.place.observe_fsyncs(told);
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.close_with(|join| spawn("spool-closing", join).map(drop)).await;
        })
    }
}
