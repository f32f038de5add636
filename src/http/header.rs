//! Which bytes may stand in fields, and where a section of fields ends.

use super::{Error, Part};

/// Whether `name` can name a field: a token (RFC 9110 section 5.6.2).
pub(super) fn is_field_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&byte| is_token_byte(byte))
}

/// Whether `value` can be *sent* as a field's value: visible ASCII, with spaces and tabs only
/// between. Stricter than RFC 9110 section 5.5, which lets bytes beyond ASCII pass.
pub(super) fn is_field_value(value: &[u8]) -> bool {
    value.trim_ascii() == value
        && value.iter().all(|&byte| byte.is_ascii_graphic() || byte == b' ' || byte == b'\t')
}

/// `text` without the spaces and tabs around it. `trim_ascii` would drop form feeds too, and so make
/// a number of what is none.
pub(super) fn trim_blanks(text: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let Some(start) = text.iter().position(|byte| !is_blank(byte)) else { return &[] };
    let end = text.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    text.get(start..end).unwrap_or_default()
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a byte may stand in no text at all: NUL. CR and LF are asked about before.
///
/// RFC 9110 section 5.5 makes these three dangerous and lets all other control characters pass
/// where they steer nothing: in a field's value, a reason phrase, a chunk extension.
pub(super) fn is_dangerous(byte: u8) -> bool {
    byte == 0
}

/// Whether a byte is a control character other than tab.
pub(super) fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

/// Finds the empty line that ends a head or a trailer section, and refuses on the way what parsers
/// are known to differ on. Sees every byte once, so a section that drips in costs no more than one
/// that comes whole.
///
/// ```text
///  head: Prefix ─→ Text ⇄ TextEnd ─→ LineStart ─→ Name ─→ Text …
///                                       │ CR
///  trailer: starts at ──────────────────┘        └─→ SectionEnd ─→ (found)
/// ```
pub(super) struct SectionScanner {
    part: Part,
    place: Place,
    /// How many more bytes the section may have.
    room: usize,
}

/// Where the next byte stands.
#[derive(Clone, Copy)]
enum Place {
    /// In `HTTP/1.`, of which so many bytes were right.
    Prefix(usize),
    /// In the rest of the status line, or in a field's value.
    Text,
    /// After the CR of a line.
    TextEnd,
    /// At the start of a line after the first.
    LineStart,
    /// In a field's name.
    Name,
    /// After the CR of the empty line.
    SectionEnd,
}

/// What every response begins with.
const PREFIX: &[u8] = b"HTTP/1.";

impl SectionScanner {
    /// For a response head of at most `room` bytes.
    pub(super) fn head(room: usize) -> SectionScanner {
        SectionScanner { part: Part::Head, place: Place::Prefix(0), room }
    }

    /// For a trailer section of at most `room` bytes.
    pub(super) fn trailer(room: usize) -> SectionScanner {
        SectionScanner { part: Part::Trailer, place: Place::LineStart, room }
    }

    /// How many more bytes the section may have.
    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// Takes the next bytes. `Some(used)` if the section ends with the last of `used` bytes.
    pub(super) fn scan(&mut self, input: &[u8]) -> Result<Option<usize>, Error> {
        for (index, &byte) in input.iter().enumerate() {
            self.room = self.room.checked_sub(1).ok_or(match self.part {
                Part::Trailer => Error::TrailerSize,
                Part::Head | Part::ChunkLine => Error::HeadSize,
            })?;
            match self.step(byte)? {
                Some(place) => self.place = place,
                None => return Ok(Some(index + 1)),
            }
        }
        Ok(None)
    }

    /// The place after `byte`; `None` after the last byte of the section.
    fn step(&self, byte: u8) -> Result<Option<Place>, Error> {
        let part = self.part;
        Ok(Some(match (self.place, byte) {
            (Place::Prefix(right), _) if PREFIX.get(right) == Some(&byte) => {
                if right + 1 == PREFIX.len() { Place::Text } else { Place::Prefix(right + 1) }
            }
            (Place::Prefix(right), _) => {
                let right = String::from_utf8_lossy(&PREFIX[..right]);
                return Err(Error::NotHttp { seen: format!("{right}{}", byte.escape_ascii()) });
            }
            (Place::LineStart, b'\r') => Place::SectionEnd,
            (Place::SectionEnd, b'\n') => return Ok(None),
            (Place::Text, b'\r') => Place::TextEnd,
            (Place::TextEnd, b'\n') => Place::LineStart,
            (Place::TextEnd | Place::SectionEnd, _) | (_, b'\r' | b'\n') => {
                return Err(Error::LineEnd { part });
            }
            (Place::Text, byte) if is_dangerous(byte) => return Err(Error::Control { part, byte }),
            (Place::Text, _) => Place::Text,
            (_, byte) if is_control(byte) => return Err(Error::Control { part, byte }),
            (Place::LineStart, b' ' | b'\t') => return Err(Error::Folded { part }),
            (Place::Name, b':') => Place::Text,
            (Place::LineStart | Place::Name, _) if is_token_byte(byte) => Place::Name,
            (Place::LineStart | Place::Name, _) => return Err(Error::FieldName { part, byte }),
        }))
    }
}
