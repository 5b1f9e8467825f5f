//! The words of the command line, as runc has them.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(
    name = "coop-runtime",
    version,
    disable_version_flag = true,
    disable_help_subcommand = true,
    args_override_self = true
)]
pub(crate) struct Args {
    /// Print version.
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
    /// Where containers are kept.
    #[arg(long)]
    pub(crate) root: Option<PathBuf>,
    /// A file to which errors are appended.
    #[arg(long)]
    pub(crate) log: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,
    #[arg(long)]
    pub(crate) debug: bool,
    /// Let systemd manage cgroups: refused where it does not run.
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// Accepted: what a user may do is found out.
    #[arg(long)]
    pub(crate) rootless: Option<String>,
    /// Accepted, as runc does.
    #[arg(long, hide = true)]
    pub(crate) criu: Option<String>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Prepare a container up to its program.
    Create(Create),
    /// Execute the program of a container that was created.
    Start { id: String },
    /// Create, start, and wait.
    Run(Run),
    /// Send a signal to the first process.
    Kill(Kill),
    /// Remove a container that is not running.
    Delete {
        #[arg(short, long)]
        force: bool,
        id: String,
    },
    /// Run another process in a container.
    Exec(Exec),
    /// Print the state of a container.
    State { id: String },
    /// Print all containers.
    List {
        #[arg(short, long, value_enum, default_value = "table")]
        format: Format,
        #[arg(short, long)]
        quiet: bool,
    },
    /// Print the processes of a container.
    Ps {
        #[arg(short, long, value_enum, default_value = "table")]
        format: Format,
        id: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Stop all processes of a container where they are.
    Pause { id: String },
    /// Let them go on.
    Resume { id: String },
    /// Change limits.
    Update(Update),
    /// Print what a container uses.
    Events {
        #[arg(long)]
        stats: bool,
        #[arg(long, default_value = "5s")]
        interval: String,
        id: String,
    },
    /// Write an example of a config.json.
    Spec(Spec),
    /// Print what this runtime can do.
    Features,
    #[command(hide = true)]
    Checkpoint,
    #[command(hide = true)]
    Restore,
}

#[derive(clap::Args)]
pub(crate) struct Create {
    /// The directory with config.json.
    #[arg(short, long)]
    pub(crate) bundle: Option<PathBuf>,
    /// A socket that takes the controlling side of the terminal.
    #[arg(long)]
    pub(crate) console_socket: Option<PathBuf>,
    /// A socket that takes the pidfd of the first process.
    #[arg(long)]
    pub(crate) pidfd_socket: Option<PathBuf>,
    #[arg(long)]
    pub(crate) pid_file: Option<PathBuf>,
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Accepted: the container has the keyring of its session either way.
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    /// How many descriptors from 3 on to pass.
    #[arg(long, default_value_t = 0)]
    pub(crate) preserve_fds: usize,
    pub(crate) id: String,
}

#[derive(clap::Args)]
pub(crate) struct Run {
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Do not delete it when it has ended.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Accepted: the first process is a child of this one in any case.
    #[arg(long)]
    pub(crate) no_subreaper: bool,
    #[command(flatten)]
    pub(crate) create: Create,
}

#[derive(clap::Args)]
pub(crate) struct Kill {
    /// Send it to every process.
    #[arg(short, long)]
    pub(crate) all: bool,
    pub(crate) id: String,
    #[arg(default_value = "SIGTERM")]
    pub(crate) signal: String,
}

#[derive(clap::Args)]
pub(crate) struct Exec {
    #[arg(long)]
    pub(crate) console_socket: Option<PathBuf>,
    #[arg(long)]
    pub(crate) pidfd_socket: Option<PathBuf>,
    #[arg(long)]
    pub(crate) cwd: Option<PathBuf>,
    #[arg(short, long)]
    pub(crate) env: Vec<String>,
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// `uid[:gid]`.
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    #[arg(short = 'g', long)]
    pub(crate) additional_gids: Vec<u32>,
    /// A file with the process as JSON.
    #[arg(short, long)]
    pub(crate) process: Option<PathBuf>,
    #[arg(short, long)]
    pub(crate) detach: bool,
    #[arg(long)]
    pub(crate) pid_file: Option<PathBuf>,
    #[arg(long)]
    pub(crate) process_label: Option<String>,
    #[arg(long)]
    pub(crate) apparmor: Option<String>,
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    #[arg(short, long)]
    pub(crate) cap: Vec<String>,
    #[arg(long, default_value_t = 0)]
    pub(crate) preserve_fds: usize,
    #[arg(long)]
    pub(crate) cgroup: Vec<String>,
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    #[arg(long, hide = true)]
    pub(crate) no_subreaper: bool,
    pub(crate) id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

#[derive(clap::Args)]
pub(crate) struct Spec {
    #[arg(short, long)]
    pub(crate) bundle: Option<PathBuf>,
    #[arg(long)]
    pub(crate) rootless: bool,
}

#[derive(clap::Args, Default)]
pub(crate) struct Update {
    /// A file with resources as JSON, or `-`.
    #[arg(short, long)]
    pub(crate) resources: Option<PathBuf>,
    #[arg(long)]
    pub(crate) blkio_weight: Option<u16>,
    #[arg(long)]
    pub(crate) cpu_period: Option<u64>,
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    #[arg(long)]
    pub(crate) cpu_burst: Option<u64>,
    #[arg(long, alias = "cpu-shares")]
    pub(crate) cpu_share: Option<u64>,
    #[arg(long)]
    pub(crate) cpu_rt_period: Option<u64>,
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_rt_runtime: Option<i64>,
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_idle: Option<i64>,
    #[arg(long)]
    pub(crate) cpuset_cpus: Option<String>,
    #[arg(long)]
    pub(crate) cpuset_mems: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) kernel_memory: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) kernel_memory_tcp: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_reservation: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    pub(crate) id: String,
}
