//! An answer and its fault, as the steps of a connection. All faults are made here, and nowhere else.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::answer::{Answer, Framing};
use super::script::{Action, Then};
use super::wire::Step;
use crate::limits::DEMO_JOINED_BODY_SIZE_MAX;

/// What a connection does about one request. Without a last step that ends the connection, the next
/// request is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Status of the answer; `None` if the answer is raw bytes.
    pub(super) status: Option<u16>,
    /// Bytes of the head, which come first.
    pub(super) head_size: u64,
    pub(super) steps: Vec<Step>,
}

impl Plan {
    /// The plan for an answer with a fault. An honest body is sent at `pace` bytes per second.
    pub(super) fn new(mut answer: Answer, action: &Action, pace: Option<u64>) -> Plan {
        match action {
            // `IgnoreRange` was seen to when the answer was made.
            Action::None | Action::IgnoreRange => Plan::whole(answer, pace),

            Action::Delay(delay) => Plan::whole(answer, pace).after(Step::Wait(*delay)),
            Action::StallBeforeHead => Plan::whole(answer, pace).after(Step::Hold),
            Action::StallAfterHead => Plan::cut(answer, 0, Step::Hold),
            Action::StallAfter(count) => Plan::cut(answer, *count, Step::Hold),
            Action::PauseAfter(count) => Plan::cut_and_rest(answer, *count, Step::Pause),
            Action::Drip { bytes, every } => Plan::drip(answer, *bytes, *every),
            Action::DripAfter { count, bytes, every } => {
                let rest = answer.body.slice(clamped(*count).min(answer.body.len())..);
                let drip = Step::Drip { bytes: rest, size: *bytes, every: *every };
                let close = answer.close;
                Plan::cut(answer, *count, drip).ending(close)
            }
            Action::DripAll { bytes, every } => Plan::drip_all(answer, *bytes, *every),
            Action::Limit(pace) => Plan::whole(answer, Some(*pace)),

            Action::CloseAfter(count) => Plan::cut(answer, *count, Step::Close),
            Action::CloseWithoutNotifyAfter(count) => {
                Plan::cut(answer, *count, Step::CloseWithoutNotify)
            }
            Action::ResetAfter(count) => Plan::cut(answer, *count, Step::Reset),
            Action::NoKeepAlive => {
                answer.close = true;
                Plan::whole(answer, pace)
            }
            Action::UntilClose => {
                answer.framing = Framing::UntilClose;
                answer.close = true;
                Plan::whole(answer, pace)
            }
            Action::ExtraAfterBody(extra) => {
                let end = answer.body.len() as u64;
                Plan::cut(answer, end, Step::Send(extra.clone()))
            }

            Action::FlipByte(offset) => Plan::whole(flipped(answer, *offset), pace),
            Action::Replace(content) => Plan::whole(replaced(answer, content.clone()), pace),
            Action::Overlong(count) => {
                let content = [&answer.body[..], &vec![b'+'; clamped(*count)]].concat();
                Plan::whole(replaced(answer, content.into()), pace)
            }
            Action::Short(count) => {
                let left = answer.body.len().saturating_sub(clamped(*count));
                let content = answer.body.slice(..left);
                Plan::whole(replaced(answer, content), pace)
            }
            Action::Chunked { size, trailers } => {
                answer.framing = Framing::Chunked;
                answer.body = chunked(&answer.body, *size, trailers);
                Plan::whole(answer, pace)
            }

            Action::Field { name, value } => {
                answer.set(name, value);
                Plan::whole(answer, pace)
            }
            Action::ShiftContentRange { first, last, total } => {
                Plan::whole(shifted(answer, *first, *last, *total), pace)
            }
            Action::Status { code, fields, body } => {
                let other = Answer { close: answer.close, ..Answer::empty(*code) };
                let mut other = replaced(other, body.clone());
                other.fields.extend(fields.iter().cloned());
                Plan::whole(other, pace)
            }
            Action::Raw { bytes, then } => Plan::raw(bytes.clone(), *then),
        }
    }

