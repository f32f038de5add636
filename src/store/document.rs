//! The two JSON files of a layout: read with a bound, replaced by rename.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::StoreError;
use super::directory::{Directory, Stamp};
use super::disk;
use super::partial::Partial;
use crate::limits::{INDEX_READ_PAUSE, INDEX_READS_MAX};

/// Reads and parses the file `name` of the layout, or `None` if there is none.
///
/// A tool that writes the file in place shows it cut off for a moment, so what does not parse is
/// read again a little later before it counts as invalid.
pub(super) fn read<T>(
    root: &Directory,
    name: &str,
    size_max: u64,
    parse: impl Fn(&[u8]) -> Result<T, String>,
) -> Result<Option<(Stamp, T)>, StoreError> {
    let path = root.path().join(name);
    let mut reads = 0;
    loop {
        let Some(file) = root.file(name)? else {
            return Ok(None);
        };
        let (stamp, bytes) = read_bytes(&file, &path, size_max)?;
        reads += 1;
        match parse(&bytes) {
            Ok(document) => return Ok(Some((stamp, document))),
            Err(problem) if reads >= INDEX_READS_MAX => {
                return Err(StoreError::Index { path, problem });
            }
            Err(_) => std::thread::sleep(INDEX_READ_PAUSE),
        }
    }
}

/// Replaces the file `name` of the layout, unless `still_valid` says just before that what `bytes`
/// were made from is out of date; then nothing happens and the answer is `false`. With `durable`, a
/// power cut leaves it wholly old or wholly new, and from then on new.
pub(super) fn replace(
    root: &Directory,
    partials: &Arc<Directory>,
    name: &str,
    bytes: &[u8],
    durable: bool,
    still_valid: impl FnOnce() -> Result<bool, StoreError>,
) -> Result<bool, StoreError> {
    let partial = Partial::create(partials, name)?;
    disk::write_all(partial.file(), bytes, 0)
        .map_err(|error| partial.failed("write", error).needing(bytes.len() as u64))?;
    partial.finish(root.mode_of_files()?, durable)?;
    if !still_valid()? {
        return Ok(false);
    }
    partial.publish(root, name)?;
    if durable {
        root.sync()?;
    }
    Ok(true)
}

/// Waits until the bytes of the file `name` are on disk, if there is one.
pub(super) fn sync(root: &Directory, name: &str) -> Result<(), StoreError> {
    let Some(file) = root.file(name)? else { return Ok(()) };
    disk::sync(&file).map_err(|error| StoreError::io("sync", &root.path().join(name), error))
}

/// The stamp of the file `name`, or `None` if there is none.
pub(super) fn stamp(root: &Directory, name: &str) -> Result<Option<Stamp>, StoreError> {
    let Some(file) = root.file(name)? else {
        return Ok(None);
    };
    let metadata = file
        .metadata()
        .map_err(|error| StoreError::io("look at", &root.path().join(name), error))?;
    Ok(Some(Stamp::of(&metadata)))
}

fn read_bytes(file: &File, path: &Path, size_max: u64) -> Result<(Stamp, Vec<u8>), StoreError> {
    let failed = |error| StoreError::io("read", path, error);
    let stamp = Stamp::of(&file.metadata().map_err(failed)?);
    let mut bytes = Vec::new();
    // One byte more than the bound: a file that grows meanwhile is found too large as well.
    let read = file.take(size_max.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if read as u64 > size_max {
        let problem = format!("is larger than {size_max} bytes");
        return Err(StoreError::Index { path: path.to_path_buf(), problem });
    }
    Ok((stamp, bytes))
}
