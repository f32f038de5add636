//! A disk that keeps no more than it promised: what of a file or a directory was synced, and of all
//! else whatever it likes.
//!
//! A file is the list of its writes, a directory the list of its changes. A sync makes those durable
//! that had returned before it began, once it has returned itself; of a directory its names, of a file
//! its bytes and its size, and never the name of one together with the other. What a power cut leaves
//! is all that is durable, and a choice among the rest: a [`Variant`].

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;

use super::support::layout::sha256;
use super::trace::{At, Call, Event};

/// A file or a directory, whatever its name is.
pub type Id = usize;

/// The directory that all of it is beneath.
pub const ROOT: Id = 0;

/// A disk with all that was done to it.
pub struct Disk {
    /// Where [`ROOT`] is.
    root: String,
    nodes: Vec<Node>,
    open: HashMap<i32, Open>,
    /// The time of the last event.
    pub now: usize,
    /// When names changed or something was synced, and how that is called.
    pub boundaries: Vec<(usize, String)>,
    /// When the directory of partials was synced: its beginning and its end.
    pub partials_synced: Vec<(usize, usize)>,
    /// The partial that a journal's head is about, by the inode number that it says.
    pub subjects: HashMap<(Id, String), Id>,
    /// The blob that a line of the record of verified blobs is about.
    pub verified: HashMap<(Id, String), Id>,
    /// What a file is after so many of its writes.
    contents: RefCell<HashMap<(Id, usize), Content>>,
}

#[derive(Debug, Clone)]
struct Node {
    /// The directory and the name it was made with.
    parent: Id,
    name: String,
    kind: Kind,
    /// Each sync: its beginning and its end.
    syncs: Vec<(usize, usize)>,
}

#[derive(Debug, Clone)]
enum Kind {
    File { writes: Vec<Write>, size: u64 },
    Directory { changes: Vec<Change>, names: BTreeMap<String, Id> },
}

#[derive(Debug, Clone)]
struct Write {
    done: usize,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Bytes { at: u64, bytes: Arc<Vec<u8>> },
    Size(u64),
}

/// A change of a directory.
#[derive(Debug, Clone)]
struct Change {
    done: usize,
    name: String,
    /// Absent where the name is removed.
    target: Option<Id>,
    /// Whether this is a half of a rename; the other has the same time.
    renames: bool,
}

#[derive(Debug, Clone)]
struct Open {
    node: Id,
    appends: bool,
    position: u64,
}

/// What a power cut leaves of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Nothing.
    Synced,
    /// Nothing; and each half of a rename for itself.
    SyncedByHalves,
    /// All: as if only the process had been killed.
    Everything,
    /// Names, and sizes without bytes.
    NamesAndSizes,
    /// Names alone.
    Names,
    /// Bytes, where a name leads to them.
    Bytes,
    /// All names, and writes up to some point, the last one torn.
    Torn(u64),
    /// Some of all, in some order.
    Random(u64),
    /// As a journal does it: changes of names in their order, wherever, up to the last sync at least;
    /// of each file its bytes, zeroes for them, or nothing.
    Journaled(u64),
}

/// What is on disk after a power cut.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tree {
    pub directories: BTreeSet<String>,
    pub files: BTreeMap<String, (Id, Content)>,
}

/// Bytes of a file, hashed once.
#[derive(Debug, Clone)]
pub struct Content {
    pub bytes: Arc<Vec<u8>>,
    pub digest: Arc<str>,
}

impl Content {
    fn of(bytes: Vec<u8>) -> Content {
        Content { digest: sha256(&bytes).into(), bytes: Arc::new(bytes) }
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Content) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Content {}

impl Hash for Content {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

/// What becomes of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fate {
    Kept,
    Lost,
    /// The size is kept, the bytes are not.
    Zeroed,
    /// The first bytes are kept.
    Torn(usize),
}

impl Disk {
    /// A disk with what is at `root`, all of it synced.
    pub fn with(root: &Path) -> Disk {
        let mut disk = Disk {
            root: root.to_str().unwrap().to_owned(),
            nodes: Vec::new(),
            open: HashMap::new(),
            now: 1,
            boundaries: Vec::new(),
            partials_synced: Vec::new(),
            subjects: HashMap::new(),
            verified: HashMap::new(),
            contents: RefCell::default(),
        };
        disk.add(ROOT, "", directory());
        disk.take_in(root, ROOT);
        disk.nodes.iter_mut().for_each(|node| node.syncs.push((1, 1)));
        disk
    }

