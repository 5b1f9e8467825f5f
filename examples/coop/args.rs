//! The command line, in docker's spelling.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::progress::Progress;

/// A docker-like command line over cooperage: no daemon, no root.
#[derive(Debug, Parser)]
#[command(name = "coop", version, disable_help_subcommand = true)]
pub(crate) struct Coop {
    /// Where everything is kept [default: $COOP_ROOT, else ~/.local/share/cooperage]
    #[arg(long, global = true)]
    pub(crate) root: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Build an image from a Dockerfile
    Build(Box<Build>),
    /// Say what a past build did, and why (the newest one without an id)
    Explain {
        /// The build's id, or the beginning of it
        #[arg(default_value = "")]
        id: String,
        /// List the builds that are remembered
        #[arg(short, long)]
        list: bool,
    },
    /// Create and run a container from an image
    Run(Run),
    /// Download an image from a registry
    Pull { name: String },
    /// Upload an image to a registry
    Push { name: String },
    /// Log in to a registry
    Login(Login),
    /// Log out from a registry
    Logout { server: Option<String> },
    /// Create a tag that refers to an image
    Tag { source: String, target: String },
    /// List images
    Images(Images),
    /// Show the history of an image
    History(History),
    /// Return low-level information on an image
    Inspect { names: Vec<String> },
    /// Remove one or more images
    Rmi(Rmi),
    /// Manage images
    #[command(subcommand)]
    Image(Image),
    /// Manage the whole store
    #[command(subcommand)]
    System(System),
    /// List containers
    Ps {
        /// Show all containers (default shows just running)
        #[arg(short, long)]
        all: bool,
    },
    /// Remove one or more containers
    Rm { names: Vec<String> },
    /// Fetch the log of a container
    Logs { name: String },
    /// Save images to a tar archive
    Save {
        /// Write to a file, instead of STDOUT
        #[arg(short, long)]
        output: Option<PathBuf>,
        names: Vec<String>,
    },
    /// Load images from a tar archive
    Load {
        /// Read from a tar archive file, instead of STDIN
        #[arg(short, long)]
        input: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Build {
    /// Name and optionally a tag
    #[arg(short, long)]
    pub(crate) tag: Vec<String>,
    /// Name of the Dockerfile (default: PATH/Dockerfile)
    #[arg(short, long)]
    pub(crate) file: Option<PathBuf>,
    /// Set the target build stage
    #[arg(long)]
    pub(crate) target: Option<String>,
    /// Set build-time variables
    #[arg(long)]
    pub(crate) build_arg: Vec<String>,
    /// Set metadata for an image
    #[arg(long)]
    pub(crate) label: Vec<String>,
    /// Add annotation to the image
    #[arg(long)]
    pub(crate) annotation: Vec<String>,
    /// Keep beside the image how it was made (SLSA provenance), and push it with it
    #[arg(long)]
    pub(crate) provenance: bool,
    /// Keep beside the image which packages it has (SPDX), and push it with it
    #[arg(long)]
    pub(crate) sbom: bool,
    /// Squash newly built layers into a single new layer
    #[arg(long)]
    pub(crate) squash: bool,
    /// Do not use the cache
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Do not cache specified stages
    #[arg(long, value_delimiter = ',')]
    pub(crate) no_cache_filter: Vec<String>,
    /// Always attempt to pull all referenced images
    #[arg(long)]
    pub(crate) pull: bool,
    /// Secret to expose to the build (format: id=mysecret[,src=/local/secret][,env=NAME])
    #[arg(long)]
    pub(crate) secret: Vec<String>,
    /// SSH agent socket to expose to the build (format: default|<id>[=<socket>])
    #[arg(long)]
    pub(crate) ssh: Vec<String>,
    /// Additional build contexts (e.g., name=path, name=docker-image://image, name=oci-layout://path, name=https://…)
    #[arg(long)]
    pub(crate) build_context: Vec<String>,
    /// Add a custom host-to-IP mapping (host:ip)
    #[arg(long)]
    pub(crate) add_host: Vec<String>,
    /// Networking of RUN: default, host or none
    #[arg(long, default_value = "default")]
    pub(crate) network: String,
    /// Shared memory size for build containers
    #[arg(long)]
    pub(crate) shm_size: Option<String>,
    /// Set target platforms for build: several make an index
    #[arg(long, value_delimiter = ',')]
    pub(crate) platform: Vec<String>,
    /// Allow extra privileged entitlement (e.g., security.insecure)
    #[arg(long)]
    pub(crate) allow: Vec<String>,
    /// Use base images at the digests of this file; it is written when it is not there
    #[arg(long)]
    pub(crate) lock: Option<PathBuf>,
    /// Output destination (format: type=local|tar|oci|docker,dest=path)
    #[arg(short, long)]
    pub(crate) output: Vec<String>,
    /// Shorthand for pushing the tags after the build
    #[arg(long)]
    pub(crate) push: bool,
    /// Write the image ID to a file
    #[arg(long)]
    pub(crate) iidfile: Option<PathBuf>,
    /// How many steps work at once
    #[arg(long, default_value_t = 0)]
    pub(crate) jobs: usize,
    /// Print the image ID alone
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// How the build is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) progress: Progress,
    /// External cache sources (e.g., user/app:cache, type=local,src=path)
    #[arg(long)]
    pub(crate) cache_from: Vec<String>,
    /// Cache export destinations (e.g., type=registry,ref=user/app:cache, type=local,dest=path, type=inline)
    #[arg(long)]
    pub(crate) cache_to: Vec<String>,
    /// Memory limit of RUN
    #[arg(short, long)]
    pub(crate) memory: Option<String>,
    /// Build twice without the cache and name the steps and files that differ
    #[arg(long, conflicts_with_all = ["output", "push", "iidfile", "tag"])]
    pub(crate) check_reproducible: bool,
    /// The context: a directory, - for a tar archive from the standard input, a git repository, or a URL
    pub(crate) path: PathBuf,
}

impl Build {
    pub(crate) fn progress(&self) -> Progress {
        if self.quiet { Progress::Quiet } else { self.progress }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Remove the container when it exits
    #[arg(long)]
    pub(crate) rm: bool,
    /// Set environment variables
    #[arg(short, long)]
    pub(crate) env: Vec<String>,
    /// Working directory inside the container
    #[arg(short, long)]
    pub(crate) workdir: Option<String>,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Overwrite the image's ENTRYPOINT
    #[arg(long)]
    pub(crate) entrypoint: Option<String>,
    /// Assign a name to the container
    #[arg(long, default_value = "")]
    pub(crate) name: String,
    /// Connect to a network: host or none
    #[arg(long, default_value = "host")]
    pub(crate) network: String,
    /// Keep STDIN open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    pub(crate) image: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Login {
    #[arg(short, long)]
    pub(crate) username: Option<String>,
    /// Take the password from stdin
    #[arg(long)]
    pub(crate) password_stdin: bool,
    pub(crate) server: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Images {
    /// Don't truncate output
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Show digests
    #[arg(long)]
    pub(crate) digests: bool,
    /// Only images of this repository, or with this name
    pub(crate) repository: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct History {
    /// Don't truncate output
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    pub(crate) quiet: bool,
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Rmi {
    /// Force removal of the image
    #[arg(short, long)]
    pub(crate) force: bool,
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Remove all unused images, not just dangling ones
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Dedup {
    /// Leave smaller files alone, in bytes
    #[arg(long, default_value_t = 4_096)]
    pub(crate) min_size: u64,
    /// Only say how much there is to share
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// List images
    Ls(Images),
    /// Show the history of an image
    History(History),
    /// Display detailed information on images
    Inspect { names: Vec<String> },
    /// Remove images
    Rm(Rmi),
    /// Remove unused images
    Prune(Prune),
}

#[derive(Debug, Subcommand)]
pub(crate) enum System {
    /// Show disk usage
    Df,
    /// Make equal files of different layers share their disk blocks (XFS, Btrfs)
    Dedup(Dedup),
    /// Remove unused data
    Prune(Prune),
}
