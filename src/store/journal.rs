//! The journal of a partial blob: which of its bytes are there, for a process that comes later.
//!
//! It lies beside the partial, as `<partial>.journal`, and is text, a record a line:
//!
//! ```text
//! ringpull 1 sha256:9f2c… 1073741824 131 6b2f…-boot 4242 0f3a…   version digest size inode boot process
//! written 0 4194304 77c1…                                        first byte, byte behind the last
//! synced 0 4194304 e09b…
//! ```
//!
//! Records are only ever appended. Each ends with a check of its own text and of the check before
//! it, so that a record counts only if all before it do: where a crash tore the journal, or a disk
//! mangled it, it ends. Whoever goes on begins with a head of his own.
//!
//! `synced` bytes were on disk before their record was written. `written` bytes were in the kernel's
//! hands: they survive the process, however it is killed, but not the machine, so they count only
//! until the next boot. Neither is a promise of what the bytes *are*: the digest is asked at the end,
//! as for all others.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::StoreError;
use super::directory::Directory;
use super::disk;
use super::extents::Extents;
use crate::image::{Algorithm, Digest};
use crate::limits::JOURNAL_SIZE_MAX;

/// What the name of a journal ends with.
pub(super) const SUFFIX: &str = ".journal";

/// First words of a journal: what it is, and the version of its form.
const VERSION: &str = "ringpull 1";

/// Where the kernel says which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Characters of a check: enough to find any accident.
const CHECK_LENGTH: usize = 16;

/// Which file a journal is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) digest: Digest,
    /// The whole blob's, in bytes.
    pub(super) size: u64,
    /// The partial's inode.
    pub(super) inode: u64,
}

/// What a journal can be believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Believed {
    /// Bytes that are there.
    pub(super) written: Extents,
    /// Those of them that are on disk.
    pub(super) synced: Extents,
    /// The process that wrote the last head.
    pub(super) process: Option<u32>,
    /// Where the next record belongs.
    end: End,
}

/// The end of what of a journal is whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct End {
    /// In bytes.
    at: u64,
    /// The last check, or nothing at the beginning.
    check: String,
}

/// What a record says of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Written,
    Synced,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Written => "written",
            Kind::Synced => "synced",
        }
    }
}

/// A journal that is being written, by whoever has the partial's lock.
#[derive(Debug)]
pub(super) struct Journal {
    directory: Arc<Directory>,
    name: String,
    subject: Subject,
    boot: Option<String>,
    /// Made with the first record.
    file: Option<Arc<File>>,
    believed: Believed,
    /// Whether the last head is this process's.
    headed: bool,
}

impl Journal {
    /// The journal of the partial `name`, to be gone on with where `believed` ends.
    pub(super) fn new(
        directory: &Arc<Directory>,
        partial: &str,
        subject: Subject,
        believed: Believed,
    ) -> Journal {
        Journal {
            directory: Arc::clone(directory),
            name: name_of(partial),
            subject,
            boot: boot(),
            file: None,
            believed,
            headed: false,
        }
    }

    /// Says who writes the partial.
    pub(super) fn open(&mut self) -> Result<(), StoreError> {
        self.append(Kind::Written, &Extents::default())
    }

    /// Records bytes. One write: it is there wholly, or a later record takes its place.
    ///
    /// # Errors
    /// The disk's. What was recorded before still counts.
    pub(super) fn append(&mut self, kind: Kind, bytes: &Extents) -> Result<(), StoreError> {
        self.believed.written.extend(bytes);
        if kind == Kind::Synced {
            self.believed.synced.extend(bytes);
        }
        let mut end = self.believed.end.clone();
        let mut text = String::new();
        let anew = end.at > JOURNAL_SIZE_MAX;
        if anew {
            end = End::default();
        }
        if anew || !self.headed {
            write_line(&mut text, &mut end, &head(&self.subject, self.boot.as_deref()));
        }
        let records = |kind: Kind, bytes: &Extents| -> Vec<String> {
            let record =
                |range: &Range<u64>| format!("{} {} {}", kind.word(), range.start, range.end);
            bytes.ranges().iter().map(record).collect()
        };
        if anew {
            for record in records(Kind::Written, &self.believed.written) {
                write_line(&mut text, &mut end, &record);
            }
            for record in records(Kind::Synced, &self.believed.synced) {
                write_line(&mut text, &mut end, &record);
            }
        } else {
            for record in records(kind, bytes) {
                write_line(&mut text, &mut end, &record);
            }
        }
        let at = if anew { 0 } else { self.believed.end.at };
        self.write(&text, at, anew)?;
        self.headed = true;
        self.believed.end = end;
        Ok(())
    }

