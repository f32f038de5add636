//! `SO_RCVLOWAT` (socket(7)): how many bytes must wait in a socket before it counts as readable.
//!
//! Few large completions cost much less than many small ones. The mark changes when a receive
//! begins, not when it ends: who sets one must know that so many bytes will come, and must look for
//! fewer when a deadline passes.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Sets the mark of a socket, in bytes. The kernel cuts it to half of the receive buffer.
pub(super) fn set(socket: impl AsFd, bytes: usize) -> io::Result<()> {
    let mark = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the descriptor is open, as it is borrowed; the option's value is an int that lives
    // until the call has returned, and its length is given.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const mark).cast(),
            size_of_val(&mark) as libc::socklen_t,
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
