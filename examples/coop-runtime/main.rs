//! An OCI runtime with runc's command line, over the library: what podman, buildah and containerd can be pointed at.
//!
//! It reads a bundle, calls the library, and answers in runc's forms. Exit codes are runc's: that of the container for
//! `run` and `exec` in the foreground, 255 for an `exec` that could not be done, 1 for everything else.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks to a terminal")]

mod args;
mod bundle;
mod console;
mod exec;
mod foreground;
mod lifecycle;
mod log;
mod report;
mod resources;
mod sys;
mod template;
mod usage;

use std::error::Error;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use cooperage::runtime::{self, Container, ContainerId, Runtime};

use args::{Args, Verb};

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// What every verb has.
pub(crate) struct Context {
    pub(crate) runtime: Runtime,
    pub(crate) root: std::path::PathBuf,
}

impl Context {
    fn new(args: &Args) -> Outcome<Self> {
        if args.systemd_cgroup && !std::path::Path::new("/run/systemd/system").exists() {
            return Err("systemd not running on this host, cannot use systemd cgroups manager".into());
        }
        let root = args.root.clone().unwrap_or_else(default_root);
        if let (Some(given), Verb::List { .. }) = (&args.root, &args.verb) {
            std::fs::metadata(given).map_err(|error| format!("{}: {error}", given.display()))?;
        }
        let runtime = Runtime::builder()
            .state_dir(&root)
            .cgroup_parent(Some("/coop-runtime".into()))
            .resident_helper(false)
            .build()?;
        Ok(Self { runtime, root })
    }

    pub(crate) fn load(&self, id: &str) -> Outcome<Container> {
        let parsed: ContainerId = id.parse()?;
        match self.runtime.load(&parsed) {
            Err(runtime::Error::NoSuchContainer { .. }) => {
                Err(format!("container {id:?} does not exist").into())
            }
            other => Ok(other?),
        }
    }
}

fn default_root() -> std::path::PathBuf {
    let user = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !rustix::process::geteuid().is_root());
    std::path::PathBuf::from(user.unwrap_or_else(|| "/run".into())).join("coop-runtime")
}

/// The help of a verb begins with what it is, as runc's does.
fn command() -> clap::Command {
    Args::command().mut_subcommands(|verb| {
        let name = format!("NAME:\n   coop-runtime {} - {{about}}", verb.get_name());
        verb.help_template(name + "\n\n{usage-heading} {usage}\n\n{all-args}")
    })
}

fn main() -> ExitCode {
    let args = match Args::from_arg_matches(&command().get_matches()) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    let remarks = log::Remarks { log: args.log.clone(), format: args.log_format, debug: args.debug };
    // There is no other one in this process.
    drop(tracing::subscriber::set_global_default(remarks));
    let failed = if matches!(args.verb, Verb::Exec(_)) { 255 } else { 1 };
    match perform(&args) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log::error(args.log.as_deref(), args.log_format, &*error);
            ExitCode::from(failed)
        }
    }
}

fn perform(args: &Args) -> Outcome<u8> {
    match &args.verb {
        Verb::Spec(spec) => return template::write(spec).map(|()| 0),
        Verb::Features => return report::features().map(|()| 0),
        Verb::Checkpoint | Verb::Restore => return Err("checkpoints are not supported".into()),
        _ => {}
    }
    let context = Context::new(args)?;
    match &args.verb {
        Verb::Create(create) => lifecycle::create(&context, create).map(|()| 0),
        Verb::Start { id } => lifecycle::start(&context, id).map(|()| 0),
        Verb::Run(run) => lifecycle::run(&context, run),
        Verb::Kill(kill) => lifecycle::kill(&context, kill).map(|()| 0),
        Verb::Delete { id, force } => lifecycle::delete(&context, id, *force).map(|()| 0),
        Verb::Exec(exec) => exec::exec(&context, exec),
        Verb::State { id } => report::state(&context, id).map(|()| 0),
        Verb::List { format, quiet } => report::list(&context, *format, *quiet).map(|()| 0),
        Verb::Ps { format, id, options } => report::ps(&context, id, *format, options).map(|()| 0),
        Verb::Pause { id } => Ok(context.load(id)?.pause().map(|()| 0)?),
        Verb::Resume { id } => Ok(context.load(id)?.resume().map(|()| 0)?),
        Verb::Update(update) => resources::update(&context, update).map(|()| 0),
        Verb::Events { id, stats, interval } => usage::events(&context, id, *stats, interval).map(|()| 0),
        Verb::Spec(_) | Verb::Features | Verb::Checkpoint | Verb::Restore => Ok(0),
    }
}
