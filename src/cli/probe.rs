//! `ringpull probe`.

use clap::Args;
use serde_json::{Map, Value, json};

use super::{Failure, json_lines, print};
use crate::error::Class;
use crate::report::{Reporter, Style, Verbosity};
use crate::transport::EngineKind;
use crate::transport::probe::survey::{Answer, Feature, Limit, Survey, survey};

/// Tell whether io_uring can be used here, which engine a pull takes, and why
///
/// Each feature of io_uring that matters is tried, not read from a version.
#[derive(Debug, Args)]
pub(super) struct ProbeArgs {
    /// As JSON: io_uring, engine, why, path, kernel, features (each "yes", "no: REASON" or "not
    /// tried") and limits
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &ProbeArgs) -> Result<(), Failure> {
    let reporter = Reporter::new(Verbosity::Normal, Style::Lines);
    let survey = survey().map_err(|error| Failure::new(Class::System, error))?;
    print(&reporter, &if arguments.json { document(&survey) } else { text(&survey) })
}

fn document(survey: &Survey) -> Vec<String> {
    let features = survey.features.iter().map(|(feature, answer)| {
        let answer = match answer {
            Answer::Yes => "yes".to_owned(),
            Answer::No(why) => format!("no: {why}"),
            Answer::NotTried(_) => "not tried".to_owned(),
        };
        (feature.key.to_owned(), Value::from(answer))
    });
    let limits =
        survey.limits.iter().map(|limit| (limit.key.to_owned(), Value::from(limit.value.clone())));
    let document = json!({
        "io_uring": survey.choice.engine == EngineKind::Uring,
        "engine": survey.choice.engine.to_string(),
        "why": survey.choice.why,
        "path": survey.path,
        "kernel": survey.kernel,
        "features": features.collect::<Map<_, _>>(),
        "limits": limits.collect::<Map<_, _>>(),
    });
    json_lines(&document)
}

fn text(survey: &Survey) -> Vec<String> {
    let usable = match survey.choice.engine {
        EngineKind::Uring => "available",
        EngineKind::Epoll | EngineKind::Sim => "not available",
    };
    let mut lines = vec![
        format!("io_uring: {usable}"),
        format!("engine:   {}", survey.choice.engine),
        format!("why:      {}", survey.choice.why),
        format!("path:     {}", survey.path),
        format!("kernel:   {}", survey.kernel),
    ];
    let of = |used| survey.features.iter().filter(move |(feature, _)| feature.used == used);
    lines.extend([String::new(), "What ringpull uses, each tried just now:".to_owned()]);
    lines.extend(of(true).map(row));
    lines.extend([String::new(), "What it does not use, but could:".to_owned()]);
    lines.extend(of(false).map(row));
    lines.extend([String::new(), "Limits:".to_owned()]);
    lines.extend(survey.limits.iter().map(|Limit { what, value, .. }| {
        format!("  {:<10} {what}", value.as_deref().unwrap_or("-"))
    }));
    lines
}

fn row((feature, answer): &(&Feature, Answer)) -> String {
    let (answer, why) = match answer {
        Answer::Yes => ("yes", String::new()),
        Answer::No(why) => ("no", format!(": {why}")),
        Answer::NotTried(why) => ("not tried", format!(": {why}")),
    };
    format!("  {answer:<10} {}{why}", feature.what)
}
