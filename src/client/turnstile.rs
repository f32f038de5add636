//! One at a time does what will do for all.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, MutexGuard};

/// Where those who want the same wait for the one who is getting it.
#[derive(Debug, Default)]
pub(super) struct Turnstile {
    turn: Mutex<()>,
    failures: AtomicU64,
}

impl Turnstile {
    /// Waits for whoever has the turn, and takes it. `None` if that one [`failed`](Turnstile::failed):
    /// those who waited for it then go side by side, for in a row each would wait for the deadline of
    /// the one before.
    pub(super) async fn pass(&self) -> Option<MutexGuard<'_, ()>> {
        let before = self.failures.load(Ordering::Relaxed);
        let turn = self.turn.lock().await;
        (self.failures.load(Ordering::Relaxed) == before).then_some(turn)
    }

    /// Whoever has the turn did not get what it wanted. To be said before the turn ends.
    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    /// Eight who want the same at once, and what getting it came to.
    #[derive(Default)]
    struct Tries {
        all: Cell<usize>,
        under_way: Cell<usize>,
        at_once: Cell<usize>,
        there: Cell<bool>,
    }

    async fn want(turnstile: &Turnstile, tries: &Tries, fails: bool) {
        let _turn = turnstile.pass().await;
        if tries.there.get() {
            return;
        }
        tries.all.set(tries.all.get() + 1);
        tries.under_way.set(tries.under_way.get() + 1);
        tries.at_once.set(tries.at_once.get().max(tries.under_way.get()));
        // The others have time to come, to wait, and to go on.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        tries.under_way.set(tries.under_way.get() - 1);
        match fails {
            true => turnstile.failed(),
            false => tries.there.set(true),
        }
    }

    /// How often it was tried, and how often at once.
    fn tries(fails: bool) -> (usize, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let state = Rc::new((Turnstile::default(), Tries::default()));
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let one = || {
                let state = Rc::clone(&state);
                tokio::task::spawn_local(async move { want(&state.0, &state.1, fails).await })
            };
            for one in [(); 8].map(|()| one()) {
                one.await.unwrap();
            }
        });
        (state.1.all.get(), state.1.at_once.get())
    }

    #[test]
    fn all_take_what_one_got() {
        assert_eq!(tries(false), (1, 1));
    }

    #[test]
    fn after_a_failure_nobody_waits_for_another() {
        assert_eq!(tries(true), (8, 7));
    }
}
