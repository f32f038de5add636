//! Properties of a whole conversation: what a registry may send, from the first byte to the verdict.

use ringpull::http::{ByteRange, HttpUrl, Method, Request, ResponseHead, TargetForm};
use ringpull::image::{Document, MediaType};
use ringpull::limits::{INTERIM_COUNT_MAX, REFUSAL_TEXT_LENGTH_MAX};
use ringpull::origin::{Origin, Scheme};
use ringpull::registry::answer::check_content_digest;
use ringpull::registry::challenge::Challenge;
use ringpull::registry::redirect::Trail;
use ringpull::registry::{Answer, Asked, Refusal, Token, challenge, realm, request, token};

use super::http::{Delivery, End};
use super::{Numbers, check_message};

/// A secret of ours, which no peer but the registry may see.
const SECRET: &str = "canary-0123456789";

/// Answers to a client's questions, one after the other, parted in the input by a byte 0xff: whatever
/// they are, each means the same however it is cut, the conversation ends, each request is well
/// formed, and the secret goes to the registry's own origin and to no other.
pub fn client(bytes: &[u8]) {
    let mut numbers = Numbers::of(bytes);
    let home = HttpUrl::parse("https://registry.example.com/v2/demo/blobs/x").unwrap();
    let asked = [Asked::Blob, Asked::Manifest, Asked::Ping][bytes.len() % 3];
    let mut client = Client { trail: Trail::new(home.clone()), home: home.origin(), asked };
    let mut next = Some(Step { url: home, secret: true });
    for answer in bytes.split(|&byte| byte == 0xff) {
        let Some(step) = next.take() else { return };
        client.check_request(&step);
        let whole = Delivery::of(answer, Method::Get, |room| room);
        let pieces = Delivery::of(answer, Method::Get, |room| 1 + numbers.below(room));
        assert_eq!(whole, pieces, "pieces change what an answer is");
        assert!(whole.interim.len() <= INTERIM_COUNT_MAX);
        assert!(whole.interim.iter().all(|status| (100..200).contains(status)));
        let Some(head) = &whole.head else {
            let End::Failed(error) = &whole.end else { panic!("an end without a head") };
            return check_message(error);
        };
        next = client.judge(head, &whole.body, whole.end);
    }
}

struct Client {
    trail: Trail,
    home: Origin,
    asked: Asked,
}

/// What is asked next.
struct Step {
    url: HttpUrl,
    /// Whether the secret goes along.
    secret: bool,
}

impl Client {
    fn check_request(&self, step: &Step) {
        let ranged = request::blob(step.url.clone(), ByteRange::new(1, 9));
        let plain = Request::get(step.url.clone());
        for mut request in [ranged, plain] {
            if step.secret {
                assert_eq!(step.url.origin(), self.home, "the secret leaves its origin");
                request = request.authorization(SECRET.to_owned().into()).unwrap();
            }
            let encoded = request.encode(TargetForm::Origin);
            let text = String::from_utf8(encoded).expect("a request is ASCII");
            assert!(text.starts_with("GET /") && text.ends_with("\r\n\r\n"));
            let lines: Vec<&str> = text.trim_end_matches("\r\n").split("\r\n").collect();
            assert!(lines.iter().all(|line| !line.contains(['\r', '\n'])));
            assert_eq!(lines[0].split(' ').count(), 3, "{}", lines[0]);
            let hosts = lines.iter().filter(|line| line.to_lowercase().starts_with("host:"));
            assert_eq!(hosts.count(), 1);
            assert_eq!(text.contains(SECRET), step.secret);
        }
    }

    fn judge(&mut self, head: &ResponseHead, body: &[u8], end: End) -> Option<Step> {
        if let End::Failed(error) = end {
            check_message(&error);
            return None;
        }
        match Answer::of(self.asked, head) {
            Answer::Ok => self.content(head, body),
            Answer::Redirect => match self.trail.follow(head) {
                Ok(redirect) => {
                    Some(Step { url: redirect.url, secret: redirect.keeps_credentials })
                }
                Err(error) => {
                    check_message(&error);
                    None
                }
            },
            Answer::Challenge => self.challenged(head),
            _ => {
                let refusal = Refusal::new(self.asked, head, body);
                check_message(&refusal);
                // The text, and what is said around it.
                assert!(refusal.to_string().chars().count() <= REFUSAL_TEXT_LENGTH_MAX + 300);
                None
            }
        }
    }

    /// Content is judged as what it was asked for; the next question goes on from there.
    fn content(&mut self, head: &ResponseHead, body: &[u8]) -> Option<Step> {
        if let Err(error) = head.check_content_encoding() {
            check_message(&error);
        }
        match self.asked {
            Asked::Token => {
                if let Err(error) = Token::parse(body, None) {
                    check_message(&error);
                    return None;
                }
                self.asked = Asked::Blob;
                return Some(Step { url: self.trail.current().clone(), secret: false });
            }
            Asked::Manifest => {
                let media_type = head.get("content-type").map(MediaType::new);
                if let Err(error) = Document::parse(body, media_type.as_ref()) {
                    check_message(&error);
                }
                let header = head.get("docker-content-digest");
                if let Err(error) = check_content_digest(header, body, None) {
                    check_message(&error);
                }
            }
            Asked::Blob if head.status() == 206 => {
                if let Err(error) = (ByteRange { start: 1, end: 9 }).check(head, 100) {
                    check_message(&error);
                }
            }
            Asked::Blob | Asked::Ping => {}
        }
        None
    }

    fn challenged(&mut self, head: &ResponseHead) -> Option<Step> {
        let bearer = match challenge::read(head) {
            Ok(Challenge::Bearer(bearer)) => bearer,
            Ok(_) => return None,
            Err(error) => {
                check_message(&error);
                return None;
            }
        };
        let granted = realm::parse(&self.home, &bearer.realm)
            .and_then(|realm| Ok((realm::check(&self.home, &realm, false, &[])?, realm)));
        match granted {
            Ok((_, realm)) => {
                assert_eq!(realm.origin().scheme(), Scheme::Https);
                self.asked = Asked::Token;
                Some(Step { url: token::request_url(&realm, &bearer, "demo"), secret: false })
            }
            Err(refused) => {
                check_message(&refused);
                None
            }
        }
    }
}
