//! Origins and URLs: what names a server, and what could be read in two ways.

use std::net::IpAddr;

use ringpull::http::{HttpUrl, Request, UrlError};
use ringpull::limits::URL_SIZE_MAX;
use ringpull::origin::{Origin, OriginError, Scheme};

#[test]
fn an_origin_has_one_spelling() {
    use Scheme::{Http, Https};
    for (scheme, host, port, shown, bare, authority) in [
        (Https, "ghcr.io", 443, "https://ghcr.io", "ghcr.io", "ghcr.io"),
        (Https, "GHCR.io", 443, "https://ghcr.io", "ghcr.io", "ghcr.io"),
        (Https, "ghcr.io", 80, "https://ghcr.io:80", "ghcr.io", "ghcr.io:80"),
        (Http, "ghcr.io", 80, "http://ghcr.io", "ghcr.io", "ghcr.io"),
        (Http, "localhost", 5000, "http://localhost:5000", "localhost", "localhost:5000"),
        (Http, "my_registry", 5000, "http://my_registry:5000", "my_registry", "my_registry:5000"),
        (
            Https,
            "bücher.example",
            443,
            "https://xn--bcher-kva.example",
            "xn--bcher-kva.example",
            "xn--bcher-kva.example",
        ),
        (Https, "r.svc.local.", 443, "https://r.svc.local.", "r.svc.local.", "r.svc.local."),
        (Https, "10.0.0.1", 443, "https://10.0.0.1", "10.0.0.1", "10.0.0.1"),
        (Https, "0x7f.1", 443, "https://127.0.0.1", "127.0.0.1", "127.0.0.1"),
        (Https, "::1", 443, "https://[::1]", "::1", "[::1]"),
        (Https, "[::1]", 5000, "https://[::1]:5000", "::1", "[::1]:5000"),
        (Https, "[0:0:0:0:0:0:0:1]", 443, "https://[::1]", "::1", "[::1]"),
        (Http, "2001:DB8::A", 80, "http://[2001:db8::a]", "2001:db8::a", "[2001:db8::a]"),
    ] {
        let origin = Origin::new(scheme, host, port).unwrap();
        assert_eq!((origin.scheme(), origin.host(), origin.port()), (scheme, bare, port));
        assert_eq!(
            (origin.to_string(), origin.authority()),
            (shown.to_owned(), authority.to_owned())
        );
        assert_eq!(HttpUrl::parse(shown).unwrap().origin(), origin, "{shown}");
        assert_eq!(origin.ip(), bare.parse::<IpAddr>().ok());
    }
    let origin = |scheme, host, port| Origin::new(scheme, host, port).unwrap();
    let one = origin(Https, "a.example", 443);
    assert_eq!(one, origin(Https, "A.EXAMPLE", 443));
    for other in [
        origin(Http, "a.example", 443),
        origin(Https, "b.example", 443),
        origin(Https, "a.example", 8443),
        origin(Https, "x.a.example", 443),
        origin(Https, "a.example.", 443),
    ] {
        assert_ne!(one, other);
    }
}

#[test]
fn what_is_no_host_makes_no_origin() {
    let long_label = format!("{}.example", "a".repeat(64));
    let long_name = "a.".repeat(127) + "aa";
    for host in [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a b",
        "a\r\nb",
        "a\0b",
        "a/b",
        "a@b",
        "a:b",
        "a%2eb",
        "a%b",
        "ghcr%2eio",
        "[::1",
        "::1]",
        "[]",
        "[a]",
        "[1.2.3.4]",
        "fe80::1%eth0",
        "[fe80::1%25eth0]",
        "1.2.3.4.5",
        "256.256.256.256",
        "1.2.3.4:80",
        "a,b",
        "a;b",
        "a'b",
        "a!b",
        "a*b",
        "*",
        "a\\b",
        "a?b",
        "a#b",
        "::1::",
        &long_label,
        &long_name,
    ] {
        let error = Origin::new(Scheme::Https, host, 443).unwrap_err();
        assert!(matches!(error, OriginError::Host(_)), "{host:?}");
        assert!(!error.to_string().contains(['\r', '\n', '\0']), "{host:?}");
    }
    assert_eq!(Origin::new(Scheme::Https, "a", 0), Err(OriginError::Port));
}

