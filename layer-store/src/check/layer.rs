//! A layer's tree against its index.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use image_core::{Algorithm, Digester};

use super::{Damage, Finding, Object};
use crate::authority::{Found, Owners};
use crate::error::{Error, Result};
use crate::index::{Entry, Kind};
use crate::layer::{INDEX, Layer, LayerKey, TREE};
use crate::store::Store;

const TYPE: u32 = 0o170_000;
const FILE: u32 = 0o100_000;

/// How many entries the layer has, and what is wrong with it.
pub(crate) fn check_layer(store: &Store, key: &LayerKey) -> Result<(usize, Vec<Finding>)> {
    let object = Object::Layer(key.clone());
    let at = PathBuf::from("layers").join(key.as_str());
    let one = |path: PathBuf, damage| Finding { object: object.clone(), path, damage };
    let layer = match Layer::load(&store.places.layers, key.as_str()) {
        Ok(Some(layer)) => layer,
        Ok(None) => return Ok((0, vec![one(at.join(INDEX), Damage::Missing)])),
        Err(error) => return Ok((0, vec![one(at, Damage::Unreadable(error.to_string()))])),
    };
    let dir = store.places.layers.dir(key.as_str())?;
    let mut findings: Vec<Finding> = dir
        .all_names()?
        .into_iter()
        .filter(|name| name != INDEX && name != TREE)
        .map(|name| one(at.join(name), Damage::Unexpected))
        .collect();
    if !key.is_of(&layer.diff_id()) {
        findings.push(one(at.join(INDEX), Damage::Attribute("diff ID".to_owned())));
    }
    if dir.mode(INDEX)?.is_some_and(|mode| mode != 0o100_600) {
        findings.push(one(at.join(INDEX), Damage::Attribute("mode".to_owned())));
    }
    let tree = at.join(TREE);
    let walked = match store.authority.walk(layer.tree()) {
        Ok(walked) => walked,
        Err(error) => {
            findings.push(one(tree, Damage::Unreadable(error.to_string())));
            return Ok((0, findings));
        }
    };
    let found: BTreeMap<&[u8], &Found> = walked.iter().map(|found| (found.path.as_slice(), found)).collect();
    let entries = &layer.index().entries;
    let place = |path: &[u8]| tree.join(std::ffi::OsStr::from_bytes(path));
    for (path, entry) in entries.iter().filter(|(path, _)| !path.is_empty()) {
        match found.get(path.as_slice()) {
            None => findings.push(one(place(path), Damage::Missing)),
            Some(now) => {
                let damages = compare(store, &layer, path, entry, now, &found)?;
                findings.extend(damages.into_iter().map(|damage| one(place(path), damage)));
            }
        }
    }
    let extra = walked.iter().filter(|found| !entries.contains_key(&found.path));
    findings.extend(extra.map(|found| one(place(&found.path), Damage::Unexpected)));
    Ok((entries.len(), findings))
}