    /// What is to be synced for the records so far to be on disk. Apart from the journal, so that others
    /// can go on with it meanwhile.
    pub(super) fn file(&self) -> Option<Arc<File>> {
        self.file.clone()
    }

    /// Forgets all that was recorded.
    pub(super) fn clear(&mut self) -> Result<(), StoreError> {
        self.believed = Believed::default();
        self.headed = false;
        self.file = None;
        self.directory.remove(&self.name).map(|_| ())
    }

    /// Writes at `at`, not at the end: what a write that failed has left there goes.
    fn write(&mut self, text: &str, at: u64, anew: bool) -> Result<(), StoreError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let file = self.directory.file_to_write(&self.name)?;
                // Not to write into what another name leads to.
                self.directory.is_name_of(&self.name, &file)?;
                Arc::new(file)
            }
        };
        let length = if anew { Ok(()) } else { truncate_behind(&file, at) };
        let written = length.and_then(|()| {
            if anew {
                disk::truncate(&file, 0)?;
            }
            disk::write_all(&file, text.as_bytes(), at)
        });
        self.file = Some(file);
        written.map_err(|error| self.failed("write", error))
    }

    fn failed(&self, action: &'static str, error: io::Error) -> StoreError {
        StoreError::io(action, &self.directory.path().join(&self.name), error)
    }
}

/// Cuts off what is behind `at`, if there is something.
fn truncate_behind(file: &File, at: u64) -> io::Result<()> {
    if file.metadata()?.len() > at { disk::truncate(file, at) } else { Ok(()) }
}

/// The name of a partial's journal.
pub(super) fn name_of(partial: &str) -> String {
    format!("{partial}{SUFFIX}")
}

/// What the journal of `partial` can be believed, which is about `subject` and whose file has
/// `length` bytes. One that is missing, foreign or lies is believed nothing, and is no error.
pub(super) fn read(
    directory: &Directory,
    partial: &str,
    subject: &Subject,
    length: u64,
) -> Believed {
    let Some(bytes) = bytes(directory, partial) else { return Believed::default() };
    let believed = parse(&bytes, subject, boot().as_deref());
    // More than the file has: whatever happened to it, this is not its journal any more.
    let is_there = |range: &Range<u64>| range.end <= length;
    if believed.written.ranges().iter().all(is_there) { believed } else { Believed::default() }
}

/// The process that writes `partial`, if its journal says.
pub(super) fn process(directory: &Directory, partial: &str) -> Option<u32> {
    let bytes = bytes(directory, partial)?;
    let mut last = None;
    for (line, _) in lines(&bytes) {
        if let Some((_, _, process)) = parse_head(line) {
            last = Some(process);
        }
    }
    last
}

/// The size of the blob that `partial` is a part of, if its journal says.
pub(super) fn blob_size(directory: &Directory, partial: &str) -> Option<u64> {
    let bytes = bytes(directory, partial)?;
    lines(&bytes).find_map(|(line, _)| parse_head(line)).map(|(subject, _, _)| subject.size)
}

