//! `ringpull gc`.

use std::path::PathBuf;

use clap::Args;

use super::values::boolean;
use super::{Failure, existing_store, print};
use crate::report::{Reporter, Style, Verbosity, format};
use crate::store::{Collect, Collected, Swept};

/// Remove what is of no use from the store: partial blobs that nobody came back for, and blobs that
/// no name leads to
///
/// A blob that is younger than an hour stays, and all do while a pull is under way.
#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// The store, or any OCI image layout [default: $XDG_DATA_HOME/ringpull]
    #[arg(long, value_name = "DIR", env = "RINGPULL_STORE")]
    store: Option<PathBuf>,
    /// All partial blobs that nobody is writing, not only those older than a week
    #[arg(long, value_parser = boolean, env = "RINGPULL_PARTIALS")]
    partials: bool,
    /// Say what would be removed, and remove nothing
    #[arg(long, value_parser = boolean, env = "RINGPULL_DRY_RUN")]
    dry_run: bool,
}

pub(super) fn run(arguments: &GcArgs) -> Result<(), Failure> {
    let reporter = Reporter::new(Verbosity::Normal, Style::Lines);
    let Some(store) = existing_store(arguments.store.as_deref())? else {
        return print(&reporter, &["There is no store yet.".to_owned()]);
    };
    let collect = Collect {
        all_partials: arguments.partials,
        dry_run: arguments.dry_run,
        ..Collect::default()
    };
    let Collected { partials, blobs, blobs_left } = store.collect_garbage(collect)?;
    if let Some(why) = blobs_left {
        reporter.warn(&format!("blobs were left: {why}"));
    }
    let removed = if arguments.dry_run { "Would remove" } else { "Removed" };
    let partials = said(partials, "partial blob", "partial blobs");
    let blobs = said(blobs, "blob that no name leads to", "blobs that no name leads to");
    let place = store.path().display();
    print(&reporter, &[format!("{removed} {partials}, and {blobs}, from {place}")])
}

/// `2 partial blobs (12.1 MiB)`
fn said(swept: Swept, one: &str, many: &str) -> String {
    format!("{} ({})", format::count(swept.files, one, many), format::bytes(swept.bytes))
}
