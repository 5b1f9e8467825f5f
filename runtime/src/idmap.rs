//! Bind mounts whose source this process opens: with mapped ids, which only the owner of the filesystem may make, and
//! for containers whose root may not reach the source by its path.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Mount, Spec};
use rustix::mount::OpenTreeFlags;

use crate::launch::Helper;
use crate::plan::{Plan, Privilege};
use crate::userns::IdMaps;
use crate::{Errno, Error, IdRange, Phase, sys};

/// How a mount's ids are mapped.
#[derive(Debug)]
struct Wanted {
    ids: Ids,
    recursive: bool,
}

/// Where a mapping comes from.
#[derive(Debug)]
enum Ids {
    Maps(IdMaps),
    /// The user namespace that the container joins.
    Joined(PathBuf),
}

fn ranges(list: Option<&[LinuxIdMapping]>) -> Vec<IdRange> {
    let one = |map: &LinuxIdMapping| IdRange {
        inside: map.container_id(),
        outside: map.host_id(),
        count: map.size(),
    };
    list.unwrap_or_default().iter().map(one).collect()
}

/// What a mount asks for; none when its ids stay as they are.
fn wanted(spec: &Spec, mount: &Mount, field: &str, privilege: &Privilege) -> Result<Option<Wanted>, Error> {
    let options = mount.options().as_deref().unwrap_or_default();
    let has = |name: &str| options.iter().any(|option| option == name);
    let own = mount.uid_mappings().is_some() || mount.gid_mappings().is_some();
    let recursive = has("ridmap");
    if !own && !recursive && !has("idmap") {
        return Ok(None);
    }
    if !privilege.is_privileged() {
        return Err(Error::Host {
            what: format!("the privilege to map the ids of a mount ({field})"),
            hint: crate::Hint::new("this process is not root", "run as root, or leave the ids as they are"),
        });
    }
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
    let joined = namespaces
        .filter(|namespace| namespace.typ() == LinuxNamespaceType::User)
        .find_map(|namespace| namespace.path().clone().filter(|path| !path.as_os_str().is_empty()));
    if let Some(path) = joined.filter(|_| !own) {
        return Ok(Some(Wanted { ids: Ids::Joined(path), recursive }));
    }
    let (uids, gids) = if own {
        (ranges(mount.uid_mappings().as_deref()), ranges(mount.gid_mappings().as_deref()))
    } else {
        let maps = linux
            .map(|linux| (ranges(linux.uid_mappings().as_deref()), ranges(linux.gid_mappings().as_deref())));
        maps.unwrap_or_default()
    };
    if uids.is_empty() || gids.is_empty() {
        return Err(Error::spec(
            format!("{field}.uidMappings"),
            "an idmapped mount needs mappings of both kinds, its own or those of the user namespace",
        ));
    }
    let maps = IdMaps::new(uids, gids, privilege.euid, privilege.egid, true)?;
    Ok(Some(Wanted { ids: Ids::Maps(maps), recursive }))
}

/// Opens the sources of the mounts that need it, by their place in the Spec's list.
pub(crate) fn prepare(
    helper: &Helper,
    spec: &Spec,
    privilege: &Privilege,
) -> Result<BTreeMap<usize, OwnedFd>, Error> {
    let mut prepared = BTreeMap::new();
    let mapped = spec
        .linux()
        .as_ref()
        .is_some_and(|linux| linux.uid_mappings().as_ref().is_some_and(|maps| !maps.is_empty()));
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let options = mount.options().as_deref().unwrap_or_default();
        let recursive = options.iter().any(|option| option == "rbind");
        let bound = recursive
            || mount.typ().as_deref() == Some("bind")
            || options.iter().any(|option| option == "bind");
        let field = format!("mounts[{index}]");
        let wanted = wanted(spec, mount, &field, privilege)?;
        if !bound {
            if wanted.is_some() {
                return Err(Error::spec(format!("{field}.options"), "only bind mounts have mapped ids"));
            }
            continue;
        }
        let Some(source) = mount.source().as_deref().filter(|source| source.is_absolute()) else { continue };
        if wanted.is_none() && !(mapped && privilege.is_privileged()) {
            continue;
        }
        let made = copy(source, recursive)?;
        if let Some(wanted) = wanted {
            let namespace = match wanted.ids {
                Ids::Maps(maps) => user_namespace(helper, maps)?,
                Ids::Joined(path) => open(&path)?,
            };
            sys::map_ids(&made, &namespace, wanted.recursive).map_err(|error| {
                let target = format!("{field}: the ids of {}", source.display());
                Error::host_call(Phase::Mounts, "mount_setattr", target, Errno::of(&error))
            })?;
        }
        prepared.insert(index, made);
    }
    Ok(prepared)
}

/// A detached copy of a mount.
fn copy(source: &Path, recursive: bool) -> Result<OwnedFd, Error> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(rustix::fs::CWD, source, flags)
        .map_err(|errno| Error::host_call(Phase::Mounts, "open_tree", source.display().to_string(), errno))
}

/// A user namespace with these ids, which nobody is in.
fn user_namespace(helper: &Helper, maps: IdMaps) -> Result<OwnedFd, Error> {
    let launched = helper.launch(Plan::user_namespace(maps)?, &mut |_, _| Ok(()))?;
    // The process waits for a word, so it is there; it goes when `launched` does.
    let namespace = open(Path::new(&format!("/proc/{}/ns/user", launched.child.pid())))?;
    let child = std::sync::Arc::clone(&launched.child);
    drop(launched);
    child.wait()?;
    Ok(namespace)
}

fn open(namespace: &Path) -> Result<OwnedFd, Error> {
    let file = std::fs::File::open(namespace).map_err(|error| {
        Error::host_call(Phase::Mounts, "open", namespace.display().to_string(), Errno::of(&error))
    })?;
    Ok(file.into())
}