fn bytes(directory: &Directory, partial: &str) -> Option<Vec<u8>> {
    use std::io::Read;
    let file = directory.file(&name_of(partial)).ok()??;
    let mut bytes = Vec::new();
    // A record may pass the bound before the journal starts anew; what is cut off costs its bytes.
    file.take(2 * JOURNAL_SIZE_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Which boot of the machine this is; `None` where the kernel does not say, and then nothing is
/// believed to be of the same.
fn boot() -> Option<String> {
    let text = std::fs::read_to_string(BOOT_ID).ok()?;
    let text = text.trim();
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| text.to_owned())
}

fn head(subject: &Subject, boot: Option<&str>) -> String {
    let Subject { digest, size, inode } = subject;
    let (boot, process) = (boot.unwrap_or("-"), std::process::id());
    format!("{VERSION} {digest} {size} {inode} {boot} {process}")
}

fn parse(bytes: &[u8], subject: &Subject, boot: Option<&str>) -> Believed {
    let mut believed = Believed::default();
    let mut same_boot = None;
    for (line, end) in lines(bytes) {
        if let Some((about, its_boot, process)) = parse_head(line) {
            if about != *subject {
                return Believed::default();
            }
            same_boot = Some(boot == Some(its_boot) && its_boot != "-");
            believed.process = Some(process);
        } else if let (Some((kind, range)), Some(same_boot)) = (parse_record(line), same_boot) {
            if range.end > subject.size {
                return Believed::default();
            }
            if kind == Kind::Synced {
                believed.synced.insert(range.clone());
            }
            if kind == Kind::Synced || same_boot {
                believed.written.insert(range);
            }
        } else {
            // Whole, and yet nothing that this version writes.
            return Believed::default();
        }
        believed.end = end;
    }
    believed
}

fn parse_head(line: &str) -> Option<(Subject, &str, u32)> {
    let mut fields = line.strip_prefix(VERSION)?.strip_prefix(' ')?.split(' ');
    let subject = Subject {
        digest: Digest::parse(fields.next()?).ok()?,
        size: number(fields.next()?)?,
        inode: number(fields.next()?)?,
    };
    let boot = fields.next()?;
    let process = u32::try_from(number(fields.next()?)?).ok()?;
    fields.next().is_none().then_some((subject, boot, process))
}

fn parse_record(line: &str) -> Option<(Kind, Range<u64>)> {
    let (word, rest) = line.split_once(' ')?;
    let kind = [Kind::Written, Kind::Synced].into_iter().find(|kind| kind.word() == word)?;
    let (start, end) = rest.split_once(' ')?;
    let range = number(start)?..number(end)?;
    (!range.is_empty()).then_some((kind, range))
}

/// Digits only: `parse` alone would take "+5".
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The lines up to the first that is not whole, without their checks; with each, where it ends.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (&str, End)> {
    let mut end = End::default();
    bytes.split_inclusive(|&byte| byte == b'\n').map_while(move |line| {
        let text = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
        let (text, check) = text.rsplit_once(' ')?;
        if check != check_of(&end.check, text) {
            return None;
        }
        end = End { at: end.at.saturating_add(line.len() as u64), check: check.to_owned() };
        Some((text, end.clone()))
    })
}

fn write_line(text: &mut String, end: &mut End, line: &str) {
    let check = check_of(&end.check, line);
    let line = format!("{line} {check}\n");
    end.at = end.at.saturating_add(line.len() as u64);
    end.check = check;
    text.push_str(&line);
}

fn check_of(before: &str, text: &str) -> String {
    let digest = Digest::of(Algorithm::Sha256, format!("{before}\n{text}").as_bytes());
    digest.hex().chars().take(CHECK_LENGTH).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SIZE: u64 = 1000;

    fn subject() -> Subject {
        Subject { digest: Digest::of(Algorithm::Sha256, b"blob"), size: SIZE, inode: 12 }
    }

    fn extents(ranges: &[Range<u64>]) -> Extents {
        let mut extents = Extents::default();
        ranges.iter().for_each(|range| extents.insert(range.clone()));
        extents
    }

    /// A journal of these lines, with checks that are right.
    fn journal(lines: &[&str]) -> Vec<u8> {
        let (mut text, mut end) = (String::new(), End::default());
        lines.iter().for_each(|line| write_line(&mut text, &mut end, line));
        text.into_bytes()
    }

    fn head_of(boot: &str) -> String {
        head(&subject(), Some(boot))
    }

    #[track_caller]
    fn check(lines: &[&str], written: &[Range<u64>], synced: &[Range<u64>]) {
        let believed = parse(&journal(lines), &subject(), Some("now"));
        assert_eq!(believed.written, extents(written), "{lines:?}");
        assert_eq!(believed.synced, extents(synced), "{lines:?}");
    }

    #[test]
    fn what_was_synced_is_believed_and_what_was_written_until_the_next_boot() {
        let (now, before) = (head_of("now"), head_of("before"));
        let (now, before) = (now.as_str(), before.as_str());
        check(&[], &[], &[]);
        check(&[now], &[], &[]);
        check(&[now, "written 0 10", "written 20 30"], &[0..10, 20..30], &[]);
        check(&[now, "written 0 10", "synced 0 5"], &[0..10], &[0..5]);
        check(&[before, "written 0 10", "synced 0 5"], &[0..5], &[0..5]);
        check(&[before, "synced 0 5", now, "written 5 9"], &[0..9], &[0..5]);
        check(&[now, "written 0 5", before, "written 5 9", now], &[0..5], &[]);
        check(&[&head(&subject(), None), "written 0 10"], &[], &[]);
        let unknown = parse(&journal(&[now, "written 0 10"]), &subject(), None);
        assert!(unknown.written.is_empty(), "nobody knows which boot this is");
    }

    #[test]
    fn a_journal_that_lies_or_is_foreign_is_believed_nothing() {
        let now = head_of("now");
        let now = now.as_str();
        let good = "synced 0 500";
        for bad in [
            "synced 0 1001",
            "written 999 1001",
            "synced 5 5",
            "synced 6 5",
            "synced +5 6",
            "synced 5",
            "synced 5 6 7",
            "erased 5 6",
            "",
            "ringpull 2 x",
        ] {
            check(&[now, good, bad], &[], &[]);
            check(&[now, good, bad, now, good], &[], &[]);
        }
        // Without a head nobody knows what it is about.
        check(&[good], &[], &[]);
        let others = [
            Subject { digest: Digest::of(Algorithm::Sha256, b"other"), ..subject() },
            Subject { size: SIZE + 1, ..subject() },
            Subject { inode: 13, ..subject() },
        ];
        for other in others {
            check(&[&head(&other, Some("now")), good], &[], &[]);
            check(&[now, good, &head(&other, Some("now")), good], &[], &[]);
        }
    }

    /// Cut anywhere, or with any byte mangled: what is believed was written whole before.
    #[test]
    fn a_journal_torn_or_mangled_at_any_byte_makes_nothing_up() {
        let lines = [&head_of("now"), "written 0 100", "synced 0 100", "written 300 400"];
        let bytes = journal(&lines);
        let mut ends = vec![0];
        for length in 1..=lines.len() {
            ends.push(journal(&lines[..length]).len());
        }
        let whole_before = |at: usize| ends.iter().filter(|end| **end <= at).count() - 1;
        let expected = |at: usize| {
            let lines = &lines[..whole_before(at)];
            parse(&journal(lines), &subject(), Some("now"))
        };
        for at in 0..=bytes.len() {
            let cut = parse(&bytes[..at], &subject(), Some("now"));
            assert_eq!(cut, expected(at), "cut at {at}");
            assert_eq!(cut.end.at as usize, ends[whole_before(at)]);
        }
        for at in 0..bytes.len() {
            for mask in [1, 0x20, 0x80, 0xff] {
                let mut mangled = bytes.clone();
                mangled[at] ^= mask;
                let believed = parse(&mangled, &subject(), Some("now"));
                assert_eq!(believed, expected(at), "byte {at} is mangled by {mask}");
            }
        }
        for at in 0..bytes.len() {
            let zeros = [&bytes[..at], &vec![0; bytes.len() - at][..]].concat();
            let believed = parse(&zeros, &subject(), Some("now"));
            assert_eq!(believed, expected(at), "zeros from {at}");
        }
    }

    #[test]
    fn lines_that_were_left_out_or_moved_end_what_is_believed() {
        let now = head_of("now");
        let bytes = journal(&[&now, "synced 0 1", "synced 1 2", "synced 2 3"]);
        let lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
        for (order, expected) in [([0, 2, 3, 1], 0), ([0, 1, 3, 2], 1), ([0, 1, 1, 2], 1)] {
            let moved = order.map(|line| lines[line]).concat();
            let believed = parse(&moved, &subject(), Some("now"));
            assert_eq!(believed.synced.size(), expected, "{order:?}");
        }
    }

    /// A directory, a partial in it, and what it is a part of.
    fn place() -> (tempfile::TempDir, Arc<Directory>, Subject) {
        use std::os::unix::fs::MetadataExt;
        let temporary = tempfile::tempdir().unwrap();
        let directory = Arc::new(Directory::open_or_create(temporary.path(), true).unwrap());
        let file = directory.create("blob").unwrap().unwrap();
        file.set_len(SIZE).unwrap();
        let subject = Subject { inode: file.metadata().unwrap().ino(), ..subject() };
        (temporary, directory, subject)
    }

    /// Torn by a crash at any byte, and gone on with: all that was whole is believed, and all that
    /// comes later.
    #[test]
    fn a_torn_journal_is_gone_on_with() {
        let (guard, directory, subject) = place();
        let path = guard.path().join("blob.journal");
        let new = |believed| Journal::new(&directory, "blob", subject.clone(), believed);
        let mut first = new(Believed::default());
        first.append(Kind::Synced, &extents(&[0..100])).unwrap();
        first.append(Kind::Written, &extents(&[200..300, 400..500])).unwrap();
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(process(&directory, "blob"), Some(std::process::id()));
        assert_eq!(blob_size(&directory, "blob"), Some(SIZE));
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let before = read(&directory, "blob", &subject, SIZE);
            let mut second = new(before.clone());
            second.append(Kind::Written, &extents(&[600..700])).unwrap();
            second.append(Kind::Synced, &extents(&[600..650])).unwrap();
            let mut expected = before;
            expected.written.insert(600..700);
            expected.synced.insert(600..650);
            let after = read(&directory, "blob", &subject, SIZE);
            assert_eq!((after.written, after.synced), (expected.written, expected.synced), "{cut}");
        }
        // The file is shorter than that.
        assert_eq!(read(&directory, "blob", &subject, 699), Believed::default());
    }

    #[test]
    fn a_journal_that_grew_too_long_starts_anew_and_says_the_same() {
        let (guard, directory, subject) = place();
        let mut journal = Journal::new(&directory, "blob", subject.clone(), Believed::default());
        journal.append(Kind::Synced, &extents(&[0..100])).unwrap();
        journal.believed.end.at = JOURNAL_SIZE_MAX + 1;
        journal.append(Kind::Written, &extents(&[100..200, 300..400])).unwrap();
        journal.append(Kind::Written, &extents(&[500..600])).unwrap();
        let believed = read(&directory, "blob", &subject, SIZE);
        assert_eq!(believed.written, extents(&[0..200, 300..400, 500..600]));
        assert_eq!(believed.synced, extents(&[0..100]));
        assert!(std::fs::metadata(guard.path().join("blob.journal")).unwrap().len() < 1000);
    }

    #[test]
    fn a_journal_is_never_written_through_another_name() {
        let (guard, directory, subject) = place();
        std::fs::write(guard.path().join("other"), "mine").unwrap();
        let (path, other) = (guard.path().join("blob.journal"), guard.path().join("other"));
        let links: [fn(&Path, &Path) -> io::Result<()>; 2] = [
            |other, path| std::fs::hard_link(other, path),
            |other, path| std::os::unix::fs::symlink(other, path),
        ];
        for link in links {
            link(&other, &path).unwrap();
            let mut journal =
                Journal::new(&directory, "blob", subject.clone(), Believed::default());
            let error = journal.append(Kind::Written, &extents(&[0..100])).unwrap_err();
            assert!(matches!(error, StoreError::UnsafePath { .. }), "{error}");
            assert_eq!(std::fs::read(&other).unwrap(), b"mine");
            std::fs::remove_file(&path).unwrap();
        }
    }
}