    /// The same plan without the body: how HEAD is answered. Raw bytes stay what they are.
    pub(super) fn without_body(mut self) -> Plan {
        if self.status.is_none() {
            return self;
        }
        let mut left = clamped(self.head_size);
        for step in &mut self.steps {
            if let Step::Send(bytes) | Step::Drip { bytes, .. } = step {
                bytes.truncate(left);
                left -= bytes.len();
            }
        }
        self
    }

    fn whole(answer: Answer, pace: Option<u64>) -> Plan {
        let (head, body) = (head(&answer), answer.body);
        let steps = match pace {
            Some(pace) => vec![Step::Send(head.clone()), Step::paced(body, pace)],
            None => joined(head.clone(), body),
        };
        Plan::of(answer.status, &head, steps).ending(answer.close)
    }

    /// The first `count` bytes of the body, then a step that is not of the answer.
    fn cut(answer: Answer, count: u64, then: Step) -> Plan {
        let head = head(&answer);
        let count = clamped(count).min(answer.body.len());
        let mut steps = joined(head.clone(), answer.body.slice(..count));
        steps.push(then);
        Plan::of(answer.status, &head, steps)
    }

    /// The whole body, interrupted by a step after `count` bytes.
    fn cut_and_rest(answer: Answer, count: u64, between: Step) -> Plan {
        let rest = answer.body.slice(clamped(count).min(answer.body.len())..);
        let close = answer.close;
        let mut plan = Plan::cut(answer, count, between);
        plan.steps.push(Step::Send(rest));
        plan.ending(close)
    }

    fn drip(answer: Answer, size: usize, every: Duration) -> Plan {
        let head = head(&answer);
        let steps = vec![Step::Send(head.clone()), Step::Drip { bytes: answer.body, size, every }];
        Plan::of(answer.status, &head, steps).ending(answer.close)
    }

    fn drip_all(answer: Answer, size: usize, every: Duration) -> Plan {
        let head = head(&answer);
        let bytes = Bytes::from([&head[..], &answer.body].concat());
        let steps = vec![Step::Drip { bytes, size, every }];
        Plan::of(answer.status, &head, steps).ending(answer.close)
    }

    fn raw(bytes: Bytes, then: Then) -> Plan {
        let end = match then {
            Then::KeepOpen => None,
            Then::Stall => Some(Step::Hold),
            Then::Blanks(every) => {
                let bytes = Bytes::from(vec![b' '; 64 << 10]);
                Some(Step::Drip { bytes, size: 1, every })
            }
            Then::Close => Some(Step::Close),
            Then::Reset => Some(Step::Reset),
        };
        let steps = [Step::Send(bytes)].into_iter().chain(end).collect();
        Plan { status: None, head_size: 0, steps }
    }

    fn of(status: u16, head: &Bytes, steps: Vec<Step>) -> Plan {
        Plan { status: Some(status), head_size: head.len() as u64, steps }
    }

    fn ending(mut self, close: bool) -> Plan {
        self.steps.extend(close.then_some(Step::Close));
        self
    }

    fn after(mut self, first: Step) -> Plan {
        self.steps.insert(0, first);
        self
    }
}

/// Head and body in one write if that is cheaper, else in two.
fn joined(head: Bytes, body: Bytes) -> Vec<Step> {
    if body.len() <= DEMO_JOINED_BODY_SIZE_MAX {
        return vec![Step::Send([&head[..], &body].concat().into())];
    }
    vec![Step::Send(head), Step::Send(body)]
}

