//! Whole pulls on the sim engine: thousands a minute, each from a seed that says what image it is, how
//! it is pulled, and what goes wrong. Any seed can be run again, and runs the same again.
//!
//! `scripts/sim` runs many seeds, or one with all that happens in it; here some run with every test.
//! What no seed reaches: TLS, names to be resolved, threads and so what is synced amid a blob, and a
//! kernel.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]
#![allow(unreachable_pub, reason = "`pub` means: for the tests")]

#[path = "sim/contract.rs"]
mod contract;
#[path = "sim/peers.rs"]
mod peers;
#[path = "sim/run.rs"]
mod run;
#[path = "sim/scenario.rs"]
mod scenario;
#[path = "sim/trickle.rs"]
mod trickle;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use run::{Outcome, run};

/// Longest real time that a seed may take. It takes milliseconds; only one that does not end takes
/// longer, on any machine.
const SEED_TIME_MAX: Duration = Duration::from_secs(120);

/// Seeds that once broke an invariant, and why.
const REGRESSIONS: [(u64, &str); 1] =
    [(31193, "a store that became read-only counted as one that cannot sync directories")];

/// Seeds from `RINGPULL_SIM_SEEDS=FIRST..END`, or a few that take some seconds.
#[test]
fn every_seed_keeps_the_invariants() {
    let range = std::env::var("RINGPULL_SIM_SEEDS").unwrap_or_else(|_| "0..1000".into());
    let short = std::env::var_os("RINGPULL_SIM_SEEDS").is_none();
    let (first, end) = range.split_once("..").expect("FIRST..END");
    let (first, end): (u64, u64) = (first.parse().unwrap(), end.parse().unwrap());
    let watch = Watch::start();
    let started = Instant::now();
    let mut outcomes = Outcome::default();
    let mut broken = 0;
    let mut done = 0;
    for seed in first..end {
        watch.begin(seed);
        match run(seed, false) {
            Ok(outcome) => outcomes.add(&outcome),
            Err(problem) => {
                println!("seed {seed}: {problem}\n  again: scripts/sim --seed {seed}");
                broken += 1;
            }
        }
        done += 1;
        // Not a bound on time that fails anything: a slow machine just runs fewer.
        if broken >= 20 || (short && started.elapsed() > Duration::from_secs(20)) {
            break;
        }
    }
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    println!("{done} seeds, {:.0} pulls a minute: {outcomes}", outcomes.pulls as f64 / minutes);
    assert_eq!(broken, 0, "seeds that broke an invariant");
    assert!(done > 0, "no seed was run: {range}");
}

#[test]
fn seeds_that_once_failed_do_not_again() {
    for (seed, why) in REGRESSIONS {
        if let Err(problem) = run(seed, false) {
            panic!("seed {seed} ({why}): {problem}");
        }
    }
}

/// Places from `RINGPULL_SIM_TRICKLES=FIRST..END`, or a few that take some seconds.
#[test]
fn any_answer_may_trickle_anywhere() {
    let range = std::env::var("RINGPULL_SIM_TRICKLES").unwrap_or_else(|_| "0..150".into());
    let (first, end) = range.split_once("..").expect("FIRST..END");
    let (first, end): (u64, u64) = (first.parse().unwrap(), end.parse().unwrap());
    assert!(first < end, "no places");
    let watch = Watch::start();
    let mut all = trickle::Trickles::default();
    let mut broken = 0;
    for number in first..end {
        watch.begin(number);
        match trickle::run(number, end == first + 1) {
            Ok(place) => all.add(place),
            Err(problem) => {
                println!("place {number}: {problem}\n  again: scripts/sim --trickle {number}");
                broken += 1;
            }
        }
        if broken >= 20 {
            break;
        }
    }
    println!("{all}");
    assert_eq!(broken, 0, "places where a pull goes on for too long");
}

/// The seed in `RINGPULL_SIM_SEED`, with a line for everything that happens.
#[test]
#[ignore = "one seed: scripts/sim --seed"]
fn one_seed_in_full() {
    let seed = std::env::var("RINGPULL_SIM_SEED").expect("RINGPULL_SIM_SEED names a seed");
    let outcome = run(seed.parse().unwrap(), true);
    println!("{}", outcome.unwrap_or_else(|problem| panic!("seed {seed}: {problem}")));
}

#[test]
fn a_seed_replays() {
    for seed in 0..60 {
        let [first, second] = [(); 2].map(|()| run(seed, false).map(|outcome| outcome.fingerprint));
        assert_eq!(first, second, "seed {seed}");
    }
}

/// Ends the process when a seed takes for ever, which the virtual clock cannot see: two that wait for
/// each other without a timer, or one that waits for nothing.
struct Watch;

static SEED: AtomicU64 = AtomicU64::new(0);
static BEGAN: AtomicU64 = AtomicU64::new(0);

impl Watch {
    fn start() -> Watch {
        let epoch = Instant::now();
        std::thread::spawn(move || {
            let mut last = (0, epoch);
            loop {
                std::thread::sleep(Duration::from_secs(1));
                let count = BEGAN.load(Ordering::Relaxed);
                if count != last.0 {
                    last = (count, Instant::now());
                }
                let seed = SEED.load(Ordering::Relaxed);
                if count > 0 && last.1.elapsed() > SEED_TIME_MAX {
                    println!("seed {seed} does not end\n  again: scripts/sim --seed {seed}");
                    std::process::abort();
                }
            }
        });
        Watch
    }

    fn begin(&self, seed: u64) {
        SEED.store(seed, Ordering::Relaxed);
        BEGAN.fetch_add(1, Ordering::Relaxed);
    }
}
