//! The threads that fetch blobs: each with an engine of its own, so that connections never change
//! core. The thread that started them looks after how many connections they have.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet, spawn_local};
use tokio::time::MissedTickBehavior;

use super::board::Board;
use super::descriptors;
use super::error::{Cause, Error};
use super::executor::Executor;
use super::fetch::{self, Fetch};
use super::replace::Minimum;
use super::signals::Stop;
use super::throttle::Throttle;
use super::tuner::{Cpu, Measured, Tuner};
use super::{Context, Job};
use crate::client::Client;
use crate::config::NetworkConfig;
use crate::limits::{
    BLOCK_ALIGNMENT, BLOCK_SIZE, BLOCKS_MAX, BLOCKS_SHARE, CONNECTION_MEMORY, CONNECTIONS_AUTO_MAX,
    KEEP_PATIENCE, STOP_PATIENCE, TUNER_INTERVAL, WORKERS_MAX,
};
use crate::report::format;
use crate::store::Blocks;
use crate::transport::{Connector, Engine, EngineKind, clock};

/// Fetches all `jobs`; ends with the first failure that is final, or when `stop` has a reason.
///
/// Blobs that are complete by then stay in the store; of others, what is here is kept for the next
/// pull.
pub(super) async fn fetch_all(
    context: Arc<Context>,
    executor: Executor,
    connector: &Connector,
    mut jobs: Vec<Job>,
    network: &NetworkConfig,
    stop: &mut watch::Receiver<Option<Stop>>,
) -> Result<(), Error> {
    // Largest first: the last ones to end are then small, and nobody is left alone with a large one.
    jobs.sort_by_key(|job| std::cmp::Reverse(job.descriptor.size));
    let sizes: Vec<u64> = jobs.iter().map(|job| job.descriptor.size).collect();
    let cores = executor.cores();
    let largest = sizes.first().copied().unwrap_or(0);
    let blocks = match largest >= context.store.options().direct_size_min {
        true => block_count(network.memory),
        false => 0,
    };
    let allowed = descriptors::allowed(&executor, cores.min(WORKERS_MAX));
    let most = most_connections(network, blocks, allowed.connections);
    let first = network.connections.unwrap_or(network.jobs.min(jobs.len())).min(most);
    let pieces: u64 = sizes.iter().map(|size| size / network.pieces.first.max(1) + 1).sum();
    let workers = allowed.workers.min(most).min(usize::try_from(pieces).unwrap_or(cores));
    let mut tuner = Tuner::new(first, if network.connections.is_some() { first } else { most });
    tuner.set_limit(network.limit_rate);
    // A blob under way has a file open, whether or not a connection is busy with it.
    let jobs_at_once = network.jobs.min(most);
    let mut board = Board::new(sizes, context.policy, jobs_at_once, workers);
    board.set_pieces(network.pieces);
    // Until it is known that there are cores to do the work.
    board.spread(!tuner.is_free());
    let minimum = network.min_speed.map(|rate| Minimum::new(rate, network.timeouts.recv));
    board.set_minimum(minimum);
    let throttle = network.limit_rate.map(|rate| Throttle::new(rate, clock::now()));
    let fetch =
        Arc::new(Fetch::new(context, jobs, board, tuner, throttle, executor, Blocks::new(blocks)));

    let (end, ended) = watch::channel(false);
    let (done, results) = mpsc::unbounded_channel();
    let mut running = Vec::new();
    let mut outcome = Ok(());
    for worker in 0..workers {
        let (done, ended) = (done.clone(), ended.clone());
        // A connection to a registry that redirects stays idle beside the one it redirected to.
        let sockets = 2 * most.div_ceil(workers) + 2;
        match start(Arc::clone(&fetch), connector, worker, sockets, done, ended) {
            Ok(worker) => running.push(worker),
            Err(source) => {
                // Those that run already are told to end, and waited for like after any failure.
                let _ = end.send(true);
                fetch.close();
                outcome = Err(Error::system("cannot start a thread", source));
                break;
            }
        }
    }
    drop(done);
    let looked_after = look_after(&fetch, results, stop, &end, cores).await;
    let interrupted = looked_after.as_ref().is_err_and(Error::is_interruption)
        && matches!(executor, Executor::Threads(_));
    for worker in running {
        let died = match worker {
            // It waits for the disk, perhaps for long.
            Worker::Thread(thread) if interrupted && !thread.is_finished() => false,
            Worker::Thread(thread) => thread.join().is_err(),
            Worker::Task(task) => task.await.is_err(),
        };
        if died {
            outcome = outcome.and(Err(self::died("it panicked")));
        }
    }
    fetch.keep_partials(interrupted.then_some(KEEP_PATIENCE));
    outcome.and(looked_after)
}

