//! The OCI distribution protocol, version 2: what to ask, and what the answer means. Opens no
//! socket, reads no file and no clock.
//!
//! ```text
//!   Reference ─ endpoint ─▶ HttpUrl ─ request ─▶ (http, transport) ─▶ head ─ answer ─▶ Answer
//!                                                                                        │
//!        ┌──────────────┬────────────────────────┬───────────────────────────┬───────────┤
//!        ▼              ▼                        ▼                           ▼           ▼
//!       Ok          Redirect                 Challenge                  RateLimited   Refusal
//!   (digest header)  redirect::Trail          challenge::read            Unavailable   NotFound, …
//!                                             realm::check, credential
//!                                             token::request ─▶ … ─▶ Token ─▶ ask again
//! ```
//!
//! Every decision about where a secret may go is one function with a table of tests:
//! [`redirect::Trail::follow`] (a `Location`), [`realm::check`] (a token service),
//! [`address::allowed`] (what the name of either resolved to) and [`credential::CredentialFile::lookup`] (whose
//! password it is).
//!
//! Not here yet: mirrors ([`endpoint`] says where they go), credential helpers
//! ([`credential::Lookup::Helper`] says that one was asked for), and the exchange of identity tokens
//! ([`token`]).

pub mod address;
pub mod answer;
pub mod challenge;
pub mod credential;
pub mod endpoint;
pub mod lifetime;
pub mod realm;
pub mod redirect;
pub mod request;
pub mod token;
pub mod warning;

pub use address::AddressClass;
pub use answer::{Answer, Asked, Refusal};
pub use challenge::Challenge;
pub use credential::{Credential, CredentialFile};
pub use endpoint::{Endpoint, EndpointOptions};
pub use redirect::{Redirect, Shortcut, Trail};
pub use token::Token;
