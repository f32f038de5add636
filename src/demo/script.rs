//! Which request gets which fault. Plain data: tests are tables of it.
//!
//! ```
//! use ringpull::demo::{Action, Kind, Rule, Script};
//!
//! // The third layer stalls after 1 MiB, once; each request for a manifest is refused twice.
//! let script = Script::from([
//!     Rule::on(Kind::Blob).layer(2).first(1).then(Action::StallAfter(1 << 20)),
//!     Rule::on(Kind::Manifest).first(2).then(Action::status(503)),
//! ]);
//! ```

use std::time::Duration;

use bytes::Bytes;

use crate::image::{Algorithm, Digest};

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Anything.
    Any,
    /// `/v2/`.
    Version,
    /// `/v2/<name>/tags/list`.
    Tags,
    /// A manifest or index, by tag or digest.
    Manifest,
    /// A blob at the registry itself: its bytes, or the redirect to where they are.
    Blob,
    /// A blob at the storage that the registry redirects to.
    Storage,
    /// The token service.
    Token,
    /// Any request that lacks the authorization it needs, so that it would be answered by 401.
    Challenge,
    /// Any other path.
    Other,
}

/// Which of the things of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    Any,
    /// The manifest or blob with this digest, asked for by digest.
    Digest(Digest),
    /// The manifest asked for by this tag.
    Tag(String),
    /// The layer with this index, from 0, of an image that was added; the lowest index if several.
    Layer(usize),
    /// The configuration of an image that was added.
    Config,
}

/// Which part of the content the request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Any part, or the whole.
    Any,
    /// The whole, without a range.
    Whole,
    /// A range, whichever.
    Part,
    /// A range that starts at this offset, or for 0 also the whole.
    From(u64),
    /// A range that holds the byte at this offset, or the whole.
    Covering(u64),
}

/// Which of the requests that meet all else, counted from 1 by each rule for itself, whether another
/// rule before it took the request or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Each.
    Always,
    /// The first so many.
    First(u64),
    /// Only the one with this number.
    Nth(u64),
    /// Each whose number is a multiple.
    Every(u64),
    /// Each but the first so many.
    After(u64),
}

/// A fault and the requests that get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What is asked for.
    pub kind: Kind,
    /// Which one of these.
    pub which: Which,
    /// Which part of it.
    pub asked: Asked,
    /// Which of these requests.
    pub turn: Turn,
    /// What happens.
    pub action: Action,
}

impl Rule {
    /// The start of a rule for all requests of a kind. [`RuleFor::then`] ends it.
    pub fn on(kind: Kind) -> RuleFor {
        RuleFor(Rule {
            kind,
            which: Which::Any,
            asked: Asked::Any,
            turn: Turn::Always,
            action: Action::None,
        })
    }
}

/// A rule whose action is still to be named.
#[derive(Debug, Clone)]
pub struct RuleFor(Rule);

impl RuleFor {
    /// Only for the layer with this index, from 0.
    pub fn layer(self, index: usize) -> RuleFor {
        self.which(Which::Layer(index))
    }

    /// Only for this one.
    pub fn which(mut self, which: Which) -> RuleFor {
        self.0.which = which;
        self
    }

    /// Only for this part.
    pub fn asked(mut self, asked: Asked) -> RuleFor {
        self.0.asked = asked;
        self
    }

    /// Only the first `count` requests.
    pub fn first(self, count: u64) -> RuleFor {
        self.turn(Turn::First(count))
    }

    /// Only the request with this number, from 1.
    pub fn nth(self, number: u64) -> RuleFor {
        self.turn(Turn::Nth(number))
    }

    /// Only on this turn.
    pub fn turn(mut self, turn: Turn) -> RuleFor {
        self.0.turn = turn;
        self
    }

    /// The rule.
    pub fn then(mut self, action: Action) -> Rule {
        self.0.action = action;
        self.0
    }
}