fn compare(
    store: &Store,
    layer: &Layer,
    path: &[u8],
    entry: &Entry,
    now: &Found,
    all: &BTreeMap<&[u8], &Found>,
) -> Result<Vec<Damage>> {
    let owners = store.authority.owners();
    let other = |what: &str| Damage::Attribute(what.to_owned());
    let expected = match &entry.kind {
        Kind::Directory { .. } => 0o040_000,
        Kind::File { .. } | Kind::Hardlink { .. } => FILE,
        Kind::Symlink { .. } => 0o120_000,
        // Who may not make devices has an empty file in their place.
        Kind::CharDevice(_) | Kind::BlockDevice(_) if !store.authority.makes_devices() => FILE,
        Kind::CharDevice(_) | Kind::Whiteout => 0o020_000,
        Kind::BlockDevice(_) => 0o060_000,
        Kind::Fifo => 0o010_000,
    };
    if let Kind::Hardlink { target } = &entry.kind {
        // A name of a symbolic link or node is an entry of its own kind; this is one of a file.
        let same = all.get(target.as_slice()).is_some_and(|file| file.inode.0 == now.inode.0);
        return Ok(if same { Vec::new() } else { vec![other("hard link")] });
    }
    if now.mode & TYPE != expected {
        return Ok(vec![other("type")]);
    }
    let mut damages = Vec::new();
    match &entry.kind {
        Kind::Whiteout => {
            return Ok(if now.rdev == 0 { damages } else { vec![other("device number")] });
        }
        Kind::CharDevice(device) | Kind::BlockDevice(device) if expected != FILE && now.rdev != *device => {
            damages.push(other("device number"));
        }
        Kind::Symlink { target } if now.target != *target => damages.push(other("target")),
        Kind::File { size, .. } if now.size != *size => damages.push(other("size")),
        Kind::File { digest, .. } => {
            let read = layer.open_file(&*store.authority, path).and_then(|mut file| {
                let mut digester = Digester::new(Algorithm::Sha256);
                crate::snapshot::digest_into(&mut file, &mut digester).map_err(|source| Error::Io {
                    action: "read",
                    path: String::from_utf8_lossy(path).into_owned().into(),
                    source,
                })?;
                Ok(digester.finish())
            });
            match read {
                Ok(found) if found == *digest => {}
                Ok(_) => damages.push(Damage::Content),
                Err(error) => damages.push(Damage::Unreadable(error.to_string())),
            }
        }
        _ => {}
    }
    let stamp = entry.stamp(owners == Owners::True);
    if stamp.mode.is_some_and(|mode| now.mode & 0o7777 != mode & 0o7777) {
        damages.push(other("mode"));
    }
    if stamp.owner.is_some_and(|owner| owner != (now.uid, now.gid)) {
        damages.push(other("owner"));
    }
    if now.mtime != stamp.mtime {
        damages.push(other("time"));
    }
    damages.extend(attributes(entry, &stamp.xattrs, now, owners).map(Damage::Attribute));
    Ok(damages)
}

/// What overlayfs notes in its upper directories for itself, and a layer keeps that was made in one. It changes nothing
/// that is seen; `redirect` and `metacopy` would.
const OWN_NOTES: [&[u8]; 3] = [b"user.overlay.origin", b"user.overlay.impure", b"user.overlay.uuid"];

/// The names of attributes that are other than they must be. What an ordinary user cannot set is not expected.
fn attributes<'a>(
    entry: &'a Entry,
    wanted: &'a [(Vec<u8>, Vec<u8>)],
    now: &'a Found,
    owners: Owners,
) -> impl Iterator<Item = String> + 'a {
    let takes_user = matches!(entry.kind, Kind::File { .. } | Kind::Directory { .. });
    let settable = move |name: &[u8]| {
        if name.starts_with(b"user.") { takes_user } else { owners == Owners::True }
    };
    let is_symlink = matches!(entry.kind, Kind::Symlink { .. });
    let wanted: BTreeMap<&[u8], &[u8]> = wanted
        .iter()
        .filter(move |(name, _)| settable(name))
        .map(|(name, value)| (name.as_slice(), value.as_slice()))
        .collect();
    let counts = |name: &[u8]| {
        name == crate::index::OPAQUE_XATTR
            || (name.starts_with(b"user.overlay.") && !OWN_NOTES.contains(&name))
            || crate::index::is_applied(name)
    };
    let found: BTreeMap<&[u8], &[u8]> = now
        .xattrs
        .iter()
        .filter(|(name, _)| counts(name))
        .map(|(name, value)| (name.as_slice(), value.as_slice()))
        .collect();
    let names: std::collections::BTreeSet<&[u8]> = wanted.keys().chain(found.keys()).copied().collect();
    names
        .into_iter()
        .filter(move |name| !is_symlink && wanted.get(name) != found.get(name))
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect::<Vec<_>>()
        .into_iter()
}
