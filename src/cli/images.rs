//! `ringpull images`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, existing_store, json_lines, print};
use crate::report::{Reporter, Style, Verbosity, format};
use crate::store::{KeptPartial, StoredImage};

/// List the images in the store, and the partial blobs that a pull would go on with
#[derive(Debug, Args)]
pub(super) struct ImagesArgs {
    /// The store, or any OCI image layout [default: $XDG_DATA_HOME/ringpull]
    #[arg(long, value_name = "DIR", env = "RINGPULL_STORE")]
    store: Option<PathBuf>,
    /// As JSON: images (name, digest, manifest, platforms, size, missing, beyond) and partials (digest, size, kept,
    /// allocated, age_seconds, busy); sizes in bytes
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &ImagesArgs) -> Result<(), Failure> {
    let reporter = Reporter::new(Verbosity::Normal, Style::Lines);
    let (images, partials) = match existing_store(arguments.store.as_deref())? {
        Some(store) => (store.images()?, store.kept_partials()?),
        None => (Vec::new(), Vec::new()),
    };
    let lines = match arguments.json {
        true => document(&images, &partials),
        false => [image_table(&images), partial_table(&partials)].concat(),
    };
    print(&reporter, &lines)
}

fn document(images: &[StoredImage], partials: &[KeptPartial]) -> Vec<String> {
    let images = images.iter().map(|image| {
        json!({
            "name": image.name,
            "digest": image.digest.to_string(),
            "manifest": image.manifest.to_string(),
            "platforms": image.platforms,
            "size": image.size,
            "missing": image.missing,
            "beyond": image.beyond,
        })
    });
    let partials = partials.iter().map(|partial| {
        json!({
            "digest": partial.digest.to_string(),
            "size": partial.size,
            "kept": partial.kept,
            "allocated": partial.allocated,
            "age_seconds": partial.age.as_secs(),
            "busy": partial.busy,
        })
    });
    let document = json!({
        "images": images.collect::<Vec<Value>>(),
        "partials": partials.collect::<Vec<Value>>(),
    });
    json_lines(&document)
}

fn image_table(images: &[StoredImage]) -> Vec<String> {
    let rows = images.iter().map(|image| {
        let missing = match image.missing {
            0 => String::new(),
            missing => format!(", {} missing", format::count(missing as u64, "blob", "blobs")),
        };
        [
            image.name.clone().unwrap_or_else(|| "-".to_owned()),
            image.digest.short(),
            image.manifest.short(),
            match image.platforms.is_empty() {
                true => "-".to_owned(),
                false => image.platforms.join(","),
            },
            match image.beyond {
                true => {
                    format!("{}{missing}, and what is nested deeper", format::bytes(image.size))
                }
                false => format!("{}{missing}", format::bytes(image.size)),
            },
        ]
    });
    table(["NAME", "DIGEST", "MANIFEST", "PLATFORM", "SIZE"], rows)
}

fn partial_table(partials: &[KeptPartial]) -> Vec<String> {
    if partials.is_empty() {
        return Vec::new();
    }
    let rows = partials.iter().map(|partial| {
        let kept = match partial.size {
            Some(size) => format::progress_bytes(partial.kept, size),
            None => format::bytes(partial.kept),
        };
        let age = match partial.busy {
            true => "being written".to_owned(),
            // Whole seconds: nobody counts what is less.
            false => format::duration(std::time::Duration::from_secs(partial.age.as_secs())),
        };
        [partial.digest.short(), kept, age]
    });
    [vec![String::new()], table(["PARTIAL", "HERE", "AGE"], rows)].concat()
}

/// Columns as wide as their widest text, two spaces apart.
fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> Vec<String> {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_text() {
        let rows = [["a".to_owned(), "bcd".to_owned()], ["efgh".to_owned(), String::new()]];
        assert_eq!(table(["X", "Y"], rows.into_iter()), ["X     Y", "a     bcd", "efgh"]);
    }
}
