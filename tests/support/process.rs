//! The binary under test as a process: started in an empty environment, signalled, waited for with
//! the moment of its end.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::ringpull::BINARY;
use super::server::PATIENCE;

/// How late an end may be, beside its deadline. `RINGPULL_SLACK_MS` is for machines that are shared
/// with others, where a process may not even have begun by then.
pub fn slack() -> Duration {
    let named = std::env::var("RINGPULL_SLACK_MS").ok().and_then(|text| text.parse().ok());
    Duration::from_millis(named.unwrap_or(500))
}

/// How long a run may take before it counts as hung: no deadline in these tests is near it.
const HUNG_AFTER: Duration = Duration::from_secs(120);

/// `ringpull` with these arguments, in an environment that holds nothing of the machine's: a home
/// that does not exist, and no other variable than PATH.
pub fn ringpull(arguments: &[&str]) -> Command {
    clean(Command::new(BINARY), arguments)
}

/// `program` with ringpull's path and these arguments behind its own, in the same environment.
pub fn ringpull_under(mut program: Command, arguments: &[&str]) -> Command {
    program.arg(BINARY);
    clean(program, arguments)
}

/// What the tests were started with of this setting: with it they show that what holds of blobs in the
/// page cache also holds of those that are written past it.
pub fn direct_io_min() -> Option<(&'static str, String)> {
    const NAME: &str = "RINGPULL_DIRECT_IO_MIN";
    std::env::var(NAME).ok().map(|value| (NAME, value))
}

fn clean(mut command: Command, arguments: &[&str]) -> Command {
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent")
        .envs(direct_io_min())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A process under way. It is killed when this is dropped.
pub struct Running {
    shown: String,
    id: u32,
    /// Names this process for ever, where a number may become another's.
    process: OwnedFd,
    started: Instant,
    ended: Receiver<(ExitStatus, Instant)>,
    stdout: JoinHandle<String>,
    stderr: JoinHandle<String>,
}

/// How a process ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; of a process that was killed by a signal, 128 and its number.
    pub code: i32,
    /// All of stdout, if it was piped.
    pub stdout: String,
    /// All of stderr, if it was piped.
    pub stderr: String,
    /// From its start to its end.
    pub took: Duration,
    /// When it ended.
    pub at: Instant,
    /// The command line and all it said, to show when something is wrong.
    pub all: String,
}

impl Running {
    /// Starts `command`.
    #[track_caller]
    pub fn start(mut command: Command) -> Running {
        let shown = format!("{command:?}");
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
        let (id, pid) = (child.id(), Pid::from_child(&child));
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let stdout = reading(child.stdout.take());
        let stderr = reading(child.stderr.take());
        let (end, ended) = channel();
        std::thread::spawn(move || end.send(wait_for(child)));
        Running { shown, id, process, started, ended, stdout, stderr }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.process, signal).unwrap();
    }

    /// Waits for the end; a process that hangs is killed, and fails the test.
    #[track_caller]
    pub fn wait(mut self) -> Outcome {
        let ended = self.ended.recv_timeout(HUNG_AFTER);
        if ended.is_err() {
            self.signal(Signal::KILL);
        }
        let nothing = || std::thread::spawn(String::new);
        let stdout = std::mem::replace(&mut self.stdout, nothing()).join().unwrap();
        let stderr = std::mem::replace(&mut self.stderr, nothing()).join().unwrap();
        let all = format!("{}\n--- stdout\n{stdout}\n--- stderr\n{stderr}", self.shown);
        let (status, at) = ended.unwrap_or_else(|_| panic!("hung: {all}"));
        let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap();
        let all = format!("{status}: {all}");
        Outcome { code, stdout, stderr, took: at - self.started, at, all }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }
}

fn wait_for(mut child: Child) -> (ExitStatus, Instant) {
    let status = child.wait().unwrap();
    (status, Instant::now())
}

fn reading(stream: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            stream.read_to_end(&mut bytes).unwrap();
        }
        String::from_utf8(bytes).expect("what is printed is UTF-8")
    })
}

/// Runs `command` to its end.
#[track_caller]
pub fn run(command: Command) -> Outcome {
    Running::start(command).wait()
}

impl Outcome {
    /// The last line of stderr.
    pub fn last_line(&self) -> &str {
        self.stderr.lines().last().unwrap_or_default()
    }

    /// Checks that it failed with `code`, that stderr ends with `error[class]` and a line that holds
    /// `text`, and that stdout is empty.
    #[track_caller]
    pub fn expect_failure(&self, code: i32, class: &str, text: &str) -> &Outcome {
        assert_eq!(self.code, code, "{}", self.all);
        let last = self.last_line();
        assert!(last.starts_with(&format!("ringpull: error[{class}]: ")), "{}", self.all);
        assert!(last.contains(text), "`{text}` is not in the last line of\n{}", self.all);
        assert_eq!(self.stdout, "", "{}", self.all);
        self
    }

    /// Checks that it succeeded.
    #[track_caller]
    pub fn expect_success(&self) -> &Outcome {
        assert_eq!(self.code, 0, "{}", self.all);
        self
    }
}

/// The longest a test waits for something that another thread is about to do.
pub const SOON: Duration = PATIENCE;
