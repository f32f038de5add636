//! A listener with a thread for each connection, all of which end when it is dropped.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::lock;
use crate::limits::{DEMO_BACKLOG, DEMO_CONNECTIONS_MAX, DEMO_THREAD_STACK_SIZE};

/// A listener that accepts nothing yet: its address is known before what is served.
pub(super) struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

impl Bound {
    pub(super) fn new(address: SocketAddr) -> io::Result<Bound> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(DEMO_BACKLOG)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        Ok(Bound { listener, address })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts from now on. `serve` runs in the connection's own thread, and its return closes the
    /// connection; the number it gets counts up from `ids` in the order of acceptance.
    pub(super) fn serve(
        self,
        ids: Arc<AtomicU64>,
        serve: impl Fn(u64, Arc<TcpStream>) + Send + Sync + 'static,
    ) -> io::Result<Server> {
        let listener = Arc::new(self.listener);
        let connections = Arc::new(Connections::default());
        let accepting = thread::Builder::new().name("demo-accept".into()).spawn({
            let (listener, connections) = (Arc::clone(&listener), Arc::clone(&connections));
            move || accept(&listener, &connections, &ids, &serve)
        })?;
        Ok(Server { listener, connections, accepting: Some(accepting) })
    }
}

/// A running server. Dropping it stops accepting, shuts all connections down and waits for their
/// threads.
pub(super) struct Server {
    listener: Arc<TcpListener>,
    connections: Arc<Connections>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Number of connections that are open now.
    pub(super) fn open(&self) -> usize {
        lock(&self.connections.table).sockets.len()
    }

    /// Largest number of connections that were open at once.
    pub(super) fn peak(&self) -> usize {
        lock(&self.connections.table).peak
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.connections.stop();
        // On Linux, this makes a blocked accept(2) return EINVAL. If it fails, so has accept.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            // Its panic is that of a connection, reported by the panic hook already.
            let _ = accepting.join();
        }
    }
}

/// The sockets of the open connections.
#[derive(Default)]
struct Connections {
    table: Mutex<Table>,
    stopped: Condvar,
}

#[derive(Default)]
struct Table {
    sockets: HashMap<u64, Arc<TcpStream>>,
    peak: usize,
    stopping: bool,
}

impl Connections {
    /// Enters a connection; `None` when there are too many or the server stops.
    fn enter(&self, id: u64, socket: TcpStream) -> Option<Entered<'_>> {
        let mut table = lock(&self.table);
        if table.stopping || table.sockets.len() >= DEMO_CONNECTIONS_MAX {
            return None;
        }
        let socket = Arc::new(socket);
        table.sockets.insert(id, Arc::clone(&socket));
        table.peak = table.peak.max(table.sockets.len());
        Some(Entered { connections: self, id, socket })
    }

    fn stop(&self) {
        let mut table = lock(&self.table);
        table.stopping = true;
        for socket in table.sockets.values() {
            // Fails only when the peer was faster.
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.stopped.notify_all();
    }

    /// Whether the server stops, now or within a moment: a pause after accept failed for want of
    /// descriptors or memory.
    fn stops_within_a_moment(&self) -> bool {
        const MOMENT: Duration = Duration::from_millis(10);
        let going_on = |table: &mut Table| !table.stopping;
        match self.stopped.wait_timeout_while(lock(&self.table), MOMENT, going_on) {
            Ok((table, _)) => table.stopping,
            Err(_) => true,
        }
    }
}

/// A connection's place in the table; left on drop, which closes the socket.
struct Entered<'a> {
    connections: &'a Connections,
    id: u64,
    socket: Arc<TcpStream>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        lock(&self.connections.table).sockets.remove(&self.id);
    }
}

fn accept(
    listener: &TcpListener,
    connections: &Connections,
    ids: &AtomicU64,
    serve: &(impl Fn(u64, Arc<TcpStream>) + Sync),
) {
    // The scope ends when all its threads have.
    thread::scope(|scope| {
        loop {
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(_) if connections.stops_within_a_moment() => return,
                Err(_) => continue,
            };
            let id = ids.fetch_add(1, Ordering::Relaxed);
            let Some(entered) = connections.enter(id, socket) else { continue };
            // Without a thread the connection is closed: the closure, and `entered`, are dropped.
            let _ = thread::Builder::new()
                .name(format!("demo-{id}"))
                .stack_size(DEMO_THREAD_STACK_SIZE)
                .spawn_scoped(scope, move || serve(entered.id, Arc::clone(&entered.socket)));
        }
    });
}
