//! Connections kept for the next request to the same origin.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::limits::IDLE_CONNECTIONS_MAX;
use crate::origin::Origin;
use crate::transport::Connection;

/// The idle connections of one thread. Cloning gives another handle to the same pool.
///
/// Connections never migrate: one made on a ring lives and dies on its thread.
#[derive(Clone, Default)]
pub(super) struct Pool {
    idle: Rc<RefCell<BTreeMap<Origin, Vec<Connection>>>>,
    /// Takes no connection out, only puts some in.
    closed: bool,
}

impl Pool {
    /// The same pool, for whom only a new connection will do.
    pub(super) fn for_new_ones(&self) -> Pool {
        Pool { idle: Rc::clone(&self.idle), closed: true }
    }

    /// The connection to `origin` that was used last, if there is one on which nothing unexpected
    /// happened meanwhile. Others met on the way are closed.
    pub(super) fn take(&self, origin: &Origin) -> Option<Connection> {
        if self.closed {
            return None;
        }
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(origin)?;
        while let Some(connection) = connections.pop() {
            // Bytes that nobody asked for would be taken for the next answer (response queue
            // poisoning); a connection that was closed would cost a round trip.
            if connection.is_quiet() {
                return Some(connection);
            }
            connection.close();
        }
        None
    }

    /// Keeps a connection whose last exchange left it fit for another one.
    pub(super) fn put(&self, origin: Origin, mut connection: Connection) {
        connection.rest();
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(origin).or_default();
        if connections.len() < IDLE_CONNECTIONS_MAX {
            connections.push(connection);
        } else {
            connection.close();
        }
    }
}
