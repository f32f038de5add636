//! The vocabulary of images: what is named, and what a name promises.
//!
//! Knows no HTTP, no files and no clock. In reading order: what a user names ([`Reference`]), what
//! the registry promises ([`Descriptor`], [`Digest`]), which of several images fits ([`Platform`]),
//! and the documents that say so ([`manifest::Document`]).

pub mod descriptor;
pub mod digest;
pub mod manifest;
pub mod platform;
pub mod reference;
pub(crate) mod shown;
mod strict_json;

pub use descriptor::{Descriptor, MediaType};
pub use digest::{Algorithm, Digest, Hasher};
pub use manifest::{Content, Document, Index, Manifest};
pub use platform::Platform;
pub use reference::Reference;
