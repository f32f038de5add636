//! Which addresses a registry may send us to: as a token service, or by a redirect.
//!
//! A name proves nothing: the owner of `auth.evil.example` may let it resolve to 169.254.169.254,
//! where clouds hand out credentials to whoever asks, or to a service on this machine that trusts
//! its callers. So what a name resolved to is judged, by whoever connects, before the first byte is
//! sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of place an address is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// The internet.
    Public,
    /// A network of somebody's own: RFC 1918, RFC 6598 (carrier-grade NAT), RFC 4193.
    Private,
    /// This machine.
    Loopback,
    /// Metadata services of clouds, link-local, multicast and unspecified addresses: no registry and
    /// no token service is there.
    Never,
}

impl AddressClass {
    /// The class of `address`; of the IPv4 address in it, where it embeds one.
    pub fn of(address: IpAddr) -> AddressClass {
        match unwrapped(address) {
            IpAddr::V4(address) => class_v4(address),
            IpAddr::V6(address) => class_v6(address),
        }
    }
}

/// What a registry sends us to an address for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errand {
    /// For a token, of the service that it names.
    Token,
    /// For a token, of a service that the user trusts by name (`--trust-token-service`).
    TrustedToken,
    /// For content, by a redirect.
    Content,
    /// For content, at a URL outside of the registry that a manifest names.
    Foreign,
}

/// Whether a registry, whose own address is of class `registry`, may send us to `address`.
///
/// The internet is always allowed, addresses of [`AddressClass::Never`] never are. This machine is
/// only if the registry is there itself, and so is a network of one's own for a token service and for
/// a URL in a manifest.
/// By a redirect, content may come from such a network: names of public storages resolve to private addresses where
/// a network has a door of its own to them (VPC endpoints). A token service that the user trusts may
/// be anywhere else: on this machine, say, by a forwarded port.
pub fn allowed(errand: Errand, registry: AddressClass, address: IpAddr) -> bool {
    let class = AddressClass::of(address);
    match (class, errand) {
        (AddressClass::Public, _) => true,
        (AddressClass::Never, _) => false,
        (AddressClass::Private | AddressClass::Loopback, Errand::TrustedToken) => true,
        (AddressClass::Private, Errand::Content) => true,
        (AddressClass::Private, Errand::Token | Errand::Foreign) | (AddressClass::Loopback, _) => {
            class == registry
        }
    }
}

