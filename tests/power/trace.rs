//! What strace saw of a process: the calls that change files, in the order in which they returned.

use std::collections::HashMap;

/// The calls that are traced. All that can change a file or its names, and what says which file a
/// descriptor is; one of them that [`parse`] does not know ends the test, if it is about a file of ours.
pub const CALLS: &str = "open,openat,openat2,creat,close,dup,dup2,dup3,fcntl,mkdir,mkdirat,rmdir,\
    write,writev,pwrite64,pwritev,pwritev2,truncate,ftruncate,fallocate,copy_file_range,sendfile,\
    splice,fsync,fdatasync,sync,syncfs,rename,renameat,renameat2,link,linkat,symlink,symlinkat,\
    unlink,unlinkat";

/// A call that has returned, and not failed.
#[derive(Debug, Clone)]
pub struct Event {
    /// When it began and when it had returned: numbers of lines.
    pub began: usize,
    pub done: usize,
    pub call: Call,
}

/// Where a path begins: the working directory (`None`), or an open directory.
pub type At = Option<i32>;

#[derive(Debug, Clone)]
pub enum Call {
    Open {
        at: At,
        path: String,
        flags: String,
        fd: i32,
    },
    Duplicate {
        fd: i32,
        new: i32,
    },
    Close {
        fd: i32,
    },
    MakeDirectory {
        at: At,
        path: String,
    },
    /// `at` is absent where the file's own position counts.
    Write {
        fd: i32,
        at: Option<u64>,
        bytes: Vec<u8>,
    },
    Truncate {
        fd: i32,
        size: u64,
    },
    Sync {
        fd: i32,
    },
    Rename {
        from: (At, String),
        to: (At, String),
    },
    Unlink {
        at: At,
        path: String,
    },
    /// One that is not understood.
    Unknown {
        fd: Option<i32>,
        line: String,
    },
}

/// The events of a trace made by `strace -f -xx`.
pub fn parse(trace: &str) -> Vec<Event> {
    let mut events = Vec::new();
    let mut begun: HashMap<&str, (usize, &str)> = HashMap::new();
    for (number, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(head) = rest.strip_suffix("<unfinished ...>") {
            // From here on the number may be another file's.
            if let Some(fd) = head.strip_prefix("close(") {
                let fd = fd.trim_end_matches([' ', ')']).parse().unwrap();
                events.push(Event { began: number, done: number, call: Call::Close { fd } });
            } else {
                begun.insert(thread, (number, head.trim_end()));
            }
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some((began, head)) = begun.remove(thread) else { continue };
            let (_, tail) = resumed.split_once(" resumed>").unwrap();
            let call = parse_call(&format!("{head}{tail}"));
            events.extend(call.map(|call| Event { began, done: number, call }));
        } else if !rest.starts_with(['+', '-']) {
            let call = parse_call(rest);
            events.extend(call.map(|call| Event { began: number, done: number, call }));
        }
    }
    events
}

/// `name(arguments) = result`; `None` if it failed, or changes nothing.
fn parse_call(line: &str) -> Option<Call> {
    let (name, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ").unwrap_or((rest, "?"));
    let arguments = arguments.trim_end().trim_end_matches(')');
    let result: i64 = result.split(' ').next()?.parse().unwrap_or(-1);
    if result < 0 {
        return None;
    }
    let number = i32::try_from(result).ok();
    let arguments = split(arguments);
    let text = |nth: usize| String::from_utf8(bytes(arguments[nth])).unwrap();
    let fd = |nth: usize| -> At { arguments[nth].parse().ok() };
    let file = |nth: usize| fd(nth).unwrap();
    let size = |nth: usize| -> u64 { arguments[nth].parse().unwrap() };
    Some(match name {
        "open" => Call::Open { at: None, path: text(0), flags: arguments[1].into(), fd: number? },
        "openat" | "openat2" => {
            Call::Open { at: fd(0), path: text(1), flags: arguments[2].into(), fd: number? }
        }
        "close" => Call::Close { fd: file(0) },
        "dup" => Call::Duplicate { fd: file(0), new: number? },
        "fcntl" if arguments[1].starts_with("F_DUPFD") => {
            Call::Duplicate { fd: file(0), new: number? }
        }
        "fcntl" => return None,
        "mkdir" => Call::MakeDirectory { at: None, path: text(0) },
        "mkdirat" => Call::MakeDirectory { at: fd(0), path: text(1) },
        "write" | "pwrite64" => {
            let mut bytes = bytes(arguments[1]);
            bytes.truncate(usize::try_from(result).unwrap());
            let at = (name == "pwrite64").then(|| size(3));
            Call::Write { fd: file(0), at, bytes }
        }
        "pwritev" => {
            let parts = arguments[1].split("iov_base=").skip(1);
            let mut bytes: Vec<u8> =
                parts.flat_map(|part| bytes(part.split(", iov_len").next().unwrap())).collect();
            bytes.truncate(usize::try_from(result).unwrap());
            Call::Write { fd: file(0), at: Some(size(3)), bytes }
        }
        "ftruncate" => Call::Truncate { fd: file(0), size: size(1) },
        // It reserves, and changes nothing that can be read.
        "fallocate" if arguments[1] == "FALLOC_FL_KEEP_SIZE" => return None,
        "fsync" | "fdatasync" => Call::Sync { fd: file(0) },
        "rename" => Call::Rename { from: (None, text(0)), to: (None, text(1)) },
        "renameat" | "renameat2" => Call::Rename { from: (fd(0), text(1)), to: (fd(2), text(3)) },
        "unlink" => Call::Unlink { at: None, path: text(0) },
        "unlinkat" => Call::Unlink { at: fd(0), path: text(1) },
        _ => Call::Unknown { fd: fd(0), line: line.chars().take(200).collect() },
    })
}

/// Arguments at their commas; those within a structure are one.
fn split(arguments: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    // Strings are all `\x..`, so nothing in them is mistaken for anything.
    for (at, byte) in arguments.bytes().enumerate() {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(arguments[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(arguments[start..].trim());
    parts
}

/// A string as `-xx` shows it: `"\x61\x62"`.
fn bytes(shown: &str) -> Vec<u8> {
    let inner = shown.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let inner = inner.unwrap_or_else(|| panic!("not a whole string: {}", &shown[..60])).as_bytes();
    let digit = |byte: u8| if byte > b'9' { byte - b'a' + 10 } else { byte - b'0' };
    inner.chunks_exact(4).map(|shown| digit(shown[2]) << 4 | digit(shown[3])).collect()
}
