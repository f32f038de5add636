//! How long a redirect is good for, so that the pieces of a blob need not ask the registry each time.
//!
//! The signed URLs of object stores say so themselves, each in its own way:
//!
//! | store | from | so long | until |
//! |---|---|---|---|
//! | Amazon S3 and its kin (signature version 4) | `X-Amz-Date` | `X-Amz-Expires` | |
//! | Google Cloud Storage (version 4) | `X-Goog-Date` | `X-Goog-Expires` | |
//! | Azure Blob Storage | | | `se` |
//! | CloudFront, older signatures of Amazon's and Google's | | | `Expires` |
//!
//! Times in them are the store's, and compared with the `Date` of the answer that redirects, never
//! with our clock: what a clock shows that is an hour off does not matter. What is misread here costs
//! a request: the store refuses, and the registry is asked again.

use std::time::{Duration, SystemTime};

use url::form_urlencoded;

use crate::http::{HttpUrl, ResponseHead};
use crate::limits::{REDIRECT_LIFETIME_DEFAULT, REDIRECT_LIFETIME_MAX};

/// How long the redirect to `target` in `head` is good for, from the moment its request was sent. To
/// be counted by a monotonic clock. Zero if it is not to be used again at all.
///
/// At most [`REDIRECT_LIFETIME_MAX`]; [`REDIRECT_LIFETIME_DEFAULT`] where nobody says.
pub fn of_redirect(head: &ResponseHead, target: &HttpUrl) -> Duration {
    let date = head.get("date").and_then(|date| httpdate::parse_http_date(date).ok());
    let said = [freshness(head), signature_lifetime(target, date)].into_iter().flatten().min();
    said.unwrap_or(REDIRECT_LIFETIME_DEFAULT).min(REDIRECT_LIFETIME_MAX)
}

/// What `Cache-Control` says (RFC 9111 section 5.2.2). It was written for caches, and tells the same:
/// until when the answer would be another one. `private` is what we are.
fn freshness(head: &ResponseHead) -> Option<Duration> {
    let directives = head.get_all("cache-control").flat_map(|value| value.split(','));
    let lifetime = |directive: &str| {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => Some(Duration::ZERO),
            // One that cannot be read is stale (RFC 9111 section 4.2.1).
            "max-age" => Some(seconds(value.trim().trim_matches('"')).unwrap_or_default()),
            _ => None,
        }
    };
    let lifetime = directives.filter_map(lifetime).min()?;
    let age = head.get("age").and_then(|age| seconds(age.trim())).unwrap_or_default();
    Some(lifetime.saturating_sub(age))
}

/// What the signed URL itself says, at the time `date`; the shortest, if it says several things.
fn signature_lifetime(target: &HttpUrl, date: Option<SystemTime>) -> Option<Duration> {
    let (_, query) = target.path_and_query().split_once('?')?;
    let value = |key: &str| {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find(|(given, _)| given.eq_ignore_ascii_case(key)).map(|(_, value)| value)
    };
    let signed = |lifetime: &str, from: &str| {
        let lifetime = seconds(&value(lifetime)?)?;
        let from = value(from).and_then(|from| compact_time(&from));
        // One from the future, by its own store's clock, has no age.
        let age = date.zip(from).and_then(|(date, from)| date.duration_since(from).ok());
        Some(lifetime.saturating_sub(age.unwrap_or_default()))
    };
    let until = |end: Option<SystemTime>| Some(end?.duration_since(date?).unwrap_or_default());
    let epoch = |end: &str| SystemTime::UNIX_EPOCH.checked_add(seconds(end)?);
    [
        signed("X-Amz-Expires", "X-Amz-Date"),
        signed("X-Goog-Expires", "X-Goog-Date"),
        until(value("se").and_then(|end| azure_time(&end))),
        until(value("Expires").and_then(|end| epoch(&end))),
    ]
    .into_iter()
    .flatten()
    .min()
}

/// Digits alone: `+5` is no number of seconds. More than fit are for ever, of which a century is
/// enough, and can be added to any time without overflow.
fn seconds(text: &str) -> Option<Duration> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| Duration::from_secs(text.parse().unwrap_or(u32::MAX).into()))
}

/// `20261123T233103Z`.
fn compact_time(text: &str) -> Option<SystemTime> {
    if text.len() != 16 || !text.is_ascii() {
        return None;
    }
    let (year, month, day) = (&text[0..4], &text[4..6], &text[6..8]);
    let (hour, minute, second) = (&text[9..11], &text[11..13], &text[13..15]);
    let (t, z) = (&text[8..9], &text[15..16]);
    let text = format!("{year}-{month}-{day}{t}{hour}:{minute}:{second}{z}");
    // What is no digit, no `T` or no `Z` is refused there.
    humantime::parse_rfc3339(&text).ok()
}