/// The IPv4 address that an IPv6 address only wraps: packets to it end there.
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(wrapper) = address else { return address };
    let [a, b, c, d, e, f, g, h] = wrapper.segments();
    let v4 = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match [a, b, c, d, e, f] {
        // IPv4-mapped (RFC 4291 section 2.5.5.2).
        [0, 0, 0, 0, 0, 0xffff] => v4(g, h),
        // IPv4-compatible (section 2.5.5.1); `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0] if g != 0 => v4(g, h),
        // NAT64 (RFC 6052 section 2.1).
        [0x64, 0xff9b, 0, 0, 0, 0] => v4(g, h),
        // 6to4 (RFC 3056 section 2).
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

fn class_v4(address: Ipv4Addr) -> AddressClass {
    match address.octets() {
        // Amazon, Google, Azure, and most others: link-local.
        [169, 254, ..] => AddressClass::Never,
        // Alibaba; Oracle's old one; Azure's host agent.
        [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16] => AddressClass::Never,
        // "This network", which Linux takes for this machine; multicast, reserved, broadcast.
        [0, ..] | [224..=255, ..] => AddressClass::Never,
        [127, ..] => AddressClass::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => AddressClass::Private,
        // Carrier-grade NAT; protocol assignments; benchmarks.
        [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18..=19, ..] => AddressClass::Private,
        _ => AddressClass::Public,
    }
}

fn class_v6(address: Ipv6Addr) -> AddressClass {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => AddressClass::Loopback,
        [0, 0, 0, 0, 0, 0, 0, 0] => AddressClass::Never,
        // Amazon's and Google's metadata services.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => AddressClass::Never,
        [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => AddressClass::Never,
        // Link-local; multicast.
        [0xfe80..=0xfebf, ..] | [0xff00..=0xffff, ..] => AddressClass::Never,
        // Unique local; site-local, long withdrawn; NAT64 of a network's own (RFC 8215).
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => AddressClass::Private,
        [0x64, 0xff9b, 1, ..] => AddressClass::Private,
        _ => AddressClass::Public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AddressClass::{Loopback, Never, Private, Public};

    #[test]
    fn addresses_have_a_class() {
        for (address, expected) in [
            ("1.1.1.1", Public),
            ("169.253.255.255", Public),
            ("169.254.0.0", Never),
            ("169.254.169.254", Never),
            ("169.254.255.255", Never),
            ("169.255.0.0", Public),
            ("100.100.100.199", Private),
            ("100.100.100.200", Never),
            ("192.0.0.192", Never),
            ("168.63.129.16", Never),
            ("168.63.129.17", Public),
            ("0.0.0.0", Never),
            ("0.1.2.3", Never),
            ("224.0.0.1", Never),
            ("240.0.0.1", Never),
            ("255.255.255.255", Never),
            ("127.0.0.1", Loopback),
            ("127.255.255.255", Loopback),
            ("126.255.255.255", Public),
            ("128.0.0.0", Public),
            ("9.255.255.255", Public),
            ("10.0.0.0", Private),
            ("10.255.255.255", Private),
            ("11.0.0.0", Public),
            ("172.15.255.255", Public),
            ("172.16.0.0", Private),
            ("172.31.255.255", Private),
            ("172.32.0.0", Public),
            ("192.167.255.255", Public),
            ("192.168.0.0", Private),
            ("192.169.0.0", Public),
            ("100.63.255.255", Public),
            ("100.64.0.0", Private),
            ("100.127.255.255", Private),
            ("100.128.0.0", Public),
            ("198.17.255.255", Public),
            ("198.19.255.255", Private),
            ("::", Never),
            ("::1", Loopback),
            ("2606:4700::1", Public),
            ("fe7f::1", Public),
            ("fe80::1", Never),
            ("febf::1", Never),
            ("fec0::1", Private),
            ("ff02::1", Never),
            ("fbff::1", Public),
            ("fc00::1", Private),
            ("fdff::1", Private),
            ("fd00:ec2::254", Never),
            ("fd00:ec2::253", Private),
            ("fd20:ce::254", Never),
            // An IPv4 address in disguise.
            ("::ffff:169.254.169.254", Never),
            ("::ffff:127.0.0.1", Loopback),
            ("::ffff:10.1.2.3", Private),
            ("::ffff:1.1.1.1", Public),
            ("::127.0.0.1", Loopback),
            ("::169.254.169.254", Never),
            ("64:ff9b::a9fe:a9fe", Never),
            ("64:ff9b::7f00:1", Loopback),
            ("64:ff9b::101:101", Public),
            ("64:ff9b:1::1", Private),
            ("2002:a9fe:a9fe::1", Never),
            ("2002:c0a8:1::1", Private),
            ("2002:101:101::", Public),
        ] {
            assert_eq!(AddressClass::of(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn a_registry_sends_us_no_nearer_than_it_is() {
        use Errand::{Content, Foreign, Token, TrustedToken};
        let rows = [
            // Errand, registry; address: public, private, loopback, metadata.
            (Token, Public, [true, false, false, false]),
            (Token, Private, [true, true, false, false]),
            (Token, Loopback, [true, false, true, false]),
            (Token, Never, [true, false, false, false]),
            (TrustedToken, Public, [true, true, true, false]),
            (TrustedToken, Private, [true, true, true, false]),
            (TrustedToken, Loopback, [true, true, true, false]),
            (TrustedToken, Never, [true, true, true, false]),
            (Content, Public, [true, true, false, false]),
            (Content, Private, [true, true, false, false]),
            (Content, Loopback, [true, true, true, false]),
            (Content, Never, [true, true, false, false]),
            (Foreign, Public, [true, false, false, false]),
            (Foreign, Private, [true, true, false, false]),
            (Foreign, Loopback, [true, false, true, false]),
        ];
        for (errand, registry, expected) in rows {
            let answers = ["1.1.1.1", "10.0.0.1", "::ffff:127.0.0.1", "169.254.169.254"]
                .map(|address| allowed(errand, registry, address.parse().unwrap()));
            assert_eq!(answers, expected, "{errand:?} {registry:?}");
        }
    }
}
