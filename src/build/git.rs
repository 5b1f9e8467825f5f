//! Checkouts of git repositories: ADD of one, or one as the build context.
//!
//! The `git` of the host does it, kept on a short lead: no configuration but ours, no hooks, no prompts, no helpers,
//! and no protocol but `https`, `http`, `ssh`, `git` and (for the caller's own paths) `file`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dockerfile::plan::GitSource;

use super::context;
use super::hashes::Hashes;
use super::tree::{Scratch, Tree};
use crate::error::{Error, Result};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A fresh directory below `state` that goes when the value is dropped.
pub(super) fn scratch(state: &Path) -> Result<Scratch> {
    let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = state.join("scratch").join(name);
    let made = std::fs::create_dir_all(&path);
    made.map_err(|source| Error::Io { path: path.clone(), source })?;
    Ok(Scratch(path))
}

/// Fetches what `source` names and shows its files. With mtimes of the commit, so that they do not depend on the hour.
pub(super) fn checkout(source: &GitSource, state: &Path, hashes: &Arc<Hashes>) -> Result<Tree> {
    let scratch = scratch(state)?;
    let work = scratch.0.join("work");
    let commit = fetch(source, &scratch.0, &work)?;
    let time = commit_time(&scratch.0, &work, &commit).unwrap_or(0);
    if !source.keep_git_dir {
        remove_git_directories(&work)?;
    }
    let root =
        inside(&work, &source.subdir).ok_or_else(|| refused(source, "the subdirectory is not there"))?;
    let mut tree = context::everything(&root, hashes)?;
    for node in tree.nodes.values_mut() {
        node.mtime = (time, 0);
        // What git does not record is an accident of the umask.
        node.mode = if node.mode & 0o100 != 0 { 0o755 } else { 0o644 };
    }
    // Owners are root's and times the commit's: they count, unlike those of a directory.
    tree.is_context = false;
    tree.held = Some(Arc::new(scratch));
    tree.commit = Some(commit);
    Ok(tree)
}

fn refused(source: &GitSource, reason: impl Into<String>) -> Error {
    Error::Step { step: format!("git {}", source.identity), reason: reason.into() }
}

fn fetch(source: &GitSource, home: &Path, work: &Path) -> Result<String> {
    if source.remote.starts_with('-') || source.reference.starts_with('-') {
        return Err(refused(source, "a name that begins with a dash"));
    }
    let git = Git { source, home, work };
    let made = std::fs::create_dir_all(work);
    made.map_err(|error| Error::Io { path: work.to_owned(), source: error })?;
    git.run(&["init", "--quiet", "--initial-branch=main"])?;
    let checksum = source.checksum.as_deref().filter(|sum| source.fetch_by_commit && !sum.is_empty());
    let wanted = match checksum {
        Some(commit) => commit,
        None if source.reference.is_empty() => "HEAD",
        None => source.reference.as_str(),
    };
    // A commit can be asked for alone only where the server allows it; then everything is fetched.
    let shallow = git.run(&["fetch", "--quiet", "--depth=1", "--no-tags", "--", &source.remote, wanted]);
    let commit = match shallow {
        Ok(_) => git.run(&["rev-parse", "--verify", "FETCH_HEAD^{commit}"])?,
        Err(first) => {
            let all =
                ["fetch", "--quiet", "--tags", "--", &source.remote, "+refs/heads/*:refs/remotes/origin/*"];
            git.run(&all).map_err(|_| first)?;
            let name = format!("{wanted}^{{commit}}");
            git.run(&["rev-parse", "--verify", "--end-of-options", &name])?
        }
    };
    let commit = commit.trim().to_owned();
    if let Some(sum) = source.checksum.as_deref().filter(|sum| !sum.is_empty())
        && !commit.starts_with(sum)
    {
        return Err(refused(source, format!("expected checksum to match {sum}, got {commit}")));
    }
    git.run(&["checkout", "--quiet", "--force", "--detach", &commit])?;
    if source.submodules && work.join(".gitmodules").exists() {
        git.run(&["submodule", "update", "--quiet", "--init", "--recursive", "--depth=1"])?;
    }
    Ok(commit)
}

struct Git<'a> {
    source: &'a GitSource,
    home: &'a Path,
    work: &'a Path,
}

impl Git<'_> {
    fn run(&self, args: &[&str]) -> Result<String> {
        let mut command = command(self.home, self.work);
        let output = command.args(args).output();
        let output = output.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::ProgramMissing { program: "git", needed_for: "git sources" }
            }
            _ => Error::Io { path: "git".into(), source: error },
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(refused(self.source, said.trim().chars().take(1_000).collect::<String>()))
    }
}

fn command(home: &Path, work: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .env_clear()
        // Nothing of the caller's environment.
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", home)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ALLOW_PROTOCOL", "https:http:ssh:git:file")
        .env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")
        .env("LC_ALL", "C")
        .arg("-C")
        .arg(work)
        .args([
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "core.fsmonitor=false",
            "-c",
            "protocol.ext.allow=never",
        ])
        .args(["-c", "core.symlinks=true", "-c", "advice.detachedHead=false", "-c", "credential.helper="])
        .args(["-c", "safe.directory=*", "-c", "core.autocrlf=false", "-c", "core.protectHFS=true"])
        .stdin(Stdio::null());
    command
}

/// When the commit was made, in seconds since 1970.
fn commit_time(home: &Path, work: &Path, commit: &str) -> Option<i64> {
    let output = command(home, work).args(["show", "--no-patch", "--format=%ct", commit]).output().ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

/// `.git` of the checkout and of its submodules.
fn remove_git_directories(work: &Path) -> Result<()> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    let mut open = vec![work.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).map_err(fail(&directory))? {
            let entry = entry.map_err(fail(&directory))?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(fail(&directory))?);
            if entry.file_name() == ".git" {
                let removed =
                    if kind.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
                removed.map_err(fail(&path))?;
            } else if kind.is_dir() {
                open.push(path);
            }
        }
    }
    Ok(())
}

/// `subdir` of `work`, through no link.
fn inside(work: &Path, subdir: &str) -> Option<PathBuf> {
    let mut path = work.to_owned();
    for name in subdir.split('/').filter(|name| !matches!(*name, "" | ".")) {
        if name == ".." {
            return None;
        }
        path.push(name);
        if !std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
            return None;
        }
    }
    Some(path)
}