    fn take_in(&mut self, path: &Path, id: Id) {
        for entry in std::fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let is_directory = entry.file_type().unwrap().is_dir();
            let child = self.add(id, &name, if is_directory { directory() } else { file() });
            self.change(id, 0, &name, Some(child), false);
            match is_directory {
                true => self.take_in(&entry.path(), child),
                // What names inodes in it, names those of before it was copied.
                false => self.put(child, 0, 0, std::fs::read(entry.path()).unwrap()),
            }
        }
    }

    fn add(&mut self, parent: Id, name: &str, kind: Kind) -> Id {
        self.nodes.push(Node { parent, name: name.to_owned(), kind, syncs: Vec::new() });
        self.nodes.len() - 1
    }

    fn change(&mut self, id: Id, done: usize, name: &str, target: Option<Id>, renames: bool) {
        let Kind::Directory { changes, names } = &mut self.nodes[id].kind else { panic!() };
        changes.push(Change { done, name: name.to_owned(), target, renames });
        match target {
            Some(target) => drop(names.insert(name.to_owned(), target)),
            None => drop(names.remove(name)),
        }
    }

    fn write(&mut self, id: Id, done: usize, at: u64, bytes: Vec<u8>) {
        self.note_subjects(id, &bytes);
        self.put(id, done, at, bytes);
    }

    fn put(&mut self, id: Id, done: usize, at: u64, bytes: Vec<u8>) {
        let Kind::File { writes, size } = &mut self.nodes[id].kind else { panic!() };
        *size = (*size).max(at + bytes.len() as u64);
        writes.push(Write { done, what: What::Bytes { at, bytes: Arc::new(bytes) } });
    }

    fn resize(&mut self, id: Id, done: usize, to: u64) {
        let Kind::File { writes, size } = &mut self.nodes[id].kind else { panic!() };
        *size = to;
        writes.push(Write { done, what: What::Size(to) });
    }

    /// Journals and the record of verified blobs name files by their inodes, which are others on a
    /// disk that is made from this one.
    fn note_subjects(&mut self, id: Id, bytes: &[u8]) {
        let Node { parent, name, .. } = &self.nodes[id];
        let (parent, name) = (*parent, name.clone());
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if let Some(partial) = name.strip_suffix(".journal") {
            for head in text.lines().filter(|line| line.starts_with("ringpull 1 ")) {
                let inode = head.split(' ').nth(4).unwrap_or_default().to_owned();
                if let Some(partial) = self.child(parent, partial) {
                    self.subjects.insert((id, inode), partial);
                }
            }
        } else if name == "verified" {
            let layout = self.nodes[parent].parent;
            let blobs = self.child(layout, "blobs").and_then(|id| self.child(id, "sha256"));
            for line in text.lines() {
                let hex = line.strip_prefix("sha256:").and_then(|rest| rest.split(' ').next());
                let blob = hex.zip(blobs).and_then(|(hex, blobs)| self.child(blobs, hex));
                if let Some(blob) = blob {
                    self.verified.insert((id, line.to_owned()), blob);
                }
            }
        }
    }

    fn child(&self, id: Id, name: &str) -> Option<Id> {
        match &self.nodes[id].kind {
            Kind::Directory { names, .. } => names.get(name).copied(),
            Kind::File { .. } => None,
        }
    }

    // --- what is done to it ----------------------------------------------------------------------

