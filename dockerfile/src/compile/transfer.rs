//! COPY and ADD.

use std::borrow::Cow;

use image_core::Digest;

use super::dispatch::value;
use super::node::{Node, Task};
use super::{Refusal, Work};
use crate::error::ErrorKind;
use crate::expand::Expander;
use crate::instruction::{Kind, Transfer};
use crate::plan::{Copy, CopySource, FileAction, Files, HttpSource, Input, Mode, Op, Owner};
use crate::quote::{push_all, quote};
use crate::{git, lint, path};

impl<'a> Work<'a> {
    pub(super) fn transfer(
        &mut self,
        node: &mut Node<'a>,
        task: &Task<'a>,
        written: &Transfer,
    ) -> Result<(), Refusal> {
        let add = matches!(task.instruction.kind, Kind::Add(_));
        let chown = self.expand(node, task, &written.chown)?;
        let chmod = self.expand(node, task, &written.chmod)?;
        let checksum = self.expand(node, task, &written.checksum)?;
        let mut sources = Vec::with_capacity(written.sources.len());
        for source in &written.sources {
            sources.push(self.expand(node, task, source)?);
        }
        let dest_word = self.expand(node, task, &written.dest)?;
        let body = Expander { skip_quotes: true, ..Expander::new('\\') };
        let mut inline = Vec::new();
        for file in &written.inline {
            let data = if file.expand {
                self.expand_by(body, node, task, &file.data)?
            } else {
                Cow::Borrowed(&*file.data)
            };
            inline.push((file.name.clone(), data.into_owned()));
        }
        let tree = match task.sources.first().map(|source| self.tree_of(node, *source)) {
            Some(None) => {
                let from = written.from.as_deref().unwrap_or("");
                return Err((
                    ErrorKind::StageOrder { action: "copy", stage: quote(from), current: quote(&node.title) },
                    self.stage_hint(from).or_else(|| Some("move the stage above this one".to_owned())),
                ));
            }
            Some(tree) => tree,
            None => None,
        };
        let os = node.os();
        let dest = path::dest(&node.dir, &dest_word, os).map_err(value)?;
        let template = Copy {
            from: CopySource::Tree(Input::Empty),
            source: String::new(),
            dest: path::clean_dest(&dest),
            owner: (!chown.is_empty()).then(|| Owner::parse(&chown)),
            mode: if chmod.is_empty() { None } else { Some(mode(&chmod)?) },
            include: Vec::new(),
            exclude: written.exclude.clone(),
            required: Vec::new(),
            unpack: false,
            wildcard: false,
            follow_links: false,
            parents: written.parents,
        };
        let is_git = |source: &str| matches!(git::parse(source), Ok(Some(_)) | Err(_));
        let is_http = |source: &str| {
            (source.starts_with("http://") || source.starts_with("https://")) && !is_git(source)
        };
        if !checksum.is_empty() {
            match sources.as_slice() {
                [one] if is_http(one) || is_git(one) => {}
                [_] => return Err(value("checksum requires HTTP(S) or Git sources")),
                _ => return Err(value("checksum can't be specified for multiple sources")),
            }
        }
        let mut text = String::with_capacity(task.instruction.text.len() + 16);
        text.push_str(if add { "ADD" } else { "COPY" });
        if written.parents {
            text.push_str(" --parents");
        }
        for (flag, given) in [("chown", &chown), ("chmod", &chmod)] {
            if !given.is_empty() {
                push_all(&mut text, &[" --", flag, "=", given]);
            }
        }
        let (span, lines) = (task.instruction.span, task.instruction.lines);
        let mut actions = Vec::with_capacity(sources.len() + inline.len());
        let mut copies = std::iter::repeat_n(template, sources.len() + inline.len());
        for (source, mut copy) in sources.iter().zip(copies.by_ref()) {
            push_all(&mut text, &[" ", source]);
            if let Some(parsed) = git::parse(source).map_err(value)? {
                if !add {
                    return Err(value("source can't be a git ref for COPY"));
                }
                if let (Some(a), Some(b)) = (written.keep_git_dir, parsed.keep_git_dir)
                    && a != b
                {
                    return Err(value("inconsistent keep-git-dir configuration"));
                }
                if !checksum.is_empty() && !parsed.checksum.is_empty() && checksum != parsed.checksum {
                    return Err(value(format!(
                        "checksum mismatch {} != {}",
                        quote(&checksum),
                        quote(&parsed.checksum)
                    )));
                }
                let op = Op::Git(parsed.source(written.keep_git_dir, &checksum));
                copy.from = CopySource::Tree(Input::Step(self.steps.source(op, span, lines)));
                copy.source = "/".to_owned();
            } else if is_http(source) {
                if !add {
                    return Err(value("source can't be a URL for COPY"));
                }
                let checksum = match &*checksum {
                    "" => None,
                    text => Some(text.parse::<Digest>().map_err(|error| value(error.to_string()))?),
                };
                let filename = git::url_base(source).unwrap_or_else(|| "__unnamed__".to_owned());
                copy.source = path::join(&["/", &filename]);
                let op = Op::Http(HttpSource { url: source.to_string(), filename, checksum });
                copy.from = CopySource::Tree(Input::Step(self.steps.source(op, span, lines)));
                copy.unpack = written.unpack.unwrap_or(false);
            } else {
                if tree.is_none() && !self.guessed {
                    self.lint_ignored(task, add, source);
                }
                let mut from = &**source;
                if written.parents {
                    let (parent, pattern) = source.split_once("/./").unwrap_or(("/", &**source));
                    let pattern = path::normalize("/", pattern, os, false).map_err(value)?;
                    let pattern = if pattern.starts_with('/') && !source.starts_with('/') {
                        path::clean(&pattern)
                    } else {
                        pattern
                    };
                    from = parent;
                    if !path::has_wildcards(from) && !path::has_wildcards(&pattern) {
                        copy.required.push(path::join(&["/", from, &pattern]));
                    }
                    copy.include.push(pattern.strip_prefix('/').unwrap_or(&pattern).to_owned());
                }
                let normal = path::normalize("/", from, os, false).map_err(value)?;
                copy.source = path::join(&["/", &normal]);
                copy.from = CopySource::Tree(match tree {
                    Some(tree) => tree,
                    None => Input::Step(self.steps.context(span, lines)),
                });
                copy.unpack = written.unpack.unwrap_or(add);
                copy.wildcard = true;
                copy.follow_links = true;
            }
            actions.push(FileAction::Copy(Box::new(copy)));
        }
        for ((name, data), template) in inline.into_iter().zip(copies) {
            push_all(&mut text, &[" <<", &name]);
            let source = path::join(&["/", &name]);
            let copy = Copy { from: CopySource::Inline { name, data }, source, ..template };
            actions.push(FileAction::Copy(Box::new(copy)));
        }
        push_all(&mut text, &[" ", &dest_word, " # buildkit"]);
        let shown = self.shown(node, &task.instruction.text, false);
        let op = Op::Files(Files { actions, link: written.link, ignore_cache: node.ignore_cache });
        let step = self.step(node, task, op, &shown);
        self.commit(node, task, text, Some(step))
    }

