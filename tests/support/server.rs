//! A server in a child process: started, waited for, ended with its owner.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take until it serves, and a log line until it is written.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Pause between two looks at something that will be there in a moment.
const GLANCE: Duration = Duration::from_millis(5);

/// A running child process. Ends, by its own id, when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    output: PathBuf,
}

impl Server {
    /// Starts `command` without stdin; what it prints goes to the file `output`.
    pub fn start(command: &mut Command, output: &Path) -> Server {
        let file = File::create(output).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Server { child, output: output.to_owned() }
    }

    /// Waits until `ready` returns something. `Err` if the server ended before; panics if it takes
    /// longer than [`PATIENCE`].
    pub fn wait<T>(&mut self, mut ready: impl FnMut() -> Option<T>) -> Result<T, ExitStatus> {
        let mut ended = None;
        let found = eventually(|| {
            ended = self.child.try_wait().unwrap();
            // A server that has ended is not ready, even if another one answers in its place.
            if let Some(status) = ended { Some(Err(status)) } else { ready().map(Ok) }
        });
        found.unwrap_or_else(|| panic!("not ready after {PATIENCE:?}:\n{}", self.output()))
    }

    /// What the server has printed so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- end of {}\n{}", self.output.display(), end_of(&self.output()));
        }
    }
}

/// The last lines of a log, each cut: enough to see what went wrong.
fn end_of(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let cut = |line: &&str| line.chars().take(200).chain(['\n']).collect::<String>();
    lines[lines.len().saturating_sub(20)..].iter().map(cut).collect()
}

/// Asks `ready` again and again until it returns something; `None` after [`PATIENCE`].
pub fn eventually<T>(mut ready: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ready() {
            return Some(found);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(GLANCE);
    }
}

/// An address on which nothing listened a moment ago. Another process may take it first: a server
/// that cannot have it is started again on another.
pub fn free_address(ip: IpAddr) -> SocketAddr {
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// Sends a GET without TLS, `headers` each ended by CR LF, and returns the whole answer, or `None` if
/// there was none.
pub fn get(mut stream: impl Read + Write, path: &str, headers: &str) -> Option<Vec<u8>> {
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    stream.write_all(format!("{head}{headers}\r\n").as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}