/// A fault. Byte counts are of the body, after the head, unless they say otherwise; a count beyond
/// the end of the body means its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The honest answer. For a rule that exempts requests from the rules after it.
    None,

    // --- when the bytes come ---
    /// Answers after this long.
    Delay(Duration),
    /// Reads the request, and falls silent.
    StallBeforeHead,
    /// Sends the head of the answer, and falls silent.
    StallAfterHead,
    /// Sends so many bytes, and falls silent.
    StallAfter(u64),
    /// Sends so many bytes, and the rest when the test calls [`super::Registry::go`].
    PauseAfter(u64),
    /// Sends the body in pieces of so many bytes, one each `every`.
    Drip {
        /// Bytes in a piece.
        bytes: usize,
        /// Time from piece to piece.
        every: Duration,
    },
    /// Sends so many bytes at once, and the rest as [`Action::Drip`] does.
    DripAfter {
        /// Bytes before.
        count: u64,
        /// Bytes in a piece.
        bytes: usize,
        /// Time from piece to piece.
        every: Duration,
    },
    /// As [`Action::Drip`], head included.
    DripAll {
        /// Bytes in a piece.
        bytes: usize,
        /// Time from piece to piece.
        every: Duration,
    },
    /// Sends the body at this many bytes per second.
    Limit(u64),

    // --- where they end ---
    /// Sends so many bytes, then FIN: with the length declared, a truncated body.
    CloseAfter(u64),
    /// As [`Action::CloseAfter`], without the `close_notify` of TLS.
    CloseWithoutNotifyAfter(u64),
    /// Sends so many bytes, then RST. All bytes before it arrive.
    ResetAfter(u64),
    /// Says `Connection: close`, and closes after the body.
    NoKeepAlive,
    /// Declares no length: the body ends where the connection does.
    UntilClose,
    /// Sends these bytes after the body, and keeps the connection open.
    ExtraAfterBody(Bytes),

    // --- what the body holds ---
    /// Inverts the byte at this offset of the *blob*; an answer without that byte is honest.
    FlipByte(u64),
    /// Sends other content, with a length to match.
    Replace(Bytes),
    /// Sends so many bytes more than the content has, with a length to match.
    Overlong(u64),
    /// Sends so many bytes fewer than the content has, with a length to match.
    Short(u64),
    /// Sends the body in chunks (RFC 9112 section 7.1).
    Chunked {
        /// Bytes in a chunk; at least 1 is taken.
        size: usize,
        /// Trailer fields.
        trailers: Vec<(String, String)>,
    },

    // --- what the head says ---
    /// Replaces all fields of this name by one of this value, or adds it. The body is as it was:
    /// `Content-Encoding: gzip` here is a lie.
    Field {
        /// Name of the field.
        name: String,
        /// Its value.
        value: String,
    },
    /// Answers a range by the whole and status 200.
    IgnoreRange,
    /// Sends the right part and says it is another. Answers without `Content-Range` are honest.
    ShiftContentRange {
        /// Added to the first position.
        first: i64,
        /// Added to the last position.
        last: i64,
        /// Added to the total.
        total: i64,
    },
    /// Answers with another status.
    Status {
        /// The status.
        code: u16,
        /// Fields, besides `Content-Length`.
        fields: Vec<(String, String)>,
        /// The body.
        body: Bytes,
    },
    /// Sends these bytes instead of an answer.
    Raw {
        /// All that is sent: head, body, whatever.
        bytes: Bytes,
        /// What follows.
        then: Then,
    },
}

impl Action {
    /// Answers with this status and an empty body.
    pub fn status(code: u16) -> Action {
        Action::Status { code, fields: Vec::new(), body: Bytes::new() }
    }

    /// Redirects (307) to a URL, or to a path of the same origin.
    pub fn redirect(location: &str) -> Action {
        let fields = vec![("Location".to_owned(), location.to_owned())];
        Action::Status { code: 307, fields, body: Bytes::new() }
    }

    /// Says something else in a header field.
    pub fn field(name: &str, value: &str) -> Action {
        Action::Field { name: name.to_owned(), value: value.to_owned() }
    }

    /// Labels the body as compressed, which it is not.
    pub fn content_encoding(coding: &str) -> Action {
        Action::field("Content-Encoding", coding)
    }

    /// Says a `Docker-Content-Digest` that is well formed, and not that of the body.
    pub fn wrong_digest() -> Action {
        let other = Digest::of(Algorithm::Sha256, b"something else");
        Action::field("Docker-Content-Digest", &other.to_string())
    }

    /// Sends these bytes instead of an answer.
    pub fn raw(bytes: impl Into<Bytes>, then: Then) -> Action {
        Action::Raw { bytes: bytes.into(), then }
    }
}

/// What follows raw bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The next request is read.
    KeepOpen,
    /// Silence.
    Stall,
    /// 64 KiB of blanks, one each so long.
    Blanks(Duration),
    /// FIN.
    Close,
    /// RST.
    Reset,
}

/// Rules in order: the first that fits a request decides. Without one, the answer is honest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    /// The rules.
    pub rules: Vec<Rule>,
}

impl<const N: usize> From<[Rule; N]> for Script {
    fn from(rules: [Rule; N]) -> Script {
        Script { rules: rules.into() }
    }
}

impl From<Rule> for Script {
    fn from(rule: Rule) -> Script {
        Script::from([rule])
    }
}

/// What a blob is to the image it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Config,
    Layer(usize),
}

/// All that rules ask of a request.
#[derive(Debug, Clone)]
pub(super) struct Facts<'a> {
    pub(super) kind: Kind,
    pub(super) digest: Option<Digest>,
    pub(super) tag: Option<&'a str>,
    pub(super) role: Option<Role>,
    /// First and last byte of the range asked for.
    pub(super) range: Option<(u64, u64)>,
}

/// A script, and how far it has got.
#[derive(Debug, Default)]
pub(super) struct RunningScript {
    /// Each rule, with the number of requests that met all of it but its turn.
    rules: Vec<(Rule, u64)>,
}

impl RunningScript {
    pub(super) fn new(script: Script) -> RunningScript {
        RunningScript { rules: script.rules.into_iter().map(|rule| (rule, 0)).collect() }
    }