    fn lint_ignored(&mut self, task: &Task<'a>, add: bool, source: &str) {
        let Some(ignore) = self.ignore.as_ref().filter(|ignore| !ignore.has_exceptions()) else { return };
        let source = path::clean(source);
        if matches!(&*source, "." | "/") && !ignore.is_total() {
            return;
        }
        if ignore.matches(&source) {
            let verb = if add { "Add" } else { "Copy" };
            self.lint(task, &lint::COPY_IGNORED_FILE, || {
                format!("Attempting to {verb} file {} that is excluded by .dockerignore", quote(&source))
            });
        }
    }
}

fn mode(text: &str) -> Result<Mode, Refusal> {
    let wrong = || {
        value(format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"))
    };
    if !text.starts_with('+')
        && let Ok(bits) = u32::from_str_radix(text, 8)
    {
        return if bits <= 0o7777 { Ok(Mode::Octal(bits)) } else { Err(wrong()) };
    }
    if text.starts_with(|ch: char| ch.is_ascii_digit()) {
        return Err(wrong());
    }
    // chmod(1): clauses of who, then operators with permissions.
    for clause in text.split(',') {
        let tail = clause.trim_start_matches(['u', 'g', 'o', 'a']);
        let fits = tail.starts_with(['+', '-', '='])
            && tail.chars().all(|ch| {
                matches!(ch, '+' | '-' | '=' | 'r' | 'w' | 'x' | 'X' | 's' | 't' | 'u' | 'g' | 'o')
            });
        if !fits {
            return Err(value("invalid syntax"));
        }
    }
    Ok(Mode::Symbolic(text.to_owned()))
}