#[test]
fn loopback_is_this_machine_only() {
    for (host, expected) in [
        ("localhost", true),
        ("LOCALHOST", true),
        ("localhost.", true),
        ("r.localhost", true),
        ("a.b.localhost.", true),
        ("127.0.0.1", true),
        ("127.255.255.254", true),
        ("127.1", true),
        ("::1", true),
        ("[::1]", true),
        ("::ffff:127.0.0.1", true),
        ("localhost.example", false),
        ("notlocalhost", false),
        ("localhost.localdomain", false),
        ("128.0.0.1", false),
        ("126.255.255.255", false),
        ("0.0.0.0", false),
        ("::", false),
        ("::2", false),
        ("10.0.0.1", false),
        ("192.168.0.1", false),
        ("169.254.169.254", false),
        ("127.0.0.1.example", false),
        ("fe80::1", false),
        ("::ffff:10.0.0.1", false),
    ] {
        let origin = Origin::new(Scheme::Http, host, 80).unwrap();
        assert_eq!(origin.is_loopback(), expected, "{host}");
    }
}

#[test]
fn urls_are_parsed_into_target_and_origin() {
    for (text, origin, target) in [
        ("https://ghcr.io", "https://ghcr.io", "/"),
        ("https://ghcr.io/", "https://ghcr.io", "/"),
        ("HTTPS://GHCR.IO/V2/", "https://ghcr.io", "/V2/"),
        ("https://ghcr.io:443/v2/", "https://ghcr.io", "/v2/"),
        ("https://ghcr.io:/v2/", "https://ghcr.io", "/v2/"),
        ("http://ghcr.io:443/v2/", "http://ghcr.io:443", "/v2/"),
        ("http://localhost:5000/v2/", "http://localhost:5000", "/v2/"),
        ("http://[::1]:5000/v2/", "http://[::1]:5000", "/v2/"),
        ("https://a.example?x=1", "https://a.example", "/?x=1"),
        ("https://a.example/?", "https://a.example", "/?"),
        ("https://a.example/p?x=1#f?g", "https://a.example", "/p?x=1"),
        ("https://a.example/p#f", "https://a.example", "/p"),
        ("https://a.example/a/../b/./c", "https://a.example", "/b/c"),
        ("https://a.example/é?é", "https://a.example", "/%C3%A9?%C3%A9"),
        ("https://a.example/a%20b?c=%2F&d=a+b", "https://a.example", "/a%20b?c=%2F&d=a+b"),
        ("https://a.example//b", "https://a.example", "//b"),
        ("https://a.example/@b:c", "https://a.example", "/@b:c"),
        ("https://a.example/?u=a@b", "https://a.example", "/?u=a@b"),
    ] {
        let url = HttpUrl::parse(text).unwrap();
        assert_eq!(url.origin().to_string(), origin, "{text}");
        assert_eq!(url.path_and_query(), target, "{text}");
        assert_eq!(url.absolute(), format!("{origin}{target}"), "{text}");
        assert!(target.starts_with(url.path()), "{text}");
        assert_eq!(HttpUrl::parse(&format!("{origin}{target}")).unwrap(), url, "{text}");
    }
}

