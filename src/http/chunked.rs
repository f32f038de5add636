//! The chunked transfer coding (RFC 9112 section 7.1).

use std::ops::Range;

use super::header::{SectionScanner, is_dangerous};
use super::{Error, Part};
use crate::limits::{CHUNK_EXTENSION_SIZE_MAX, TRAILER_SIZE_MAX};

/// Takes a chunked body apart.
///
/// ```text
///       ┌────────────────────────── DataLf ←── DataCr ←─┐
///       ↓                                               │
///  ─→ Size ─→ (Blank ─→ Extension) ─→ SizeLf ───────────┴→ Data
///                                                  │ size 0
///                                                  └→ Trailer ─→ (end)
/// ```
pub(super) struct Chunks {
    place: Place,
    /// How many more bytes of extensions may come before more payload does: at most
    /// [`CHUNK_EXTENSION_SIZE_MAX`].
    extension_room: usize,
}

/// What the bytes given to [`Chunks::recv`] meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ChunkEvent {
    /// All of them were used; the body goes on.
    NeedMore,
    /// Payload, at this place in the input.
    Data(Range<usize>),
    /// The body has ended, trailer section included.
    End,
}

/// Where the next byte stands.
enum Place {
    /// In a chunk size, of which so many digits make `size`.
    Size { size: u64, digits: usize },
    /// In white space after a chunk size. An extension or the end of the line follows.
    Blank { size: u64 },
    /// In an extension.
    Extension { size: u64 },
    /// After the CR of a size line.
    SizeLf { size: u64 },
    /// In the data of a chunk, of which `remaining` (not zero) bytes are to come.
    Data { remaining: u64 },
    /// At the CR after the data.
    DataCr,
    /// At the LF after the data.
    DataLf,
    /// In the trailer section, or at the CR LF where it would be.
    Trailer(SectionScanner),
}

/// A chunk size is a `u64`: longer ones are refused, even if they begin with zeros.
const SIZE_DIGITS_MAX: usize = 16;

impl Chunks {
    /// At the first byte of the body.
    pub(super) fn new() -> Chunks {
        Chunks {
            place: Place::Size { size: 0, digits: 0 },
            extension_room: CHUNK_EXTENSION_SIZE_MAX,
        }
    }

    /// How many bytes of `input` were used, and what they meant. Payload is returned as soon as there
    /// is some: as much of the current chunk as `input` holds. To be called again with the rest.
    ///
    /// Must not be called again after [`ChunkEvent::End`] or an error; [`Exchange`](super::Exchange)
    /// does not.
    pub(super) fn recv(&mut self, input: &[u8]) -> Result<(usize, ChunkEvent), Error> {
        let mut used = 0;
        while let Some(&byte) = input.get(used) {
            match &mut self.place {
                Place::Data { remaining } => {
                    let available = input.len() - used;
                    let size = usize::try_from(*remaining).map_or(available, |r| r.min(available));
                    *remaining -= size as u64;
                    // Payload pays for extensions: servers that sign each chunk may send any number.
                    let room = self.extension_room.saturating_add(size);
                    self.extension_room = room.min(CHUNK_EXTENSION_SIZE_MAX);
                    if *remaining == 0 {
                        self.place = Place::DataCr;
                    }
                    return Ok((used + size, ChunkEvent::Data(used..used + size)));
                }
                Place::Trailer(scanner) => {
                    return Ok(match scanner.scan(&input[used..])? {
                        Some(size) => (used + size, ChunkEvent::End),
                        None => (input.len(), ChunkEvent::NeedMore),
                    });
                }
                _ => self.place = self.step(byte)?,
            }
            used += 1;
        }
        Ok((used, ChunkEvent::NeedMore))
    }

    /// The place after `byte`, which is neither data nor trailer.
    fn step(&mut self, byte: u8) -> Result<Place, Error> {
        let part = Part::ChunkLine;
        Ok(match (&self.place, byte) {
            (&Place::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS_MAX {
                    return Err(Error::ChunkSizeOverflow);
                }
                Place::Size { size: size << 4 | hex_value(byte), digits: digits + 1 }
            }
            // Some servers fill the size up with blanks to a fixed width.
            (
                &Place::Size { size, digits: 1.. }
                | &Place::Blank { size }
                | &Place::Extension { size },
                b'\r',
            ) => Place::SizeLf { size },
            (
                Place::Size { digits: 1.., .. } | Place::Blank { .. } | Place::Extension { .. },
                b'\n',
            ) => return Err(Error::LineEnd { part }),
            (&Place::Size { size, digits: 1.. } | &Place::Blank { size }, b' ' | b'\t' | b';') => {
                self.count_extension_byte()?;
                match byte {
                    b';' => Place::Extension { size },
                    _ => Place::Blank { size },
                }
            }
            (Place::Size { .. } | Place::Blank { .. }, _) => {
                return Err(Error::ChunkSize { byte });
            }
            (Place::Extension { .. }, _) if is_dangerous(byte) => {
                return Err(Error::Control { part, byte });
            }
            (&Place::Extension { size }, _) => {
                self.count_extension_byte()?;
                Place::Extension { size }
            }
            (Place::SizeLf { size: 0 }, b'\n') => {
                Place::Trailer(SectionScanner::trailer(TRAILER_SIZE_MAX))
            }
            (&Place::SizeLf { size }, b'\n') => Place::Data { remaining: size },
            (Place::SizeLf { .. }, _) => return Err(Error::LineEnd { part }),
            (Place::DataCr, b'\r') => Place::DataLf,
            (Place::DataLf, b'\n') => Place::Size { size: 0, digits: 0 },
            // A missing CR LF once let a second message hide in the first (CVE-2025-43859).
            (Place::DataCr | Place::DataLf | Place::Data { .. } | Place::Trailer(_), _) => {
                return Err(Error::ChunkEnd { byte });
            }
        })
    }

    fn count_extension_byte(&mut self) -> Result<(), Error> {
        let left = self.extension_room.checked_sub(1);
        self.extension_room = left.ok_or(Error::ChunkExtensionSize)?;
        Ok(())
    }
}

/// The value of a hexadecimal digit.
fn hex_value(digit: u8) -> u64 {
    u64::from(match digit {
        b'0'..=b'9' => digit - b'0',
        // Upper and lower case differ in one bit, and `a` stands for ten.
        _ => (digit | 0x20) - b'a' + 10,
    })
}
