//! Platforms: `linux/arm64/v8`, and which image fits which (OCI image-spec, `image-index.md`,
//! section "Platform Variants").
//!
//! Names and the order of preference are containerd's (`containerd/platforms`, `database.go` and
//! `compare.go`, function `Only`), so that ringpull picks the image that containerd would run.

use std::fmt;
use std::str::FromStr;

use super::shown::shown;
use crate::error::Class;

/// An operating system, an architecture and, where it matters, its variant; always in normal form.
///
/// `arm` always has a variant (`v7` unless said otherwise); `arm64/v8` and `amd64/v1` have none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// Not two or three parts.
    #[error("platform `{0}` is not OS/ARCHITECTURE[/VARIANT], such as linux/amd64 or linux/arm/v7")]
    Shape(String),
    /// A part is empty, or has a character that no platform has.
    #[error(
        "`{part}` in platform `{text}` is malformed: letters, digits, `_`, `.` and `-` are allowed"
    )]
    Part {
        /// The malformed part.
        part: String,
        /// The whole text.
        text: String,
    },
}

impl PlatformError {
    /// [`Class::Usage`]: a malformed platform in a document is passed over, not reported.
    pub fn class(&self) -> Class {
        Class::Usage
    }
}

impl Platform {
    /// Parses `os/architecture` or `os/architecture/variant`.
    pub fn parse(text: &str) -> Result<Platform, PlatformError> {
        let parts: Vec<&str> = text.splitn(4, '/').collect();
        match parts[..] {
            [os, architecture] => Platform::new(os, architecture, ""),
            // An empty variant is a slash too many, not "no variant".
            [os, architecture, variant] if !variant.is_empty() => {
                Platform::new(os, architecture, variant)
            }
            _ => Err(PlatformError::Shape(shown(text))),
        }
    }