/// A worker that was started.
enum Worker {
    Thread(std::thread::JoinHandle<()>),
    Task(JoinHandle<()>),
}

/// Starts a worker where the executor has it run.
fn start(
    fetch: Arc<Fetch>,
    connector: &Connector,
    worker: usize,
    sockets: usize,
    done: mpsc::UnboundedSender<Result<(), Error>>,
    ended: watch::Receiver<bool>,
) -> std::io::Result<Worker> {
    // Nobody listens to `done` any more only if the pull has failed already.
    match fetch.executor {
        Executor::Threads(engine) => {
            let thread = std::thread::Builder::new().name(format!("fetch-{worker}"));
            let thread = thread.spawn(move || {
                // A thread that died without a word would be waited for: its pieces stay under way.
                let work = AssertUnwindSafe(|| work(&fetch, engine, worker, sockets, ended));
                let result = catch_unwind(work).unwrap_or_else(|_| Err(died("it panicked")));
                let _ = done.send(result);
            });
            thread.map(Worker::Thread)
        }
        Executor::Local => {
            let connector = connector.clone();
            Ok(Worker::Task(spawn_local(async move {
                let _ = done.send(work_with(connector, &fetch, worker, ended).await);
            })))
        }
    }
}

fn died(how: &'static str) -> Error {
    Error::system("a thread that fetches blobs died", std::io::Error::other(how))
}

/// How many connections the memory allows, the user, and the limit on descriptors, by which `most`
/// are.
fn most_connections(network: &NetworkConfig, blocks: usize, most: usize) -> usize {
    let allowed = connections_in(network.memory, blocks);
    let allowed = usize::try_from(allowed).unwrap_or(usize::MAX).min(most);
    // Each layer of as many as the user wants at once gets one.
    let auto = CONNECTIONS_AUTO_MAX.max(network.jobs);
    allowed.clamp(1, network.connections.unwrap_or(auto))
}

/// How many connections have room in so much memory, beside so many blocks.
fn connections_in(memory: u64, blocks: usize) -> u64 {
    let blocks = (blocks * (BLOCK_SIZE + BLOCK_ALIGNMENT)) as u64;
    memory.saturating_sub(blocks) / CONNECTION_MEMORY
}

/// How many blocks the memory allows.
fn block_count(memory: u64) -> usize {
    let allowed = memory / BLOCKS_SHARE / BLOCK_SIZE as u64;
    usize::try_from(allowed).unwrap_or(usize::MAX).min(BLOCKS_MAX)
}