#[test]
fn urls_that_could_be_read_in_two_ways_are_refused() {
    let scheme = |name: &str| UrlError::Scheme(name.to_owned());
    let host = |text: &str| UrlError::Origin(OriginError::Host(text.to_owned()));
    let long = format!("https://a.example/{}", "x".repeat(URL_SIZE_MAX));
    // Each of them is six bytes when it is escaped.
    let escaped = format!("https://a.example/{}", "é".repeat(URL_SIZE_MAX / 4));
    let cases = [
        (&escaped[..], UrlError::TooLong { size: 18 + 6 * (URL_SIZE_MAX / 4) }),
        ("", UrlError::Empty),
        (&long, UrlError::TooLong { size: long.len() }),
        (" https://a.example/", UrlError::Character(' ')),
        ("https://a.example/ ", UrlError::Character(' ')),
        ("https://a.example/a b", UrlError::Character(' ')),
        ("https://a.example/\r\nX: y", UrlError::Character('\r')),
        ("https://a.exam\nple/", UrlError::Character('\n')),
        ("ht\ttps://a.example/", UrlError::Character('\t')),
        ("https://a.example/\0", UrlError::Character('\0')),
        ("https://a.example/\u{7f}", UrlError::Character('\u{7f}')),
        ("https://a.example/\u{85}", UrlError::Character('\u{85}')),
        ("https://a.example/\u{2028}", UrlError::Character('\u{2028}')),
        ("https://a.example\\@b.example/", UrlError::Character('\\')),
        ("https:\\\\a.example/", UrlError::Character('\\')),
        ("/v2/", UrlError::Relative),
        ("//a.example/", UrlError::Relative),
        ("a.example", UrlError::Relative),
        ("://a.example", UrlError::Relative),
        ("a.example:5000/x", scheme("a.example")),
        ("ftp://a.example/", scheme("ftp")),
        ("file:///etc/passwd", scheme("file")),
        ("javascript:alert(1)", scheme("javascript")),
        ("unix:///run/docker.sock", scheme("unix")),
        ("httpss://a.example/", scheme("httpss")),
        ("https:a.example", UrlError::NoHost),
        ("https:/a.example", UrlError::NoHost),
        ("https:///a.example", UrlError::NoHost),
        ("https://", UrlError::NoHost),
        ("https://?x", UrlError::NoHost),
        ("https://#x", UrlError::NoHost),
        ("https://:443/", UrlError::NoHost),
        ("https://user:password@a.example/", UrlError::UserInfo),
        ("https://user@a.example/", UrlError::UserInfo),
        ("https://@a.example/", UrlError::UserInfo),
        ("https://:@a.example/", UrlError::UserInfo),
        ("https://a.example@b.example/", UrlError::UserInfo),
        ("https://a%2eexample/", UrlError::EscapedHost),
        ("https://a%00.example/", UrlError::EscapedHost),
        ("http://[fe80::1%25eth0]/", UrlError::EscapedHost),
        ("http://[fe80::1%eth0]/", UrlError::EscapedHost),
        ("https://a..example/", host("a..example")),
        ("https://a!b/", host("a!b")),
        ("https://a.example:0/", UrlError::Origin(OriginError::Port)),
        ("https://a.example:65536/", UrlError::Syntax(url::ParseError::InvalidPort)),
        ("https://a.example:+443/", UrlError::Syntax(url::ParseError::InvalidPort)),
        ("https://a.example:443:443/", UrlError::Syntax(url::ParseError::InvalidPort)),
        ("https://[::1/", UrlError::Syntax(url::ParseError::InvalidIpv6Address)),
        ("https://[v1.a]/", UrlError::Syntax(url::ParseError::InvalidIpv6Address)),
        ("https://1.2.3.256/", UrlError::Syntax(url::ParseError::InvalidIpv4Address)),
        ("https://a^b/", UrlError::Syntax(url::ParseError::IdnaError)),
    ];
    for (text, error) in cases {
        assert_eq!(HttpUrl::parse(text), Err(error.clone()), "{text:?}");
        let message = error.to_string();
        assert!(!message.contains("password") && !message.contains(char::is_control), "{message}");
    }
}

