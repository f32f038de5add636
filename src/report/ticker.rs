//! A thread that does one thing again and again, and stops at once when told.

use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::lock;

/// Calls a function every `interval` until dropped.
pub(super) struct Ticker {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stop {
    asked: Mutex<bool>,
    wake: Condvar,
}

impl Ticker {
    /// The first call comes after one `interval`. Where the system has no thread left, there are
    /// no calls: a pull does without progress rather than fail for want of it.
    pub(super) fn start(interval: Duration, mut tick: impl FnMut() + Send + 'static) -> Ticker {
        let stop = Arc::new(Stop::default());
        let seen = Arc::clone(&stop);
        let body = move || {
            while !seen.within(interval) {
                tick();
            }
        };
        let thread = thread::Builder::new().name("ringpull-report".to_owned()).spawn(body).ok();
        Ticker { stop, thread }
    }
}

impl Drop for Ticker {
    /// Returns when the last call has returned.
    fn drop(&mut self) {
        *lock(&self.stop.asked) = true;
        self.stop.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has been reported by its hook; progress is not worth a second.
            let _ = thread.join();
        }
    }
}

impl Stop {
    /// Waits for `interval`; whether the end was asked for within it.
    fn within(&self, interval: Duration) -> bool {
        let end = Instant::now() + interval;
        let mut asked = lock(&self.asked);
        while !*asked {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            asked = match self.wake.wait_timeout(asked, left) {
                Ok((asked, _)) => asked,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        *asked
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn it_ticks_until_dropped() {
        let (sender, ticks) = mpsc::channel();
        let ticker = Ticker::start(Duration::from_millis(1), move || {
            let _ = sender.send(());
        });
        for _ in 0..3 {
            ticks.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        drop(ticker);
        while ticks.try_recv().is_ok() {}
        assert_eq!(ticks.recv(), Err(mpsc::RecvError), "the thread has ended");
    }

    #[test]
    fn it_stops_without_waiting_for_the_next_tick() {
        let ticker = Ticker::start(Duration::from_secs(30), || {});
        // Time for the thread to begin its wait.
        thread::sleep(Duration::from_millis(50));
        let asked = Instant::now();
        drop(ticker);
        assert!(asked.elapsed() < Duration::from_secs(10));
    }
}
