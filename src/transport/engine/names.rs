//! The system's resolver (getaddrinfo(3)), with its error as a number.
//!
//! The standard library hands on only its text, which differs between C libraries and languages.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

use rustix::io::Errno;

/// Why a name has no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) struct LookupError {
    /// The number that getaddrinfo(3) returned: one of libc's `EAI_…`.
    code: i32,
    /// Of `EAI_SYSTEM`: what the system says.
    errno: Option<Errno>,
}

/// `EAI_ADDRFAMILY` of glibc, which the libc crate does not name.
const EAI_ADDRFAMILY: i32 = -9;

impl LookupError {
    /// Whether the same question may have another answer soon: a name server did not answer or
    /// failed, or this machine was short of something.
    pub(in crate::transport) fn is_transient(self) -> bool {
        matches!(self.code, libc::EAI_AGAIN | libc::EAI_MEMORY | libc::EAI_SYSTEM)
    }

    /// The error in words, which are the same with every C library.
    pub(in crate::transport) fn reason(self) -> String {
        match self.code {
            libc::EAI_NONAME => "there is no such name".to_owned(),
            libc::EAI_NODATA | EAI_ADDRFAMILY => "the name has no address".to_owned(),
            libc::EAI_AGAIN => "no name server gave an answer for now (EAI_AGAIN)".to_owned(),
            libc::EAI_FAIL => "the name server refuses to answer (EAI_FAIL)".to_owned(),
            libc::EAI_MEMORY => "there is not enough memory".to_owned(),
            libc::EAI_SYSTEM => match self.errno {
                Some(errno) => std::io::Error::from(errno).to_string(),
                None => "a system call of the resolver failed".to_owned(),
            },
            code => format!("the resolver fails with its error {code}"),
        }
    }
}

/// The addresses of `host`, each once, in the resolver's order (RFC 6724). Blocks for as long as the
/// resolver likes.
///
/// # Errors
/// What the resolver answers; a name that no resolver can be asked for is one that does not exist.
pub(in crate::transport) fn look_up(host: &str) -> Result<Vec<IpAddr>, LookupError> {
    let Ok(host) = CString::new(host) else {
        return Err(LookupError { code: libc::EAI_NONAME, errno: None });
    };
    // SAFETY: `addrinfo` is made of integers and pointers, for which zero is a value: no hint.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    // One entry for each address, and not one for each kind of socket.
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut list: *mut libc::addrinfo = ptr::null_mut();
    // SAFETY: the name ends in NUL and, like the hints, lives until the call has returned; the list
    // is written to only if the call succeeds.
    let code =
        unsafe { libc::getaddrinfo(host.as_ptr(), ptr::null(), &raw const hints, &raw mut list) };
    if code != 0 {
        let errno = Errno::from_io_error(&std::io::Error::last_os_error());
        return Err(LookupError { code, errno: errno.filter(|_| code == libc::EAI_SYSTEM) });
    }
    let mut addresses = Vec::new();
    let mut entry = list;
    // SAFETY: the list is the resolver's, whole and unchanged until it is given back below; each
    // entry leads to the next one or to null.
    while let Some(found) = unsafe { entry.as_ref() } {
        // SAFETY: `ai_addr` of an entry points to an address of the family that `ai_family` says.
        if let Some(address) = unsafe { address_of(found) }
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
        entry = found.ai_next;
    }
    // SAFETY: the list came from getaddrinfo and is given back once; nothing points into it any more.
    unsafe { libc::freeaddrinfo(list) };
    Ok(addresses)
}

/// The address of an entry; `None` if it is of another family than IPv4 and IPv6.
///
/// # Safety
/// `ai_addr` is null, or points to an address of the family `ai_family`.
unsafe fn address_of(entry: &libc::addrinfo) -> Option<IpAddr> {
    if entry.ai_addr.is_null() {
        return None;
    }
    match entry.ai_family {
        libc::AF_INET => {
            // SAFETY: the caller's promise; it may be less aligned than the type asks for.
            let address: libc::sockaddr_in =
                unsafe { entry.ai_addr.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address: libc::sockaddr_in6 =
                unsafe { entry.ai_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_tell_what_is_worth_a_second_try() {
        let error = |code| LookupError { code, errno: None };
        for code in [libc::EAI_AGAIN, libc::EAI_MEMORY, libc::EAI_SYSTEM] {
            assert!(error(code).is_transient(), "{code}");
        }
        for code in [libc::EAI_NONAME, libc::EAI_NODATA, libc::EAI_FAIL, EAI_ADDRFAMILY, -1_000] {
            assert!(!error(code).is_transient(), "{code}");
        }
        let full = LookupError { code: libc::EAI_SYSTEM, errno: Some(Errno::MFILE) };
        assert!(full.reason().contains("Too many open files"), "{}", full.reason());
    }

    #[test]
    fn a_name_has_each_address_once() {
        let addresses = look_up("localhost").unwrap();
        assert!(
            !addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback),
            "{addresses:?}"
        );
        let mut unique = addresses.clone();
        unique.dedup();
        assert_eq!(unique, addresses);
        assert_eq!(look_up("192.0.2.7").unwrap(), [IpAddr::from([192, 0, 2, 7])]);
        assert_eq!(look_up("a\0b").unwrap_err().code, libc::EAI_NONAME);
    }
}
