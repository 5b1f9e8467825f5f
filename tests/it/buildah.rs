//! The cases of `conformance.txt`, built by Debian's buildah in the same run and compared.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use cooperage::{Engine, Image, Output};

use crate::conformance::{Case, config, difference, our_config, tree, walk};

/// buildah with a store of its own.
struct Buildah {
    dir: tempfile::TempDir,
}

impl Buildah {
    fn run(&self, args: &[&str]) -> Result<String, String> {
        let done = Command::new("buildah")
            .args(["--storage-driver", "overlay", "--root"])
            .arg(self.dir.path().join("root"))
            .arg("--runroot")
            .arg(self.dir.path().join("run"))
            .args(args)
            .env("BUILDAH_ISOLATION", "chroot")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if done.status.success() {
            Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&done.stderr).trim().to_owned())
        }
    }

    /// The tree of an image, by a container that is removed again.
    fn tree(&self, image: &str) -> Result<BTreeMap<String, String>, String> {
        let container = self.run(&["from", "--pull-never", image])?;
        let mount = self.run(&["mount", &container])?;
        let tree = walk(Path::new(&mount));
        self.run(&["umount", &container])?;
        self.run(&["rm", &container])?;
        Ok(tree)
    }
}

impl Drop for Buildah {
    /// Its driver mounts its own directory over itself, and leaves the layers of a build that failed mounted.
    fn drop(&mut self) {
        let overlay = self.dir.path().join("root/overlay");
        drop(Command::new("umount").arg("-R").arg(overlay).status());
    }
}

/// What differs where nothing is known to: a text for each case.
pub(crate) async fn compare(
    engine: &Engine,
    base: &Image,
    all: &[Case],
    images: &[Option<Image>],
    files: &Path,
) -> Vec<String> {
    let buildah = Buildah { dir: tempfile::tempdir().unwrap() };
    let archive = buildah.dir.path().join("base.tar");
    let name = ["localhost/base:latest".parse().unwrap()];
    engine.export(base, &name, &Output::Archive(archive.clone())).await.unwrap();
    buildah.run(&["pull", "-q", &format!("docker-archive:{}", archive.display())]).unwrap();
    let base_tree = buildah.tree("localhost/base:latest").unwrap();
    let (mut wrong, mut same, mut refused, mut known) = (Vec::new(), 0, 0, 0);
    for (nth, (case, image)) in all.iter().zip(images).enumerate() {
        let dockerfile = files.join(format!("Dockerfile.{nth}"));
        let ignore = files.join(format!("Dockerfile.{nth}.dockerignore"));
        let mut args: Vec<String> =
            ["bud", "--isolation", "chroot", "--layers", "--format", "docker", "--pull-never", "-q"]
                .map(str::to_owned)
                .into();
        args.extend(["--ignorefile".to_owned(), ignore.display().to_string()]);
        args.extend([
            "-f".to_owned(),
            dockerfile.display().to_string(),
            "-t".to_owned(),
            format!("localhost/case{nth}"),
        ]);
        for (name, value) in &case.args {
            args.extend(["--build-arg".to_owned(), format!("{name}={value}")]);
        }
        if let Some(target) = &case.target {
            args.extend(["--target".to_owned(), target.clone()]);
        }
        args.push(files.display().to_string());
        let built = buildah.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let outcome = match (&built, image) {
            (Err(_), None) => Ok(()),
            (Ok(_), None) => Err("buildah builds it".to_owned()),
            (Err(_), Some(_)) => {
                refused += 1;
                continue;
            }
            (Ok(_), Some(image)) => {
                let on_base = image.record().layers.first() == base.record().layers.first();
                let (ours_below, theirs_below) = if on_base {
                    (tree(engine, &engine.view(base).unwrap()), base_tree.clone())
                } else {
                    (BTreeMap::new(), BTreeMap::new())
                };
                let tag = format!("localhost/case{nth}");
                let theirs = match buildah.tree(&tag) {
                    Ok(tree) => difference(&theirs_below, &tree),
                    Err(text) => vec![text],
                };
                let ours = difference(&ours_below, &tree(engine, &engine.view(image).unwrap()));
                let json = buildah.run(&["inspect", "--type", "image", &tag]).unwrap();
                let json: serde_json::Value = serde_json::from_str(&json).unwrap();
                let (their_config, our_config) =
                    (config(&json["Docker"]["config"]), our_config(engine, image));
                if ours == theirs && our_config == their_config {
                    Ok(())
                } else {
                    let lines = |name: &str, one: &[String], other: &[String]| {
                        let only: Vec<&String> = one.iter().filter(|line| !other.contains(line)).collect();
                        only.iter().map(|line| format!("  {name}: {line}\n")).collect::<String>()
                    };
                    Err(lines("ours", &ours, &theirs)
                        + &lines("buildah", &theirs, &ours)
                        + &lines("ours", &our_config, &their_config)
                        + &lines("buildah", &their_config, &our_config))
                }
            }
        };
        match (outcome, &case.buildah) {
            (Ok(()), None) => same += 1,
            (Err(_), Some(_)) => known += 1,
            (Ok(()), Some(reason)) => {
                wrong.push(format!("{}: buildah gives the same, though: {reason}", case.name));
            }
            (Err(text), None) => wrong.push(format!("{}:\n{text}", case.name)),
        }
    }
    println!(
        "buildah: {same} the same, {refused} that it refuses, {known} where it is known to differ, {} wrong",
        wrong.len()
    );
    wrong
}