    /// Does what a process did, which has ended by now.
    pub fn replay(&mut self, events: &[Event]) {
        let base = self.now + 1;
        self.open.clear();
        // Another thread may be seen to have opened a directory before who made it is seen to return.
        let mut events: Vec<&Event> = events.iter().collect();
        events.sort_by_key(|event| match event.call {
            Call::MakeDirectory { .. } => event.began,
            _ => event.done,
        });
        for event in events {
            self.apply(base + event.began, base + event.done, &event.call);
            self.now = self.now.max(base + event.done);
        }
        self.open.clear();
        self.now += 1;
    }

    fn apply(&mut self, began: usize, done: usize, call: &Call) {
        match call {
            Call::Open { at, path, flags, fd } => {
                self.open.remove(fd);
                let Some((parent, name)) = self.locate(*at, path) else { return };
                let has = |flag: &str| {
                    let words = flags.split(|it: char| !it.is_ascii_alphanumeric() && it != '_');
                    words.into_iter().any(|word| word == flag)
                };
                let known = if name == "." { Some(parent) } else { self.child(parent, &name) };
                let node = known.unwrap_or_else(|| {
                    assert!(has("O_CREAT"), "{path} was opened, and is not there");
                    let node = self.add(parent, &name, file());
                    self.change(parent, done, &name, Some(node), false);
                    self.boundaries.push((done, format!("create {name}")));
                    node
                });
                if has("O_TRUNC") {
                    self.resize(node, done, 0);
                }
                self.open.insert(*fd, Open { node, appends: has("O_APPEND"), position: 0 });
            }
            Call::Duplicate { fd, new } => {
                if let Some(open) = self.open.get(fd).cloned() {
                    self.open.insert(*new, open);
                }
            }
            Call::Close { fd } => drop(self.open.remove(fd)),
            Call::MakeDirectory { at, path } => {
                let Some((parent, name)) = self.locate(*at, path) else { return };
                let node = self.add(parent, &name, directory());
                self.change(parent, done, &name, Some(node), false);
                self.boundaries.push((done, format!("mkdir {name}")));
            }
            Call::Write { fd, at, bytes } => {
                let Some(open) = self.open.get(fd).cloned() else { return };
                let Kind::File { size, .. } = self.nodes[open.node].kind else { panic!() };
                let end = if open.appends { size } else { open.position };
                if at.is_none() {
                    let position = end + bytes.len() as u64;
                    self.open.insert(*fd, Open { position, ..open });
                }
                self.write(open.node, done, at.unwrap_or(end), bytes.clone());
            }
            Call::Truncate { fd, size } => {
                let Some(open) = self.open.get(fd).cloned() else { return };
                self.resize(open.node, done, *size);
                let name = self.nodes[open.node].name.clone();
                self.boundaries.push((done, format!("truncate {name}")));
            }
            Call::Sync { fd } => {
                let Some(open) = self.open.get(fd) else { return };
                let node = &mut self.nodes[open.node];
                node.syncs.push((began, done));
                if node.name == "partial" {
                    self.partials_synced.push((began, done));
                }
                self.boundaries.push((done, format!("sync {}", node.name)));
            }
            Call::Rename { from, to } => {
                let Some((source, old)) = self.locate(from.0, &from.1) else { return };
                let (target, new) = self.locate(to.0, &to.1).unwrap();
                let node = self.child(source, &old).unwrap();
                self.change(source, done, &old, None, true);
                self.change(target, done, &new, Some(node), true);
                self.boundaries.push((done, format!("rename {old} {new}")));
            }
            Call::Unlink { at, path } => {
                let Some((parent, name)) = self.locate(*at, path) else { return };
                self.change(parent, done, &name, None, false);
                self.boundaries.push((done, format!("unlink {name}")));
            }
            Call::Unknown { fd, line } => {
                let ours = fd.is_none_or(|fd| self.open.contains_key(&fd));
                assert!(!ours, "the trace has a call that is not understood: {line}");
            }
        }
    }