/// Waits for the workers, and tunes meanwhile; after a signal, no longer than [`STOP_PATIENCE`].
async fn look_after(
    fetch: &Fetch,
    mut results: mpsc::UnboundedReceiver<Result<(), Error>>,
    stop: &mut watch::Receiver<Option<Stop>>,
    end: &watch::Sender<bool>,
    cores: usize,
) -> Result<(), Error> {
    let mut outcome = Ok(());
    let mut ticks = tokio::time::interval(TUNER_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    let mut meter = Meter::new(fetch);
    let mut patience = None;
    loop {
        let result = tokio::select! {
            biased;
            result = results.recv() => result,
            why = stopped(stop), if outcome.is_ok() => {
                patience = Some(clock::now() + STOP_PATIENCE);
                Some(Err(Error::new(Cause::Stopped(why)).keeping()))
            }
            () = until(patience) => return outcome,
            _ = ticks.tick() => {
                tune(fetch, &mut meter, cores);
                if fetch.board().review(clock::now()) {
                    fetch.tell();
                }
                continue;
            }
        };
        match result {
            None => return outcome,
            Some(Ok(())) => {}
            Some(Err(error)) => {
                // Fails only if every worker has ended, which is as well.
                let _ = end.send(true);
                fetch.close();
                if outcome.is_ok() {
                    outcome = Err(error);
                }
            }
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Why the pull is to end, once it is; never, if nobody can say so any more.
pub(super) async fn stopped(stop: &mut watch::Receiver<Option<Stop>>) -> Stop {
    let why = stop.wait_for(Option::is_some).await.ok().and_then(|why| *why);
    match why {
        Some(why) => why,
        None => std::future::pending().await,
    }
}

/// Measures, and changes the number of connections if that is called for.
fn tune(fetch: &Fetch, meter: &mut Meter, cores: usize) {
    fetch.sync_partials();
    let Some(measured) = meter.measure(fetch, cores) else { return };
    if measured.cpu.has_idle_core(cores) {
        fetch.use_idle_cores(cores);
    }
    let (before, target, rate, spreads_now) = {
        // The board first, as where a failure backs off; both, so that neither overrules the other
        // with what it has read before.
        let mut board = fetch.board();
        let mut tuner = fetch.tuner();
        let before = tuner.target();
        tuner.tick(measured, clock::now());
        board.set_target(tuner.target());
        if let Some(rate) = tuner.rate_each() {
            board.set_rate(rate);
        }
        let was_spread = board.is_spread();
        if tuner.is_free() {
            let spread = measured.cpu.spreads(was_spread);
            board.spread(spread);
        }
        (before, tuner.target(), tuner.rate(), board.is_spread() && !was_spread)
    };
    if spreads_now {
        // Connections that found nothing to do may have a part of a blob now.
        fetch.tell();
    }
    if target != before {
        fetch.tell();
        let rate = format::rate(rate);
        fetch
            .context
            .reporter
            .note(&format!("{target} connections wanted, after {before} at {rate}"));
    }
}

/// Reads the counters that the tuner goes by.
struct Meter {
    at: Instant,
    bytes: u64,
    /// How many bytes there were at first: before one more there is nothing to judge by.
    first: u64,
    cpu: Duration,
    /// Time that the workers had something to do, whether or not they had a core.
    busy: Duration,
    /// Time that all cores had nothing to do; absent where the kernel does not tell.
    idle: Option<Duration>,
}

impl Meter {
    fn new(fetch: &Fetch) -> Meter {
        let bytes = fetch.context.session.bytes_received();
        let executor = &fetch.executor;
        let (cpu, idle) = (executor.cpu_time(), executor.idle_time());
        Meter { at: clock::now(), bytes, first: bytes, cpu, busy: fetch.busy_time(), idle }
    }

    /// What happened since the last call; nothing while that had no bytes to begin with. Cores are idle
    /// as long as connections are made, and that says nothing about what comes then.
    fn measure(&mut self, fetch: &Fetch, cores: usize) -> Option<Measured> {
        let now = Meter { first: self.first, ..Meter::new(fetch) };
        let judged = self.bytes > self.first;
        let elapsed = now.at.saturating_duration_since(self.at).max(Duration::from_millis(1));
        let bytes = now.bytes - self.first;
        let all = elapsed.saturating_mul(u32::try_from(cores).unwrap_or(u32::MAX));
        let used = now.cpu.saturating_sub(self.cpu);
        let wanted = used.max(now.busy.saturating_sub(self.busy));
        let idle = match (now.idle, self.idle) {
            (Some(now), Some(before)) => now.saturating_sub(before).min(all),
            _ => all.saturating_sub(used),
        };
        *self = now;
        let board = fetch.board();
        let (saturated, flowing, left) = (board.is_saturated(), board.is_flowing(), board.left());
        let [used, wanted, idle] = [used, wanted, idle].map(|part| share(part, all));
        let cpu = Cpu { used, wanted, idle };
        judged.then_some(Measured { bytes, left, cpu, saturated, flowing })
    }
}

/// `part` of `whole`, in per cent.
fn share(part: Duration, whole: Duration) -> u64 {
    u64::try_from(part.as_micros() * 100 / whole.as_micros().max(1)).unwrap_or(100)
}

/// One worker: an engine, and as many pieces at a time as the board gives it.
fn work(
    fetch: &Arc<Fetch>,
    engine: EngineKind,
    worker: usize,
    sockets: usize,
    ended: watch::Receiver<bool>,
) -> Result<(), Error> {
    let engine = match Engine::start(engine, sockets) {
        Ok(engine) => engine,
        // Little memory for rings, or few descriptors: the pull goes on with fewer workers.
        Err(error) if fetch.board().retire(worker) => {
            fetch.context.reporter.note(&format!("a thread cannot start its engine ({error})"));
            fetch.tell();
            return Ok(());
        }
        Err(source) => return Err(Error::system("cannot start the engine on a thread", source)),
    };
    // Each may need a second socket, idle beside it: that of a registry which redirects.
    fetch.board().bound(worker, engine.sockets().map_or(usize::MAX, |sockets| sockets / 2));
    // Ends before the engine, after a panic, too.
    let closes = Closes(fetch);
    let result = engine.run(work_with(engine.connector(), fetch, worker, ended));
    if result.is_ok() {
        std::mem::forget(closes);
    }
    result
}

/// Ends the threads that work for the blobs when it is dropped. An engine waits for its threads when it
/// ends, and they for bytes, which will not come.
struct Closes<'a>(&'a Fetch);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What a worker does, once it has an engine.
async fn work_with(
    connector: Connector,
    fetch: &Arc<Fetch>,
    worker: usize,
    mut ended: watch::Receiver<bool>,
) -> Result<(), Error> {
    let client = Rc::new(Client::new(connector, Arc::clone(&fetch.context.session)));
    fetch.runs_here();
    let mut tasks = JoinSet::new();
    let result = tokio::select! {
        biased;
        result = take_and_fetch(fetch, &client, worker, &mut tasks) => result,
        _ = ended.wait_for(|ended| *ended) => Ok(()),
    };
    // Pieces under way are dropped here.
    tasks.shutdown().await;
    result
}

async fn take_and_fetch(
    fetch: &Arc<Fetch>,
    client: &Rc<Client>,
    worker: usize,
    tasks: &mut JoinSet<Result<(), Error>>,
) -> Result<(), Error> {
    loop {
        let now = clock::now();
        let change = fetch.change();
        loop {
            // The board is not held while the piece is started.
            let next = fetch.board().take(worker, now);
            let Some(piece) = next else { break };
            let (fetch, client) = (Arc::clone(fetch), Rc::clone(client));
            tasks.spawn_local(async move { fetch::piece(&client, &fetch, worker, piece).await });
        }
        let (done, wakes_at) = {
            let board = fetch.board();
            (board.is_done(), board.wakes_at(now))
        };
        if done && tasks.is_empty() {
            return Ok(());
        }
        tokio::select! {
            biased;
            Some(ended) = tasks.join_next() => {
                let died = |error| Error::system("a task died", std::io::Error::other(error));
                ended.map_err(died)??;
            }
            () = change => {}
            () = until(wakes_at) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{MEMORY, RECV_BUFFER_SIZE};

    #[test]
    fn all_that_connections_and_blocks_take_is_within_the_memory() {
        for memory in [1 << 20, 2 << 20, 16 << 20, MEMORY, 1 << 30] {
            let blocks = block_count(memory);
            let connections = connections_in(memory, blocks);
            // Two buffers each, and something for what is no buffer.
            let buffers = connections * 2 * RECV_BUFFER_SIZE as u64;
            let all = buffers + buffers / 8 + (blocks * BLOCK_SIZE) as u64;
            assert!(all <= memory, "{connections} connections, {blocks} blocks in {memory}");
            assert!(connections > 0 && blocks <= BLOCKS_MAX);
        }
        assert_eq!((connections_in(MEMORY, 0), block_count(MEMORY)), (113, BLOCKS_MAX));
        assert_eq!(block_count(1 << 20), 0, "they are for those who have memory to spare");
    }
}
