//! The epoll engine: the contract on tokio's current-thread runtime.
//!
//! For kernels and containers without io_uring, and for comparison. The socket is asked before the
//! timer, so that bytes which arrived win over a deadline which passed.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::timeout_at;

use super::super::{Buffer, Deadline, Error, Phase};
use super::EngineId;

/// Tokio's current-thread runtime.
pub struct Engine {
    id: EngineId,
    runtime: tokio::runtime::Runtime,
}

impl Engine {
    pub(super) fn start() -> io::Result<Engine> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Engine { id: EngineId::new(), runtime })
    }

    pub(super) fn id(&self) -> EngineId {
        self.id
    }

    pub(super) fn run<F: Future>(&self, main: F) -> F::Output {
        LocalSet::new().block_on(&self.runtime, main)
    }
}

pub(super) struct Stream {
    stream: TcpStream,
    low_water: Cell<usize>,
}

impl Stream {
    pub(super) async fn connect(address: SocketAddr, deadline: Deadline) -> Result<Stream, Error> {
        let connected = before(deadline, TcpStream::connect(address)).await?;
        // Requests are small and sent whole; waiting to join them with more would only delay them.
        connected.set_nodelay(true).map_err(|error| Error::io(Phase::Connect, error))?;
        Ok(Stream { stream: connected, low_water: Cell::new(1) })
    }

    pub(super) async fn recv(
        &self,
        mut buffer: Buffer,
        deadline: Deadline,
    ) -> (Result<usize, Error>, Buffer) {
        let received = before(deadline, async {
            // A peer that is always ready must not keep the other connections waiting.
            tokio::task::coop::consume_budget().await;
            loop {
                self.wait_for_the_mark().await?;
                match self.stream.try_read(buffer.spare()) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.stream.readable().await?;
                    }
                    other => return other,
                }
            }
        })
        .await;
        if let Ok(count) = received {
            buffer.advance(count);
        }
        (received, buffer)
    }

    /// Waits until the kernel finds that the mark is reached. A read itself returns what there is; only
    /// readiness minds the mark, and tokio remembers it from before.
    async fn wait_for_the_mark(&self) -> io::Result<()> {
        if self.low_water.get() <= 1 {
            return Ok(());
        }
        // Makes tokio forget, unless an event has come since it looked. The end of the stream is
        // never forgotten, so it is not waited for in vain.
        let _ = self.stream.try_io(Interest::READABLE, || {
            // The kernel's word, not a count: it also ends the wait where the sender has no room left.
            let mut sockets = [PollFd::new(&self.stream, PollFlags::IN)];
            match poll(&mut sockets, Some(&Timespec::default()))? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            }
        });
        self.stream.readable().await
    }

    pub(super) async fn send(
        &self,
        bytes: Bytes,
        deadline: Deadline,
    ) -> (Result<usize, Error>, Bytes) {
        let sent = before(deadline, async {
            loop {
                match self.stream.try_write(&bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.stream.writable().await?;
                    }
                    other => return other,
                }
            }
        })
        .await;
        (sent, bytes)
    }

    pub(super) fn shutdown(&self, how: Shutdown) {
        // Fails only on a socket that has no peer any more, which is as well.
        let _ = socket2::SockRef::from(&self.stream).shutdown(how);
    }

    pub(super) fn set_low_water(&self, bytes: usize) -> io::Result<()> {
        super::low_water::set(&self.stream, bytes)?;
        self.low_water.set(bytes);
        Ok(())
    }

    pub(super) fn waiting(&self) -> io::Result<u64> {
        Ok(rustix::io::ioctl_fionread(&self.stream)?)
    }

    pub(super) fn is_quiet(&self) -> bool {
        super::has_nothing_to_say(&self.stream)
    }

    pub(super) fn peer_address(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}

/// `wait`, or the deadline. The wait is polled first.
async fn before<T>(
    deadline: Deadline,
    wait: impl Future<Output = io::Result<T>>,
) -> Result<T, Error> {
    match timeout_at(deadline.at.into(), wait).await {
        Ok(answer) => answer.map_err(|error| Error::io(deadline.phase, error)),
        Err(_) => Err(Error::expired(deadline)),
    }
}