    /// The directory and the name that a path leads to; `None` if that is not beneath the root.
    fn locate(&self, at: At, path: &str) -> Option<(Id, String)> {
        let (mut id, rest) = match at {
            Some(fd) => (self.open.get(&fd)?.node, path),
            None => (ROOT, path.strip_prefix(&self.root)?),
        };
        let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
        let Some((name, parents)) = parts.split_last() else { return Some((id, ".".into())) };
        for parent in parents {
            id = self.child(id, parent).unwrap_or_else(|| panic!("{path} leads nowhere"));
        }
        Some((id, (*name).to_owned()))
    }

    // --- what is left of it ----------------------------------------------------------------------

    /// What a power cut at `at` leaves.
    pub fn after_power_cut(&self, at: usize, variant: Variant) -> Tree {
        let seed = match variant {
            Variant::Torn(seed) | Variant::Random(seed) | Variant::Journaled(seed) => seed,
            _ => 0,
        };
        let mut random = Rng::with_seed(seed ^ (at as u64) << 20);
        let names = self.names_left(at, variant, &mut random);
        let mut tree = Tree { directories: BTreeSet::new(), files: BTreeMap::new() };
        let mut contents = HashMap::new();
        let mut pending = vec![(ROOT, String::new())];
        while let Some((id, path)) = pending.pop() {
            for (name, child) in &names[&id] {
                let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                match &self.nodes[*child].kind {
                    Kind::Directory { .. } => {
                        tree.directories.insert(path.clone());
                        pending.push((*child, path));
                    }
                    Kind::File { .. } => {
                        let content = contents
                            .entry(*child)
                            .or_insert_with(|| self.content_left(*child, at, variant, &mut random));
                        tree.files.insert(path, (*child, content.clone()));
                    }
                }
            }
        }
        tree
    }

    /// What was done before this is durable at `at`.
    fn synced_before(&self, id: Id, at: usize) -> usize {
        let syncs = self.nodes[id].syncs.iter().filter(|(_, done)| *done <= at);
        syncs.map(|(began, _)| *began).max().unwrap_or(0)
    }

    fn names_left(
        &self,
        at: usize,
        variant: Variant,
        random: &mut Rng,
    ) -> HashMap<Id, BTreeMap<String, Id>> {
        let is_durable = |id: Id, change: &Change| change.done < self.synced_before(id, at);
        let by_halves = match variant {
            Variant::SyncedByHalves => true,
            Variant::Random(_) => random.u8(..3) == 0,
            _ => false,
        };
        let in_order = random.bool();
        let last_sync = self.nodes.iter().enumerate().map(|(id, _)| self.synced_before(id, at));
        let last_sync = last_sync.max().unwrap_or(0);
        let journaled_to = random.usize(last_sync..=at.max(last_sync));
        // A rename is one change: if a half of it is there, the other is.
        let mut renamed: HashMap<usize, bool> = HashMap::new();
        let mut kept: Vec<(Id, &Change, bool)> = Vec::new();
        for (id, node) in self.nodes.iter().enumerate() {
            let Kind::Directory { changes, .. } = &node.kind else { continue };
            let cut = random.usize(self.synced_before(id, at)..=at.max(1));
            for change in changes.iter().filter(|change| change.done <= at) {
                let stays = match variant {
                    _ if is_durable(id, change) => true,
                    Variant::Synced | Variant::SyncedByHalves | Variant::Bytes => false,
                    Variant::Everything
                    | Variant::NamesAndSizes
                    | Variant::Names
                    | Variant::Torn(_) => true,
                    Variant::Random(_) if in_order => change.done <= cut,
                    Variant::Random(_) => random.bool(),
                    Variant::Journaled(_) => change.done <= journaled_to,
                };
                if change.renames {
                    *renamed.entry(change.done).or_default() |= stays;
                }
                kept.push((id, change, stays));
            }
        }
        let mut names: HashMap<Id, BTreeMap<String, Id>> = HashMap::new();
        for (id, node) in self.nodes.iter().enumerate() {
            if matches!(node.kind, Kind::Directory { .. }) {
                names.insert(id, BTreeMap::new());
            }
        }
        for (id, change, stays) in kept {
            if stays || change.renames && !by_halves && renamed[&change.done] {
                let names = names.get_mut(&id).unwrap();
                match change.target {
                    Some(target) => drop(names.insert(change.name.clone(), target)),
                    None => drop(names.remove(&change.name)),
                }
            }
        }
        names
    }

