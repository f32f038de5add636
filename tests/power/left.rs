//! What a power cut has left: what must be true of it, and how it becomes a directory again.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ringpull::demo::Image;
use serde_json::Value;

use super::disk::{Content, Disk, Id, Tree};
use super::support::layout::sha256;

/// The layout's name beneath the root.
pub const LAYOUT: &str = "out";

/// The annotation that names an image in `index.json`.
const NAME: &str = "org.opencontainers.image.ref.name";

/// What there may be.
pub struct Expected<'a> {
    /// The image that is pulled.
    pub new: &'a Image,
    /// `index.json` before.
    pub index_before: Option<Vec<u8>>,
    /// Names that are there before, and must stay.
    pub names_before: Vec<String>,
    /// A blob that is damaged before: its digits, and the digest of its bytes.
    pub damaged: Option<(String, String)>,
    /// Whether the disk is waited for.
    pub durable: bool,
    /// Whether the pull was reported as done.
    pub done: bool,
}

/// Checks what holds at every moment. `Err` says what does not.
pub fn check(disk: &Disk, tree: &Tree, expected: &Expected<'_>) -> Result<(), String> {
    let wrong_blobs: Vec<&str> = blobs(tree)
        .filter(|(hex, _, content)| *content.digest != format!("sha256:{hex}"))
        .filter(|(hex, _, content)| {
            let damaged = expected.damaged.as_ref();
            !damaged.is_some_and(|(name, digest)| name == hex && **digest == *content.digest)
        })
        .map(|(hex, _, _)| hex)
        .collect();
    if expected.durable && !wrong_blobs.is_empty() {
        return Err(format!("blobs are not what their names say: {wrong_blobs:?}"));
    }
    check_index(tree, expected)?;
    let recorded = verified(disk, tree).find(|(hex, _)| wrong_blobs.contains(&hex.as_str()));
    if let Some((hex, _)) = recorded {
        return Err(format!("{hex} is recorded as verified, and is not right"));
    }
    for (digest, ranges, partial) in synced(disk, tree) {
        let Some(blob) = expected.new.layers.iter().find(|blob| blob.digest.to_string() == digest)
        else {
            return Err(format!("a journal is about {digest}"));
        };
        for range in ranges {
            if partial.get(range.clone()) != blob.bytes.get(range.clone()) {
                return Err(format!("the journal lies of {range:?} of {digest}"));
            }
        }
    }
    Ok(())
}

fn check_index(tree: &Tree, expected: &Expected<'_>) -> Result<(), String> {
    let index = file(tree, "index.json");
    let layout_file = file(tree, "oci-layout");
    let fresh = expected.index_before.is_none();
    if layout_file.is_some_and(|bytes| bytes != br#"{"imageLayoutVersion":"1.0.0"}"#) {
        return if expected.durable { Err("oci-layout is torn".into()) } else { Ok(()) };
    }
    if expected.durable && layout_file.is_none() && (index.is_some() || !fresh) {
        return Err("index.json without oci-layout".into());
    }
    let Some(bytes) = index else {
        return match () {
            () if expected.done => Err("the pull was done, and index.json is gone".into()),
            () if fresh => Ok(()),
            () => Err("index.json is gone".into()),
        };
    };
    if !expected.done && Some(bytes) == expected.index_before.as_deref() {
        return Ok(());
    }
    let index: Value = match serde_json::from_slice(bytes) {
        Ok(index) => index,
        // Nothing was waited for.
        Err(_) if !expected.durable => return Ok(()),
        Err(error) => return Err(format!("index: {error}")),
    };
    let entries = || index["manifests"].as_array().into_iter().flatten();
    let named = |name: &str| entries().find(|entry| entry["annotations"][NAME] == name);
    if named("new").and_then(|entry| entry["digest"].as_str())
        != Some(&expected.new.manifest.digest.to_string())
    {
        return Err("index.json is neither old nor new".into());
    }
    if let Some(lost) = expected.names_before.iter().find(|name| named(name).is_none()) {
        return Err(format!("index.json has lost {lost}"));
    }
    let is_there = |hex: &str| blobs(tree).any(|(name, _, _)| name == hex);
    let image = [&expected.new.manifest, &expected.new.config];
    let missing =
        image.into_iter().chain(&expected.new.layers).find(|blob| !is_there(&blob.digest.hex()));
    match missing {
        Some(blob) if expected.durable => {
            Err(format!("index.json names an image without {}", blob.digest))
        }
        _ => Ok(()),
    }
}

fn file<'a>(tree: &'a Tree, name: &str) -> Option<&'a [u8]> {
    tree.files.get(&format!("{LAYOUT}/{name}")).map(|(_, content)| &content.bytes[..])
}

/// Digits, file and bytes of each blob.
fn blobs(tree: &Tree) -> impl Iterator<Item = (&str, Id, &Content)> {
    let directory = blob_directory();
    tree.files.iter().filter_map(move |(path, (id, content))| {
        Some((path.strip_prefix(&directory)?, *id, content))
    })
}

fn blob_directory() -> String {
    format!("{LAYOUT}/blobs/sha256/")
}

/// Whether a blob is there, and right.
pub fn has(tree: &Tree, digest: &str) -> bool {
    blobs(tree).any(|(_, _, content)| *content.digest == *digest)
}