    /// The action for a request. Counts it.
    pub(super) fn action(&mut self, facts: &Facts<'_>) -> Action {
        let mut action = None;
        for (rule, count) in &mut self.rules {
            if !rule.fits(facts) {
                continue;
            }
            *count += 1;
            if action.is_none() && rule.turn.includes(*count) {
                action = Some(rule.action.clone());
            }
        }
        action.unwrap_or(Action::None)
    }
}

impl Rule {
    fn fits(&self, facts: &Facts<'_>) -> bool {
        let kind = self.kind == Kind::Any || self.kind == facts.kind;
        kind && self.which.includes(facts) && self.asked.includes(facts.range)
    }
}

impl Which {
    fn includes(&self, facts: &Facts<'_>) -> bool {
        match self {
            Which::Any => true,
            Which::Digest(digest) => facts.digest == Some(*digest),
            Which::Tag(tag) => facts.tag == Some(tag),
            Which::Layer(index) => facts.role == Some(Role::Layer(*index)),
            Which::Config => facts.role == Some(Role::Config),
        }
    }
}

impl Asked {
    fn includes(self, range: Option<(u64, u64)>) -> bool {
        match (self, range) {
            (Asked::Any, _) | (Asked::Whole, None) | (Asked::Part, Some(_)) => true,
            (Asked::Whole, Some(_)) | (Asked::Part, None) => false,
            (Asked::From(offset), range) => range.map_or(0, |(first, _)| first) == offset,
            (Asked::Covering(_), None) => true,
            (Asked::Covering(offset), Some((first, last))) => (first..=last).contains(&offset),
        }
    }
}

impl Turn {
    fn includes(self, number: u64) -> bool {
        match self {
            Turn::Always => true,
            Turn::First(count) => number <= count,
            Turn::Nth(wanted) => number == wanted,
            Turn::Every(step) => number.is_multiple_of(step),
            Turn::After(count) => number > count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(range: Option<(u64, u64)>) -> Facts<'static> {
        let role = Some(Role::Layer(1));
        Facts { kind: Kind::Blob, digest: None, tag: None, role, range }
    }

    /// Which of five equal requests get the rule's action.
    #[track_caller]
    fn check(rule: RuleFor, facts: Facts<'_>, expected: [u8; 5]) {
        let mut script = RunningScript::new(rule.then(Action::StallBeforeHead).into());
        let got = [(); 5].map(|()| u8::from(script.action(&facts) != Action::None));
        assert_eq!(got, expected);
    }

    #[test]
    fn a_rule_takes_its_turns() {
        let rule = || Rule::on(Kind::Blob);
        check(rule(), blob(None), [1, 1, 1, 1, 1]);
        check(rule().first(2), blob(None), [1, 1, 0, 0, 0]);
        check(rule().nth(2), blob(None), [0, 1, 0, 0, 0]);
        check(rule().turn(Turn::Every(2)), blob(None), [0, 1, 0, 1, 0]);
        check(rule().turn(Turn::Every(0)), blob(None), [0, 0, 0, 0, 0]);
        check(rule().turn(Turn::After(3)), blob(None), [0, 0, 0, 1, 1]);
    }

    #[test]
    fn a_rule_fits_what_it_names() {
        const YES: [u8; 5] = [1; 5];
        const NO: [u8; 5] = [0; 5];
        let rule = || Rule::on(Kind::Blob);
        let asked = |asked| rule().asked(asked);
        let part = blob(Some((10, 19)));
        check(Rule::on(Kind::Any), blob(None), YES);
        check(Rule::on(Kind::Manifest), blob(None), NO);
        check(rule().layer(1), blob(None), YES);
        check(rule().layer(0), blob(None), NO);
        check(rule().which(Which::Config), blob(None), NO);
        check(asked(Asked::Whole), blob(None), YES);
        check(asked(Asked::Whole), part.clone(), NO);
        check(asked(Asked::Part), blob(None), NO);
        check(asked(Asked::Part), part.clone(), YES);
        check(asked(Asked::From(0)), blob(None), YES);
        check(asked(Asked::From(10)), part.clone(), YES);
        check(asked(Asked::From(11)), part.clone(), NO);
        check(asked(Asked::Covering(19)), part.clone(), YES);
        check(asked(Asked::Covering(20)), part, NO);
        let digest = Digest::of(Algorithm::Sha256, b"");
        let facts = Facts { digest: Some(digest), tag: Some("latest"), ..blob(None) };
        check(rule().which(Which::Digest(digest)), facts.clone(), YES);
        check(rule().which(Which::Digest(digest)), blob(None), NO);
        check(rule().which(Which::Tag("latest".into())), facts.clone(), YES);
        check(rule().which(Which::Tag("edge".into())), facts, NO);
    }

    #[test]
    fn each_rule_counts_all_requests_that_fit_it() {
        let mut script = RunningScript::new(Script::from([
            Rule::on(Kind::Any).nth(1).then(Action::StallBeforeHead),
            Rule::on(Kind::Blob).nth(2).then(Action::StallAfterHead),
        ]));
        let got = [(); 3].map(|()| script.action(&blob(None)));
        assert_eq!(got, [Action::StallBeforeHead, Action::StallAfterHead, Action::None]);
    }
}