    fn content_left(&self, id: Id, at: usize, variant: Variant, random: &mut Rng) -> Content {
        let Kind::File { writes, .. } = &self.nodes[id].kind else { panic!() };
        let durable = self.synced_before(id, at);
        let writes: Vec<&Write> = writes.iter().filter(|write| write.done <= at).collect();
        let (synced, loose) = writes.split_at(writes.partition_point(|it| it.done < durable));
        let style = random.u8(..5);
        let torn = random.usize(..=loose.len());
        let behind = if random.bool() { Fate::Lost } else { Fate::Zeroed };
        let mut fates = vec![Fate::Kept; synced.len()];
        for (nth, write) in loose.iter().enumerate() {
            let up_to_a_point = |random: &mut Rng| match nth.cmp(&torn) {
                Ordering::Less => Fate::Kept,
                Ordering::Equal => tear(write, random),
                Ordering::Greater => behind,
            };
            fates.push(match (variant, style) {
                (Variant::Synced | Variant::SyncedByHalves | Variant::Names, _) => Fate::Lost,
                (Variant::NamesAndSizes, _) => Fate::Zeroed,
                (Variant::Everything | Variant::Bytes, _) => Fate::Kept,
                (Variant::Torn(_), _) => up_to_a_point(random),
                (_, 0) => Fate::Lost,
                (_, 1) => Fate::Zeroed,
                (_, 2) => Fate::Kept,
                (Variant::Journaled(_), _) | (_, 3) => up_to_a_point(random),
                (Variant::Random(_), _) => match random.u8(..4) {
                    0 => Fate::Kept,
                    1 => Fate::Lost,
                    2 => Fate::Zeroed,
                    _ => tear(write, random),
                },
            });
        }
        // Only what comes again and again is kept.
        let all_kept = fates.iter().all(|fate| *fate == Fate::Kept);
        let known = self.contents.borrow().get(&(id, writes.len())).cloned();
        if let Some(content) = known.filter(|_| all_kept) {
            return content;
        }
        let mut bytes = Vec::new();
        writes.iter().zip(&fates).for_each(|(write, fate)| write.put(*fate, &mut bytes));
        let content = Content::of(bytes);
        if all_kept {
            self.contents.borrow_mut().insert((id, writes.len()), content.clone());
        }
        content
    }
}

/// Some of a write, up to the end of a sector or a page.
fn tear(write: &Write, random: &mut Rng) -> Fate {
    let What::Bytes { at, bytes } = &write.what else { return Fate::Kept };
    let unit = if random.bool() { 512 } else { 4096 };
    let end = *at as usize + random.usize(..=bytes.len());
    Fate::Torn((end / unit * unit).saturating_sub(*at as usize))
}

impl Write {
    fn put(&self, fate: Fate, content: &mut Vec<u8>) {
        match (&self.what, fate) {
            (_, Fate::Lost) => {}
            (What::Size(size), _) => content.resize(*size as usize, 0),
            (What::Bytes { at, bytes }, fate) => {
                let kept = match fate {
                    Fate::Torn(kept) => kept,
                    Fate::Zeroed => 0,
                    _ => bytes.len(),
                };
                let at = *at as usize;
                // Of a torn write the size may be as new as of one that has no bytes.
                let end = if fate == Fate::Zeroed { at + bytes.len() } else { at + kept };
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[at..at + kept].copy_from_slice(&bytes[..kept]);
            }
        }
    }
}

fn file() -> Kind {
    Kind::File { writes: Vec::new(), size: 0 }
}

fn directory() -> Kind {
    Kind::Directory { changes: Vec::new(), names: BTreeMap::new() }
}
