//! A stream that a thread of its own writes to, so that nobody else waits for whoever reads it.
//!
//! A log collector that stopped, a terminal that was stopped with Ctrl-S, a pager that nobody scrolls:
//! all of them block a `write` for as long as they like. A pull must go on meanwhile, and must end
//! within a second of a signal. So all others only put text into a queue.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::lock;
use crate::limits::{REPORT_QUEUE_SIZE_MAX, STREAM_PAUSE};

/// A stream, and what is still to be written to it.
#[derive(Clone)]
pub(super) struct Queue {
    shared: Arc<Shared>,
    /// Whether a thread writes; otherwise whoever puts something in does.
    threaded: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Something was put into the queue, or the queue became empty.
    changed: Condvar,
}

struct State {
    /// Each is written by one `write`, so that lines of several processes on one stream stay whole.
    waiting: VecDeque<String>,
    /// Bytes of `waiting`.
    size: usize,
    /// Whether the thread is busy with a text that is no more in `waiting`.
    writing: bool,
    /// Lines that found no room.
    left_out: u64,
    /// The stream, until there is a thread that owns it; for good where there is none.
    stream: Option<Box<dyn Write + Send>>,
    /// Nobody reads any more: what is put in is dropped.
    closed: bool,
}

/// What becomes of a text that finds no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// It is left out. How many were is said once there is room again.
    Little,
    /// It is kept all the same: there are few of these.
    Much,
}

impl Queue {
    /// A queue with a thread, which starts with the first text and runs as long as the process.
    pub(super) fn threaded(stream: Box<dyn Write + Send>) -> Queue {
        Queue::new(stream, true)
    }

    /// A queue without a thread, for streams that never block: each text is written at once.
    pub(super) fn at_once(stream: Box<dyn Write + Send>) -> Queue {
        Queue::new(stream, false)
    }

    fn new(stream: Box<dyn Write + Send>, threaded: bool) -> Queue {
        let state = State {
            waiting: VecDeque::new(),
            size: 0,
            writing: false,
            left_out: 0,
            stream: Some(stream),
            closed: false,
        };
        let shared = Shared { state: Mutex::new(state), changed: Condvar::new() };
        Queue { shared: Arc::new(shared), threaded }
    }

    /// Has `text` written after all that was put in before. Never waits for the stream.
    pub(super) fn put(&self, text: String, worth: Worth) {
        let mut state = lock(&self.shared.state);
        if state.closed {
            return;
        }
        if worth == Worth::Little && !state.has_room() {
            state.left_out += 1;
            return;
        }
        if state.left_out > 0 && state.has_room() {
            let left_out = std::mem::take(&mut state.left_out);
            let lines = super::format::count(left_out, "line was", "lines were");
            state.push(format!("ringpull: {lines} left out here: nobody read what was printed\n"));
        }
        state.push(text);
        if state.stream.is_some() && self.threaded {
            self.start(&mut state);
        }
        state.write_at_once();
        self.shared.changed.notify_all();
    }

    /// Whether all that was put in has been written.
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.shared.state).is_empty()
    }

    /// Whether a text of little worth would be kept. If not, it counts as left out.
    pub(super) fn has_room(&self) -> bool {
        let mut state = lock(&self.shared.state);
        let has_room = state.has_room();
        state.left_out += u64::from(!has_room && !state.closed);
        has_room
    }

    /// Waits until all that was put in has been written, but no longer than until `end`; for ever if
    /// there is none.
    pub(super) fn flush(&self, end: Option<Instant>) {
        let mut state = lock(&self.shared.state);
        while !state.is_empty() {
            state = match end.map(|end| end.saturating_duration_since(Instant::now())) {
                None => self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return,
                Some(left) => match self.shared.changed.wait_timeout(state, left) {
                    Ok((state, _)) => state,
                    Err(poisoned) => poisoned.into_inner().0,
                },
            };
        }
    }

    /// Starts the thread. Where the system has none left, the stream stays here and is written to at
    /// once: then a slow reader slows the pull down, which is better than no output.
    fn start(&self, state: &mut State) {
        let given = Arc::new(Mutex::new(state.stream.take()));
        let (shared, taken) = (Arc::clone(&self.shared), Arc::clone(&given));
        let body = move || {
            let stream = lock(&taken).take();
            if let Some(stream) = stream {
                shared.write_all(stream);
            }
        };
        if thread::Builder::new().name("ringpull-stderr".to_owned()).spawn(body).is_err() {
            state.stream = lock(&given).take();
        }
    }
}