#[test]
fn locations_are_resolved_against_the_url_asked() {
    let base = HttpUrl::parse("https://a.example:8443/v2/x/blobs/y?q=1").unwrap();
    for (location, expected) in [
        ("https://b.example/z?sig=1", "https://b.example/z?sig=1"),
        ("http://a.example:8443/", "http://a.example:8443/"),
        ("//b.example/z", "https://b.example/z"),
        ("//b.example:80/z", "https://b.example:80/z"),
        ("/z", "https://a.example:8443/z"),
        ("/z#fragment", "https://a.example:8443/z"),
        ("/../../z", "https://a.example:8443/z"),
        ("z", "https://a.example:8443/v2/x/blobs/z"),
        ("../z?r=2", "https://a.example:8443/v2/x/z?r=2"),
        ("./a:b", "https://a.example:8443/v2/x/blobs/a:b"),
        ("?r=2", "https://a.example:8443/v2/x/blobs/y?r=2"),
        ("#fragment", "https://a.example:8443/v2/x/blobs/y?q=1"),
        ("/http://b.example/", "https://a.example:8443/http://b.example/"),
        ("/@b.example", "https://a.example:8443/@b.example"),
        ("@b.example", "https://a.example:8443/v2/x/blobs/@b.example"),
        ("/%0d%0aX:y", "https://a.example:8443/%0d%0aX:y"),
    ] {
        assert_eq!(base.join(location).unwrap().absolute(), expected, "{location}");
    }
    for location in [
        "",
        " ",
        " /z",
        "/z ",
        "/z\r\nSet-Cookie: a",
        "\t//b.example",
        "/\\b.example",
        "\\\\b.example",
        "///b.example",
        "////b.example",
        "https:z",
        "https:/z",
        "https:///z",
        "http:",
        "ftp://b/",
        "data:,x",
        "//",
        "//user@b.example/",
        "https://user:pw@b.example/",
        "//@b.example",
        "//:80/",
        "//[fe80::1%25eth0]/",
        "//b%2eexample/",
        "a:b",
        "mailto:a@b",
        "//b.example:0/",
        "//b.example:99999/",
    ] {
        assert!(base.join(location).is_err(), "{location:?}");
    }
}

#[test]
fn urls_hide_what_opens_doors() {
    for (text, shown) in [
        ("https://a.example/b", "https://a.example/b"),
        ("https://a.example/b?", "https://a.example/b?…"),
        ("https://a.example/b?sig=CANARY", "https://a.example/b?…"),
        ("https://a.example/b?CANARY", "https://a.example/b?…"),
        ("https://a.example/b?service=r&scope=s", "https://a.example/b?service=r&scope=s"),
        ("https://a.example/b?sig=CANARY&ns=docker.io", "https://a.example/b?ns=docker.io&…"),
        ("https://a.example/b?ns=d&token=CANARY&scope=s", "https://a.example/b?ns=d&scope=s&…"),
        ("https://a.example/b?Service=CANARY", "https://a.example/b?…"),
        ("https://a.example/b?xservice=CANARY", "https://a.example/b?…"),
        ("https://a.example/b?sig=service=CANARY", "https://a.example/b?…"),
        ("https://a.example/b#CANARY", "https://a.example/b"),
    ] {
        let url = HttpUrl::parse(text).unwrap();
        assert_eq!(url.to_string(), shown);
        assert_eq!(format!("{url:?}"), format!("HttpUrl({shown})"));
        let request = Request::get(url.clone()).authorization("Bearer CANARY".into()).unwrap();
        assert!(!format!("{request:?}{url:#?}").contains("CANARY"));
    }
    let long = HttpUrl::parse(&format!("https://a.example/{}", "x".repeat(9000))).unwrap();
    assert!(long.to_string().len() < 600);
}

#[test]
fn query_pairs_are_encoded() {
    let base = HttpUrl::parse("https://auth.example/token").unwrap();
    let pairs = [("service", "r.example"), ("scope", "repository:a/b:pull"), ("x", "&=#\r\né ")];
    let expected =
        "/token?service=r.example&scope=repository%3Aa%2Fb%3Apull&x=%26%3D%23%0D%0A%C3%A9+";
    assert_eq!(base.with_query_pairs(pairs).path_and_query(), expected);
    assert_eq!(base.with_query_pairs([]), base);
    let more = base.with_query_pairs([("a", "b")]).with_query_pairs([("c", "d")]);
    assert_eq!(more.path_and_query(), "/token?a=b&c=d");
}
