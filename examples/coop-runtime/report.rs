//! What is printed: state, list, ps, features.

use std::collections::BTreeMap;

use cooperage::runtime::{self, Container, Status};
use serde::Serialize;

use crate::args::Format;
use crate::log::rfc3339;
use crate::{Context, Outcome};

/// runc's form of a container's state.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State {
    oci_version: String,
    id: String,
    pid: u32,
    status: &'static str,
    bundle: String,
    rootfs: String,
    created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    owner: String,
}

impl State {
    fn of(container: &Container) -> Outcome<Self> {
        let (spec, status) = (container.spec()?, container.status());
        let bundle = container.bundle();
        let rootfs = spec.root().as_ref().map_or_else(|| bundle.clone(), |root| bundle.join(root.path()));
        Ok(Self {
            oci_version: spec.version().clone(),
            id: container.id().to_string(),
            pid: if status == Status::Stopped { 0 } else { container.pid() },
            status: status.as_str(),
            bundle: bundle.display().to_string(),
            rootfs: rootfs.display().to_string(),
            created: rfc3339(container.created_at()),
            annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
            owner: owner(container.owner()),
        })
    }
}

fn owner(uid: u32) -> String {
    let table = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

pub(crate) fn state(context: &Context, id: &str) -> Outcome {
    println!("{}", serde_json::to_string_pretty(&State::of(&context.load(id)?)?)?);
    Ok(())
}

pub(crate) fn list(context: &Context, format: Format, quiet: bool) -> Outcome {
    let mut states = Vec::new();
    for container in context.runtime.list()? {
        // One that is being removed right now has no Spec any more.
        states.extend(State::of(&container).ok());
    }
    if quiet {
        for state in &states {
            println!("{}", state.id);
        }
        return Ok(());
    }
    if format == Format::Json {
        println!("{}", serde_json::to_string(&states)?);
        return Ok(());
    }
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows: Vec<[String; 6]> = states
        .into_iter()
        .map(|one| [one.id, one.pid.to_string(), one.status.to_owned(), one.bundle, one.created, one.owner])
        .collect();
    let mut widths = [12; 6];
    for row in std::iter::once(&header).chain(&rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len() + 3);
        }
    }
    for row in std::iter::once(&header).chain(&rows) {
        let line: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("{}", line.trim_end());
    }
    Ok(())
}

pub(crate) fn ps(context: &Context, id: &str, format: Format, options: &[String]) -> Outcome {
    let pids = context.load(id)?.pids()?;
    if format == Format::Json {
        println!("{}", serde_json::to_string(&pids)?);
        return Ok(());
    }
    let default = ["-ef".to_owned()];
    let options = if options.is_empty() { &default[..] } else { options };
    let output =
        std::process::Command::new("ps").args(options).output().map_err(|error| format!("ps: {error}"))?;
    if !output.status.success() {
        return Err(format!("ps: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let column = header.split_whitespace().position(|word| word == "PID");
    let column = column.ok_or("couldn't find PID field in ps output")?;
    println!("{header}");
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse::<u32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            println!("{line}");
        }
    }
    Ok(())
}

pub(crate) fn features() -> Outcome {
    println!("{}", serde_json::to_string_pretty(&runtime::features())?);
    Ok(())
}
