//! `SO_RCVLOWAT` (socket(7)): how many bytes must wait in a socket before it counts as readable.
//!
//! Few large completions cost much less than many small ones. The mark changes when a receive
//! begins, not when it ends: who sets one must know that so many bytes will come, and must look for
//! fewer when a deadline passes.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Sets the mark of a socket, in bytes; 1 undoes it. Returns what it came to: less where the largest receive
/// buffer (`net.ipv4.tcp_rmem`) is below four times as much.
///
/// The receive window is made twice as large as the mark, if it is smaller. The kernel makes it just as
/// large (`tcp_set_rcvlowat`), and cuts the mark to half of the largest buffer. Bytes below the mark
/// may then leave no room for a whole segment: the sender waits for room while we wait for its bytes.
pub(super) fn set(socket: impl AsFd, bytes: usize) -> io::Result<usize> {
    let socket = socket.as_fd();
    let mut mark = bytes;
    if bytes > 1 {
        set_once(socket, bytes.saturating_mul(2))?;
        mark = get(socket)? / 2;
    }
    set_once(socket, mark)?;
    Ok(mark)
}

fn set_once(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let mark = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the descriptor is open, as it is borrowed; the option's value is an int that lives
    // until the call has returned, and its length is given.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const mark).cast(),
            size_of_val(&mark) as libc::socklen_t,
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut mark: libc::c_int = 1;
    let mut length = size_of_val(&mark) as libc::socklen_t;
    // SAFETY: the descriptor is open, as it is borrowed; the kernel writes an int and its length to
    // where ints of that length are, which live until the call has returned.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw mut mark).cast(),
            &raw mut length,
        )
    };
    if answer == 0 { Ok(usize::try_from(mark).unwrap_or(1)) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_mark_leaves_as_much_room_in_the_window() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for wanted in [64 << 10, 256 << 10, usize::MAX] {
            let mark = set(&stream, wanted).unwrap();
            assert_eq!(get(stream.as_fd()).unwrap(), mark);
            assert!((2..=wanted).contains(&mark));
            // A new socket's window is half of its buffer.
            let buffer = socket2::SockRef::from(&stream).recv_buffer_size().unwrap();
            assert!(buffer >= 4 * mark, "{buffer} for {mark}");
        }
        assert_eq!(set(&stream, 1).unwrap(), 1);
    }
}
