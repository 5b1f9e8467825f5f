//! Git references as ADD and contexts write them: `https://host/repo.git#ref:dir`, `git@host:repo`.

use std::collections::BTreeMap;

use crate::instruction::parse_bool;
use crate::path;
use crate::plan::GitSource;
use crate::quote::quote;
use crate::url;

/// A parsed reference.
#[derive(Debug, Default)]
pub(crate) struct GitRef {
    remote: String,
    host: String,
    path: String,
    reference: String,
    subdir: String,
    pub(crate) checksum: String,
    pub(crate) keep_git_dir: Option<bool>,
    submodules: Option<bool>,
    mtime: Option<String>,
    fetch_by_commit: bool,
}

/// Reads a word as a git reference; nothing when it is something else.
///
/// # Errors
///
/// With what is wrong in its query.
pub(crate) fn parse(word: &str) -> Result<Option<GitRef>, String> {
    // All forms have one.
    if memchr::memchr(b':', word.as_bytes()).is_none() {
        return Ok(None);
    }
    let mut git = GitRef::default();
    let (base, written) = word.split_once('#').unwrap_or((word, ""));
    let fragment = decode(written);
    let (address, query) = base.split_once('?').unwrap_or((base, ""));
    if let Some((scheme, rest)) = address.split_once("://") {
        let scheme = scheme.to_lowercase();
        if !matches!(scheme.as_str(), "http" | "https" | "ssh" | "git") {
            return Ok(None);
        }
        let (authority, tail) = url::split(rest);
        if !url::is_valid(&scheme, authority, tail, query, written) {
            return Ok(None);
        }
        git.path = decode(tail);
        if scheme.starts_with("http") && !git.path.ends_with(".git") {
            return Ok(None);
        }
        authority.rsplit('@').next().unwrap_or("").clone_into(&mut git.host);
        git.remote = format!("{scheme}://{rest}");
    } else {
        let Some((user, tail)) = address.split_once('@') else { return Ok(None) };
        let Some((host, tail)) = tail.split_once(':') else { return Ok(None) };
        let name = |text: &str, more: &str| {
            !text.is_empty() && text.chars().all(|ch| ch.is_ascii_alphanumeric() || more.contains(ch))
        };
        if !name(user, "-_") || !name(host, "-.") {
            return Ok(None);
        }
        host.clone_into(&mut git.host);
        tail.clone_into(&mut git.path);
        address.clone_into(&mut git.remote);
    }
    let (reference, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
    reference.clone_into(&mut git.reference);
    git.subdir = path::join(&["/", subdir]).trim_start_matches('/').to_owned();
    git.query(query)?;
    Ok(Some(git))
}

impl GitRef {
    fn query(&mut self, query: &str) -> Result<(), String> {
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let (key, value) = (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")));
            if value.is_empty() && !matches!(key.as_str(), "submodules" | "keep-git-dir" | "fetch-by-commit")
            {
                return Err(format!("query {} has no value", quote(&key)));
            }
            if values.insert(key.clone(), value).is_some() {
                return Err(format!("query {} has multiple values", quote(&key)));
            }
        }
        let flag = |key: &str, value: &str| match value {
            "" => Ok(true),
            value => parse_bool(value).ok_or_else(|| format!("invalid {key} value: {}", quote(value))),
        };
        let (mut tag, mut branch) = (None, None);
        for (key, value) in values {
            match key.as_str() {
                "ref" => settle(&mut self.reference, value, "ref")?,
                "subdir" => settle(&mut self.subdir, value, "subdir")?,
                "tag" => tag = Some(value),
                "branch" => branch = Some(value),
                "checksum" | "commit" => self.checksum = value,
                "keep-git-dir" => self.keep_git_dir = Some(flag(&key, &value)?),
                "submodules" => self.submodules = Some(flag(&key, &value)?),
                "fetch-by-commit" => self.fetch_by_commit = flag(&key, &value)?,
                "mtime" if matches!(value.as_str(), "checkout" | "commit") => self.mtime = Some(value),
                "mtime" => return Err(format!("invalid mtime value: {}", quote(&value))),
                _ => return Err(format!("unexpected query {}", quote(&key))),
            }
        }
        if tag.is_some() && branch.is_some() {
            return Err("branch conflicts with tag".to_owned());
        }
        for (name, prefix) in [(tag, "refs/tags/"), (branch, "refs/heads/")] {
            if let Some(name) = name {
                let name = if name.starts_with(prefix) { name } else { format!("{prefix}{name}") };
                settle(&mut self.reference, name, "ref")?;
            }
        }
        Ok(())
    }

    /// What to fetch, with what the flags of ADD say.
    pub(crate) fn source(&self, keep_git_dir: Option<bool>, checksum: &str) -> GitSource {
        let mut identity = format!("{}{}", self.host, path::join(&["/", &self.path]));
        if !self.reference.is_empty() || !self.subdir.is_empty() {
            identity.push_str(&format!("#{}", self.reference));
        }
        if !self.subdir.is_empty() {
            identity.push_str(&format!(":{}", self.subdir));
        }
        let checksum = if self.checksum.is_empty() { checksum } else { &self.checksum };
        GitSource {
            remote: self.remote.clone(),
            identity,
            reference: self.reference.clone(),
            subdir: self.subdir.clone(),
            keep_git_dir: self.keep_git_dir.or(keep_git_dir).unwrap_or(false),
            checksum: (!checksum.is_empty()).then(|| checksum.to_owned()),
            submodules: self.submodules.unwrap_or(true),
            fetch_by_commit: self.fetch_by_commit,
            mtime: self.mtime.clone(),
        }
    }
}

fn settle(slot: &mut String, value: String, what: &str) -> Result<(), String> {
    if !slot.is_empty() && *slot != value {
        return Err(format!("{what} conflicts: {} vs {}", quote(slot), quote(&value)));
    }
    *slot = value;
    Ok(())
}

/// The last element of a URL's path.
pub(crate) fn url_base(url: &str) -> Option<String> {
    let (_, path) = url::parse(url)?;
    let path = decode(path);
    let base = path::base(&path);
    (base != "." && base != "/").then(|| base.to_owned())
}

fn decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out.extend_from_slice(before.as_bytes());
        match after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = after.get(2..).unwrap_or("");
            }
            None => {
                out.push(b'%');
                rest = after;
            }
        }
    }
    out.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&out).into_owned()
}