impl State {
    fn has_room(&self) -> bool {
        self.size < REPORT_QUEUE_SIZE_MAX
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && !self.writing
    }

    fn push(&mut self, text: String) {
        self.size += text.len();
        self.waiting.push_back(text);
    }

    /// Writes all that waits, if there is no thread for it.
    fn write_at_once(&mut self) {
        let Some(mut stream) = self.stream.take() else { return };
        while let Some(text) = self.pop() {
            self.closed |= write(&mut stream, &text).is_err();
        }
        self.stream = Some(stream);
    }

    fn pop(&mut self) -> Option<String> {
        let text = self.waiting.pop_front()?;
        self.size -= text.len();
        Some(text)
    }
}

impl Shared {
    /// What the thread does, until nobody reads any more.
    fn write_all(&self, mut stream: Box<dyn Write + Send>) {
        let mut state = lock(&self.state);
        loop {
            let Some(text) = state.pop() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.writing = true;
            drop(state);
            let written = write(&mut stream, &text);
            state = lock(&self.state);
            state.writing = false;
            if written.is_err() {
                // A failure has nowhere to be told, and progress fails no pull.
                state.closed = true;
                state.waiting.clear();
                state.size = 0;
            }
            if state.waiting.is_empty() {
                self.changed.notify_all();
            }
            if state.closed {
                return;
            }
        }
    }
}

/// Writes all of `text`, also to a stream that somebody else has made a non-blocking one.
fn write(stream: &mut dyn Write, text: &str) -> io::Result<()> {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(STREAM_PAUSE),
            Err(error) => return Err(error),
        }
    }
    stream.flush()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// A stream whose writer waits for its reader at each text.
    struct Pipe(SyncSender<String>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.0.send(text).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue() -> (Queue, Receiver<String>) {
        let (sender, receiver) = sync_channel(0);
        (Queue::threaded(Box::new(Pipe(sender))), receiver)
    }

    #[test]
    fn nobody_waits_for_a_reader_who_stopped_and_what_had_no_room_is_told() {
        let (queue, reader) = queue();
        let line = format!("{}\n", "x".repeat(1 << 10));
        let kept = REPORT_QUEUE_SIZE_MAX.div_ceil(line.len());
        // The thread may have taken one by then.
        for _ in 0..kept + 10 {
            queue.put(line.clone(), Worth::Little);
        }
        assert!(!queue.has_room());
        queue.put("error\n".to_owned(), Worth::Much);
        let soon = Instant::now() + Duration::from_millis(20);
        queue.flush(Some(soon));
        assert!(!queue.is_empty());
        let mut read = Vec::new();
        while read.last().is_none_or(|text| text != "error\n") {
            read.push(reader.recv().unwrap());
        }
        assert!((kept + 1..=kept + 2).contains(&read.len()), "{} of {kept}", read.len());
        queue.put("again\n".to_owned(), Worth::Little);
        let told = reader.recv().unwrap();
        assert!(
            told.ends_with(" lines were left out here: nobody read what was printed\n"),
            "{told}"
        );
        assert_eq!(reader.recv().unwrap(), "again\n");
        queue.flush(None);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_reader_who_went_away_is_not_waited_for() {
        let (queue, reader) = queue();
        drop(reader);
        for _ in 0..3 {
            queue.put("unheard\n".to_owned(), Worth::Much);
            queue.flush(None);
        }
        assert!(queue.is_empty() && lock(&queue.shared.state).closed);
    }
}