/// The head as bytes. The reason phrase is left empty (RFC 9112 section 4).
fn head(answer: &Answer) -> Bytes {
    let mut head = format!("HTTP/1.1 {} \r\n", answer.status);
    for (name, value) in &answer.fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match answer.framing {
        Framing::Length(length) => head.push_str(&format!("Content-Length: {length}\r\n")),
        Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
        Framing::UntilClose => {}
    }
    if answer.close {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    head.into()
}

fn replaced(mut answer: Answer, content: Bytes) -> Answer {
    answer.replace(content);
    answer
}

/// Inverts the byte at `offset` of the blob, if the body holds it.
fn flipped(mut answer: Answer, offset: u64) -> Answer {
    let index = offset.checked_sub(answer.first).map(clamped);
    if let Some(index) = index.filter(|index| *index < answer.body.len()) {
        let mut content = answer.body.to_vec();
        content[index] = !content[index];
        answer.body = content.into();
    }
    answer
}

/// Encodes a body in chunks of `size` bytes.
fn chunked(body: &Bytes, size: usize, trailers: &[(String, String)]) -> Bytes {
    let mut encoded = BytesMut::with_capacity(body.len() + 64);
    for chunk in body.chunks(size.max(1)) {
        encoded.put_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        encoded.put_slice(chunk);
        encoded.put_slice(b"\r\n");
    }
    encoded.put_slice(b"0\r\n");
    for (name, value) in trailers {
        encoded.put_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    encoded.put_slice(b"\r\n");
    encoded.freeze()
}

/// Adds to the numbers of `Content-Range`, if there are such.
fn shifted(mut answer: Answer, first: i64, last: i64, total: i64) -> Answer {
    let name = |(name, _): &&(String, String)| name == "Content-Range";
    let value = answer.fields.iter().find(name).map(|(_, value)| value.as_str());
    let numbers = value.and_then(|value| {
        let (range, size) = value.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        Some([first.parse::<u64>().ok()?, last.parse().ok()?, size.parse().ok()?])
    });
    if let Some([a, b, c]) = numbers {
        let a = a.saturating_add_signed(first);
        let b = b.saturating_add_signed(last);
        let c = c.saturating_add_signed(total);
        answer.set("Content-Range", &format!("bytes {a}-{b}/{c}"));
    }
    answer
}

/// A count of bytes as an index; on machines where that is smaller, a body is smaller too.
fn clamped(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes 10 to 19 of a blob of 100.
    fn answer() -> Answer {
        let mut answer = Answer::empty(206);
        answer.fields = vec![("Content-Range".into(), "bytes 10-19/100".into())];
        answer.first = 10;
        answer.replace(Bytes::from_static(b"0123456789"));
        answer
    }

    const HEAD: &str = "HTTP/1.1 206 \r\nContent-Range: bytes 10-19/100\r\n";
    const LENGTH: &str = "Content-Length: 10\r\n";

    /// The plan sends `expected`, then takes `last`.
    #[track_caller]
    fn check(action: Action, expected: &str, last: &[Step]) {
        let plan = Plan::new(answer(), &action, None);
        let (mut sent, mut others) = (String::new(), Vec::new());
        for step in plan.steps {
            match step {
                Step::Send(bytes) | Step::Drip { bytes, .. } => {
                    assert!(others.iter().all(|step| matches!(step, Step::Wait(_) | Step::Pause)));
                    sent.push_str(std::str::from_utf8(&bytes).unwrap());
                }
                step => others.push(step),
            }
        }
        assert_eq!((sent.as_str(), &others[..]), (expected, last), "{action:?}");
    }

    #[test]
    fn faults_of_time_send_what_they_say() {
        let whole = format!("{HEAD}{LENGTH}\r\n0123456789");
        let second = Duration::from_secs(1);
        check(Action::None, &whole, &[]);
        check(Action::Delay(second), &whole, &[Step::Wait(second)]);
        check(Action::Drip { bytes: 3, every: second }, &whole, &[]);
        check(Action::DripAfter { count: 4, bytes: 3, every: second }, &whole, &[]);
        check(Action::DripAll { bytes: 3, every: second }, &whole, &[]);
        check(Action::Limit(5), &whole, &[]);
        check(Action::PauseAfter(3), &whole, &[Step::Pause]);
        check(Action::StallAfterHead, &format!("{HEAD}{LENGTH}\r\n"), &[Step::Hold]);
        check(Action::StallAfter(3), &format!("{HEAD}{LENGTH}\r\n012"), &[Step::Hold]);
        check(Action::StallAfter(u64::MAX), &whole, &[Step::Hold]);
        let stalled = Plan::new(answer(), &Action::StallBeforeHead, None);
        assert_eq!(stalled.steps[0], Step::Hold);
    }

    #[test]
    fn faults_of_the_end_send_what_they_say() {
        let cut = format!("{HEAD}{LENGTH}\r\n012");
        let whole = format!("{HEAD}{LENGTH}\r\n0123456789");
        check(Action::CloseAfter(3), &cut, &[Step::Close]);
        check(Action::CloseWithoutNotifyAfter(3), &cut, &[Step::CloseWithoutNotify]);
        check(Action::ResetAfter(3), &cut, &[Step::Reset]);
        let said = format!("{HEAD}{LENGTH}Connection: close\r\n\r\n0123456789");
        check(Action::NoKeepAlive, &said, &[Step::Close]);
        let said = format!("{HEAD}Connection: close\r\n\r\n0123456789");
        check(Action::UntilClose, &said, &[Step::Close]);
        check(Action::ExtraAfterBody("xyz".into()), &format!("{whole}xyz"), &[]);
    }

    #[test]
    fn faults_of_content_send_what_they_say() {
        let body = |length, body| format!("{HEAD}Content-Length: {length}\r\n\r\n{body}");
        check(Action::Replace("ab".into()), &body(2, "ab"), &[]);
        check(Action::Overlong(2), &body(12, "0123456789++"), &[]);
        check(Action::Short(2), &body(8, "01234567"), &[]);
        check(Action::Short(u64::MAX), &body(0, ""), &[]);
        check(Action::FlipByte(9), &body(10, "0123456789"), &[]);
        check(Action::FlipByte(20), &body(10, "0123456789"), &[]);
        let flipped = flipped(answer(), 13).body;
        assert_eq!(&flipped[..], b"012\xcc456789");
        let trailers = vec![("X-Sum".to_owned(), "1".to_owned())];
        check(
            Action::Chunked { size: 8, trailers },
            &format!(
                "{HEAD}Transfer-Encoding: chunked\r\n\r\n8\r\n01234567\r\n2\r\n89\r\n0\r\nX-Sum: 1\r\n\r\n"
            ),
            &[],
        );
    }

    #[test]
    fn faults_of_the_head_send_what_they_say() {
        let end = format!("{LENGTH}\r\n0123456789");
        check(
            Action::field("content-range", "no"),
            &format!("HTTP/1.1 206 \r\ncontent-range: no\r\n{end}"),
            &[],
        );
        check(
            Action::content_encoding("gzip"),
            &format!("{HEAD}Content-Encoding: gzip\r\n{end}"),
            &[],
        );
        check(
            Action::ShiftContentRange { first: -1, last: 2, total: 30 },
            &format!("HTTP/1.1 206 \r\nContent-Range: bytes 9-21/130\r\n{end}"),
            &[],
        );
        let api = "Docker-Distribution-Api-Version: registry/2.0\r\n";
        check(
            Action::redirect("/there"),
            &format!("HTTP/1.1 307 \r\n{api}Location: /there\r\nContent-Length: 0\r\n\r\n"),
            &[],
        );
        check(Action::raw("rubbish", Then::KeepOpen), "rubbish", &[]);
        check(Action::raw("rubbish", Then::Reset), "rubbish", &[Step::Reset]);
        check(Action::raw("rubbish", Then::Stall), "rubbish", &[Step::Hold]);
    }

    #[test]
    fn an_answer_to_head_has_no_body_with_any_fault() {
        for action in [
            Action::None,
            Action::Limit(5),
            Action::StallAfter(5),
            Action::PauseAfter(5),
            Action::DripAll { bytes: 1, every: Duration::ZERO },
            Action::ExtraAfterBody("ab".into()),
            Action::Overlong(5),
            Action::FlipByte(12),
            Action::Chunked { size: 1, trailers: Vec::new() },
            Action::Replace("ab".into()),
            Action::Status { code: 500, fields: Vec::new(), body: "ab".into() },
        ] {
            let plan = Plan::new(answer(), &action, None).without_body();
            let sent: usize = plan
                .steps
                .iter()
                .map(|step| match step {
                    Step::Send(bytes) | Step::Drip { bytes, .. } => bytes.len(),
                    _ => 0,
                })
                .sum();
            assert_eq!(sent as u64, plan.head_size, "{action:?}");
        }
    }
}