/// `2026-11-23T23:31:03Z`, or without the seconds, or the day alone.
fn azure_time(text: &str) -> Option<SystemTime> {
    let until = |end: &str| humantime::parse_rfc3339(&format!("{end}Z")).ok();
    let text = text.strip_suffix('Z').unwrap_or(text);
    until(text)
        .or_else(|| until(&format!("{text}:00")))
        .or_else(|| until(&format!("{text}T00:00:00")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Date: Mon, 23 Nov 2026 23:30:00 GMT\r\n";

    #[track_caller]
    fn check(fields: &str, query: &str, expected: Duration) {
        let head = format!("HTTP/1.1 307 x\r\n{fields}\r\n");
        let head = ResponseHead::parse(head.as_bytes()).unwrap().unwrap().1;
        let target = HttpUrl::parse(&format!("https://s3.example/k{query}")).unwrap();
        assert_eq!(of_redirect(&head, &target), expected, "{fields}{query}");
    }

    fn minutes(count: u64) -> Duration {
        Duration::from_secs(60 * count)
    }

    #[test]
    fn signed_urls_say_how_long_they_are_good() {
        for (query, expected) in [
            // Signed 5 minutes before the answer, or in the future.
            ("?X-Amz-Date=20261123T232500Z&X-Amz-Expires=1200&X-Amz-Signature=a", minutes(15)),
            ("?x-amz-date=20261123T232500Z&x-amz-expires=1200", minutes(15)),
            ("?X-Amz-Expires=1200&X-Amz-Date=20261124T000000Z", minutes(20)),
            ("?X-Amz-Expires=1200", minutes(20)),
            ("?X-Amz-Expires=1200&X-Amz-Date=yesterday", minutes(20)),
            ("?X-Amz-Expires=1200&X-Amz-Date=2026112xT232500Z", minutes(20)),
            ("?X-Amz-Expires=300&X-Amz-Date=20261123T200000Z", minutes(0)),
            ("?X-Goog-Date=20261123T232900Z&X-Goog-Expires=600", minutes(9)),
            ("?sp=r&se=2026-11-23T23%3A40%3A00Z&sig=a%2Fb", minutes(10)),
            ("?se=2026-11-23T23:40Z", minutes(10)),
            ("?se=2026-11-24", minutes(30)),
            ("?se=2026-11-23", minutes(0)),
            ("?Expires=1795477200&Signature=x&Key-Pair-Id=y", minutes(10)),
            ("?Expires=1", minutes(0)),
            // Several of them: the first to end counts.
            ("?X-Amz-Expires=1200&se=2026-11-23T23:40:00Z", minutes(10)),
        ] {
            check(DATE, query, expected);
        }
    }

    #[test]
    fn without_a_date_only_a_length_of_time_says_anything() {
        check("", "?X-Amz-Date=20261123T232500Z&X-Amz-Expires=1200", minutes(20));
        check("", "?se=2026-11-23T23:40:00Z", REDIRECT_LIFETIME_DEFAULT);
        check("Date: today\r\n", "?Expires=1795477200", REDIRECT_LIFETIME_DEFAULT);
    }

    #[test]
    fn caches_are_told_the_same() {
        for (fields, expected) in [
            ("Cache-Control: max-age=120\r\n", minutes(2)),
            ("Cache-Control: private, MAX-AGE=\"120\"\r\n", minutes(2)),
            ("Cache-Control: max-age=120\r\nAge: 60\r\n", minutes(1)),
            ("Cache-Control: max-age=120\r\nAge: 600\r\n", minutes(0)),
            ("Cache-Control: max-age=120\r\nCache-Control: no-cache\r\n", minutes(0)),
            ("Cache-Control: no-store\r\n", minutes(0)),
            ("Cache-Control: max-age=soon\r\n", minutes(0)),
            ("Cache-Control: public\r\n", REDIRECT_LIFETIME_DEFAULT),
            ("", REDIRECT_LIFETIME_DEFAULT),
        ] {
            check(fields, "", expected);
        }
        // Whichever ends first.
        check("Cache-Control: max-age=120\r\n", "?X-Amz-Expires=60", minutes(1));
        check("Cache-Control: max-age=120\r\n", "?X-Amz-Expires=1200", minutes(2));
    }

    #[test]
    fn what_cannot_be_read_says_nothing_and_nothing_is_for_ever() {
        for query in [
            "?X-Amz-Expires=",
            "?X-Amz-Expires=-1",
            "?X-Amz-Expires=%2B60",
            "?X-Amz-Expires=1e3",
            "?X-Goog-Expires=soon",
            "?se=tomorrow",
            "?se=",
            "?se=2026-13-45T99:99:99Z",
            "?Expires=Mon,%2023%20Nov%202026%2023:40:00%20GMT",
            "?Expires",
            "?",
            "",
        ] {
            check(DATE, query, REDIRECT_LIFETIME_DEFAULT);
        }
        for query in [
            "?X-Amz-Expires=604800",
            "?X-Amz-Expires=99999999999999999999999",
            "?Expires=99999999999999999999999",
            "?se=9999-12-31T23:59:59Z",
        ] {
            check(DATE, query, REDIRECT_LIFETIME_MAX);
        }
    }
}