/// The blobs that the record of verified ones would have believed: their digits, and their lines.
fn verified<'a>(disk: &'a Disk, tree: &'a Tree) -> impl Iterator<Item = (String, String)> + 'a {
    let record = tree.files.get(&format!("{LAYOUT}/.ringpull/verified"));
    let record =
        record.map(|(id, content)| (*id, String::from_utf8_lossy(&content.bytes).into_owned()));
    record.into_iter().flat_map(move |(id, text)| {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.into_iter().filter_map(move |line| {
            let subject = disk.verified.get(&(id, line.clone()))?;
            let mut fields = line.strip_prefix("sha256:")?.split(' ');
            let hex = fields.next()?.to_owned();
            let size: usize = fields.next()?.parse().ok()?;
            let is_it = |(name, id, content): (&str, Id, &Content)| {
                name == hex && id == *subject && content.bytes.len() == size
            };
            blobs(tree).any(is_it).then_some((hex, line))
        })
    })
}

/// What journals say is synced of partials that they are about, and what those hold.
pub fn synced<'a>(
    disk: &'a Disk,
    tree: &'a Tree,
) -> impl Iterator<Item = (String, Vec<Range<usize>>, &'a [u8])> {
    tree.files.iter().filter_map(|(path, (id, journal))| {
        let (partial, content) = tree.files.get(path.strip_suffix(".journal")?)?;
        let (lines, _) = whole_lines(&journal.bytes);
        let inode = lines.iter().rev().find_map(|line| inode_of(line))?;
        if disk.subjects.get(&(*id, inode.to_owned())) != Some(partial) {
            return None;
        }
        let digest = lines[0].split(' ').nth(2)?.to_owned();
        let range = |line: &&str| {
            let (start, end) = line.strip_prefix("synced ")?.split_once(' ')?;
            Some(start.parse().ok()?..end.parse().ok()?)
        };
        Some((digest, lines.iter().filter_map(range).collect(), &content.bytes[..]))
    })
}

/// The inode number in a journal's head.
fn inode_of(line: &str) -> Option<&str> {
    line.strip_prefix("ringpull 1 ")?.split(' ').nth(2)
}

/// The lines of a journal that count, without their checks, and what is behind them.
fn whole_lines(bytes: &[u8]) -> (Vec<&str>, &[u8]) {
    let (mut lines, mut check, mut rest) = (Vec::new(), "", bytes);
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = std::str::from_utf8(&rest[..end]).ok().and_then(|line| line.rsplit_once(' '));
        let Some((line, its)) = line.filter(|(line, its)| *its == check_of(check, line)) else {
            break;
        };
        lines.push(line);
        (check, rest) = (its, &rest[end + 1..]);
    }
    (lines, rest)
}

/// The first 16 digits of the SHA-256 of the check before, a line break, and the line.
fn check_of(before: &str, line: &str) -> String {
    sha256(format!("{before}\n{line}").as_bytes())["sha256:".len()..][..16].to_owned()
}

/// Makes a directory of it. What names files by their inodes is made to name the new ones, and a
/// journal is of another boot.
pub fn lay_out(disk: &Disk, tree: &Tree, root: &Path) {
    for directory in &tree.directories {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let mut paths: Vec<(Id, &String)> = Vec::new();
    for (path, (id, content)) in &tree.files {
        match paths.iter().find(|(other, _)| other == id) {
            Some((_, other)) => fs::hard_link(root.join(other), root.join(path)).unwrap(),
            None => fs::write(root.join(path), &*content.bytes).unwrap(),
        }
        paths.push((*id, path));
    }
    for (path, (id, content)) in &tree.files {
        let Some(partial) = path.strip_suffix(".journal") else { continue };
        let (lines, rest) = whole_lines(&content.bytes);
        let (mut text, mut check) = (String::new(), String::new());
        for line in lines {
            let line = match inode_of(line) {
                Some(inode) => {
                    let subject = disk.subjects.get(&(*id, inode.to_owned()));
                    let is_it = tree.files.get(partial).map(|(id, _)| id) == subject;
                    let new = fs::metadata(root.join(partial)).map_or(0, |file| file.ino());
                    let mut fields: Vec<&str> = line.split(' ').collect();
                    let new = if is_it { new.to_string() } else { "0".into() };
                    (fields[4], fields[5]) = (&new, "another-boot");
                    fields.join(" ")
                }
                None => line.to_owned(),
            };
            check = check_of(&check, &line);
            text.push_str(&format!("{line} {check}\n"));
        }
        fs::write(root.join(path), [text.as_bytes(), rest].concat()).unwrap();
    }
    let record = format!("{LAYOUT}/.ringpull/verified");
    let Some((_, content)) = tree.files.get(&record) else { return };
    let mut bytes = content.bytes.to_vec();
    for (hex, line) in verified(disk, tree) {
        let blob = fs::metadata(root.join(blob_directory()).join(&hex)).unwrap();
        let at = find(&bytes, line.as_bytes()).unwrap();
        let nanoseconds =
            |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        let modified = nanoseconds(blob.mtime(), blob.mtime_nsec());
        let changed = nanoseconds(blob.ctime(), blob.ctime_nsec());
        let new = format!("sha256:{hex} {} {} {modified} {changed}", blob.len(), blob.ino());
        bytes.splice(at..at + line.len(), new.into_bytes());
    }
    fs::write(root.join(record), bytes).unwrap();
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