    /// The platform of these names, brought into normal form. An empty `variant` is none.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Result<Platform, PlatformError> {
        let malformed = |part: &str| PlatformError::Part {
            part: shown(part),
            text: shown(&format!("{os}/{architecture}/{variant}")),
        };
        for part in [os, architecture] {
            if part.is_empty() || !is_part(part) {
                return Err(malformed(part));
            }
        }
        if !is_part(variant) {
            return Err(malformed(variant));
        }
        let (architecture, variant) =
            normalize(&architecture.to_ascii_lowercase(), &variant.to_ascii_lowercase());
        let os = match os.to_ascii_lowercase() {
            os if os == "macos" => "darwin".to_owned(),
            os => os,
        };
        Ok(Platform { os, architecture, variant })
    }

    /// The platform of this machine. On amd64 the processor says its level (v1 to v4). The variant
    /// of an ARM processor is taken to be the usual one (v7, v8): a program cannot tell without
    /// reading files.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "mips64" if cfg!(target_endian = "little") => "mips64le",
            "loongarch64" => "loong64",
            same => same,
        };
        let (architecture, variant) = normalize(architecture, amd64_level());
        Platform { os: std::env::consts::OS.to_owned(), architecture, variant }
    }

    /// The operating system, as Go's `GOOS` names it.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// The architecture, as Go's `GOARCH` names it.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The variant of the architecture, where it is not the usual one.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// Whether an image for `offered` runs on this platform.
    pub fn matches(&self, offered: &Platform) -> bool {
        self.rank(offered).is_some()
    }

    /// How well an image for `offered` fits this platform: 0 is best, `None` does not run.
    ///
    /// After the platform itself come its older variants, then the architecture whose programs its
    /// processor also runs: amd64 takes 386, arm64 takes arm/v8 and older.
    pub fn rank(&self, offered: &Platform) -> Option<usize> {
        if self.os != offered.os {
            return None;
        }
        self.accepted().iter().position(|(architecture, variant)| {
            *architecture == offered.architecture && variant.as_deref() == offered.variant()
        })
    }

    /// Whether some variant of the architecture of `offered` runs on this platform.
    pub fn runs_some_variant_of(&self, offered: &Platform) -> bool {
        self.os == offered.os
            && self.accepted().iter().any(|(architecture, _)| *architecture == offered.architecture)
    }

    /// Whether this is `unknown/unknown`: how BuildKit marks what is not an image.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }

    /// The architectures and variants that run here, best first, in normal form.
    fn accepted(&self) -> Vec<(&str, Option<String>)> {
        let architecture = self.architecture.as_str();
        let own = (architecture, self.variant.clone());
        match (architecture, level(self.variant())) {
            ("amd64", Some((level, 0))) => {
                let older = (2..level).rev().map(|level| (architecture, Some(format!("v{level}"))));
                let last = [(architecture, None), ("386", None)];
                std::iter::once(own).chain(older).chain(last).collect()
            }
            ("amd64", None) => vec![own, ("386", None)],
            ("arm", Some((level, 0))) => {
                let older = (5..level).rev().map(|level| (architecture, Some(format!("v{level}"))));
                std::iter::once(own).chain(older).collect()
            }
            ("arm64", version) => {
                let arm64 = arm64_levels(version).into_iter().map(|level| (architecture, level));
                let arm = (5..=8).rev().map(|level| ("arm", Some(format!("v{level}"))));
                std::iter::once(own).chain(arm64).chain(arm).collect()
            }
            _ => vec![own],
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Platform, PlatformError> {
        Platform::parse(text)
    }
}

/// The level of this machine's processor (x86-64 psABI, section "Micro-Architecture Levels"), as a
/// variant of amd64; empty for the first level, and on other architectures. Of what a level needs,
/// LAHF in 64-bit mode is not looked at: every processor that has SSE4.2 and CMPXCHG16B has it.
#[cfg(target_arch = "x86_64")]
fn amd64_level() -> &'static str {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("cmpxchg16b")
        && has!("popcnt")
        && has!("sse3")
        && has!("ssse3")
        && has!("sse4.1")
        && has!("sse4.2");
    let v3 = v2
        && has!("avx")
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let v4 = v3
        && has!("avx512f")
        && has!("avx512bw")
        && has!("avx512cd")
        && has!("avx512dq")
        && has!("avx512vl");
    match (v2, v3, v4) {
        (_, _, true) => "v4",
        (_, true, _) => "v3",
        (true, ..) => "v2",
        _ => "",
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> &'static str {
    ""
}

fn is_part(part: &str) -> bool {
    part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// `normalizeArch` of containerd. Takes lower case.
fn normalize(architecture: &str, variant: &str) -> (String, Option<String>) {
    let (architecture, variant) = match (architecture, variant) {
        ("i386" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        same => same,
    };
    (architecture.to_owned(), Some(variant.to_owned()).filter(|variant| !variant.is_empty()))
}

/// `v9.2` as (9, 2), `v3` as (3, 0). One digit each: there are no others, and a list of older ones
/// made from a number stays short.
fn level(variant: Option<&str>) -> Option<(u32, u32)> {
    let (major, minor) = match variant?.strip_prefix('v')?.split_once('.') {
        Some((major, minor)) => (major, minor),
        None => (variant?.strip_prefix('v')?, "0"),
    };
    let digit = |text: &str| {
        let mut characters = text.chars();
        characters.next()?.to_digit(10).filter(|_| characters.next().is_none())
    };
    Some((digit(major)?, digit(minor)?))
}

/// The older levels an arm64 processor runs: v9.N has all that v8.(N+5) has.
fn arm64_levels(version: Option<(u32, u32)>) -> Vec<Option<String>> {
    let name = |major: u32, minor: u32| match (major, minor) {
        (8, 0) => None,
        (major, 0) => Some(format!("v{major}")),
        (major, minor) => Some(format!("v{major}.{minor}")),
    };
    match version {
        Some((9, minor)) => {
            let nines = (0..minor).rev().map(|minor| name(9, minor));
            let eights = (0..=(minor + 5).min(9)).rev().map(|minor| name(8, minor));
            nines.chain(eights).collect()
        }
        Some((8, minor)) => (0..minor).rev().map(|minor| name(8, minor)).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_brought_into_normal_form() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/x86-64", "linux/amd64"),
            ("Linux/AMD64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/i386", "linux/386"),
            ("linux/386", "linux/386"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64"),
            ("linux/arm64/v9.0", "linux/arm64/v9"),
            ("linux/arm64/v8.2", "linux/arm64/v8.2"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/ppc64le", "linux/ppc64le"),
            ("macos/arm64", "darwin/arm64"),
            ("wasi/wasm", "wasi/wasm"),
        ] {
            let platform = Platform::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(platform.to_string(), expected);
            assert_eq!(Platform::parse(expected), Ok(platform), "normal form is stable");
        }
    }

    #[test]
    fn what_is_not_a_platform_is_refused() {
        for (text, expected) in [
            ("", "is not OS/ARCHITECTURE[/VARIANT]"),
            ("linux", "such as linux/amd64"),
            ("linux/arm/v7/x", "is not OS/ARCHITECTURE[/VARIANT]"),
            ("linux/arm/", "is not OS/ARCHITECTURE[/VARIANT]"),
            ("/amd64", "`` in platform"),
            ("linux/", "`` in platform"),
            ("linux/am d64", "`am d64` in platform"),
            ("linux/*", "`*` in platform"),
            ("linux/\u{1b}", "\\u{1b}"),
        ] {
            let error = Platform::parse(text).unwrap_err();
            assert!(error.to_string().contains(expected), "{text}: {error}");
        }
    }

    /// `offered` in the order of preference; all others are refused.
    #[track_caller]
    fn check(wanted: &str, offered: &[&str]) {
        const ALL: &[&str] = &[
            "linux/amd64",
            "linux/amd64/v2",
            "linux/amd64/v3",
            "linux/386",
            "linux/arm/v5",
            "linux/arm/v6",
            "linux/arm/v7",
            "linux/arm/v8",
            "linux/arm64",
            "linux/arm64/v8.1",
            "linux/arm64/v8.5",
            "linux/arm64/v8.6",
            "linux/arm64/v9",
            "linux/arm64/v9.1",
            "linux/s390x",
            "windows/amd64",
            "unknown/unknown",
        ];
        let wanted = Platform::parse(wanted).unwrap();
        let mut fitting: Vec<_> = ALL
            .iter()
            .filter_map(|text| Some((wanted.rank(&Platform::parse(text).unwrap())?, *text)))
            .collect();
        fitting.sort();
        let fitting: Vec<&str> = fitting.into_iter().map(|(_, text)| text).collect();
        assert_eq!(fitting, offered, "{wanted}");
    }

    #[test]
    fn older_variants_are_taken_in_containerds_order() {
        check("linux/amd64", &["linux/amd64", "linux/386"]);
        check("linux/amd64/v2", &["linux/amd64/v2", "linux/amd64", "linux/386"]);
        check("linux/amd64/v3", &["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]);
        check("linux/386", &["linux/386"]);
        check("linux/arm", &["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]);
        check("linux/arm/v6", &["linux/arm/v6", "linux/arm/v5"]);
        check("linux/arm/v5", &["linux/arm/v5"]);
        let arm = ["linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"];
        let arm64 = |own: &[&'static str]| [own, &arm].concat();
        check("linux/arm64", &arm64(&["linux/arm64"]));
        check("linux/arm64/v8.1", &arm64(&["linux/arm64/v8.1", "linux/arm64"]));
        check(
            "linux/arm64/v9",
            &arm64(&["linux/arm64/v9", "linux/arm64/v8.5", "linux/arm64/v8.1", "linux/arm64"]),
        );
        check(
            "linux/arm64/v9.1",
            &arm64(&[
                "linux/arm64/v9.1",
                "linux/arm64/v9",
                "linux/arm64/v8.6",
                "linux/arm64/v8.5",
                "linux/arm64/v8.1",
                "linux/arm64",
            ]),
        );
        check("linux/s390x", &["linux/s390x"]);
        check("windows/amd64", &["windows/amd64"]);
        check("darwin/arm64", &[]);
    }

    #[test]
    fn the_host_is_a_platform_in_normal_form() {
        let host = Platform::host();
        assert_eq!(Platform::parse(&host.to_string()), Ok(host.clone()));
        assert_eq!(host.os(), std::env::consts::OS);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(host.architecture(), "amd64");
    }
}
