//! User, groups and the ids a process starts with.

use oci_spec::runtime::User;

use super::assemble::Assembler;
use crate::userns::{IdMaps, more_ids_hint};
use crate::{Error, Phase};

/// Becomes the root of a new user namespace, to whom the mounts then belong.
pub(super) fn become_root(asm: &mut Assembler, maps: &IdMaps) {
    asm.phase(Phase::Namespaces);
    if !maps.has_uid(0) || !maps.has_gid(0) {
        return;
    }
    if !maps.denies_setgroups() {
        asm.call("setgroups", libc::SYS_setgroups, &[0.into(), 0.into()], "no groups");
    }
    set_ids(asm, 0, 0);
}

/// Becomes the root of a user namespace that exists already, as far as it has one.
pub(super) fn become_its_root(asm: &mut Assembler) {
    asm.phase(Phase::Namespaces);
    asm.call("setgroups", libc::SYS_setgroups, &[0.into(), 0.into()], "no groups").ignore();
    asm.call("setresgid", libc::SYS_setresgid, &[0.into(), 0.into(), 0.into()], "gid 0").ignore();
    asm.call("setresuid", libc::SYS_setresuid, &[0.into(), 0.into(), 0.into()], "uid 0").ignore();
}

/// What `setresuid(2)` and `setresgid(2)` take for "leave it as it is": no id of anybody.
const NO_ID: u32 = u32::MAX;

/// Checks that every id of the user exists.
pub(super) fn check(user: &User, maps: Option<&IdMaps>) -> Result<(), Error> {
    for (field, id) in [("process.user.uid", user.uid()), ("process.user.gid", user.gid())] {
        if id == NO_ID {
            // The process would keep the ids it has, which are root's.
            return Err(Error::spec(field, format!("{id} is no id")));
        }
    }
    let Some(maps) = maps else { return Ok(()) };
    let unmapped = |id| Error::UnmappedId { id, hint: more_ids_hint() };
    if !maps.has_uid(user.uid()) {
        return Err(unmapped(user.uid()));
    }
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    match std::iter::once(&user.gid()).chain(groups).find(|gid| !maps.has_gid(**gid)) {
        Some(gid) => Err(unmapped(*gid)),
        None => Ok(()),
    }
}

/// Becomes the user.
pub(super) fn become_user(asm: &mut Assembler, user: &User, maps: Option<&IdMaps>) {
    // With setgroups denied only the mapped group can be asked for, and the process has that one already.
    if !maps.is_some_and(IdMaps::denies_setgroups) {
        let groups = user.additional_gids().as_deref().unwrap_or_default();
        let list: Vec<u8> = groups.iter().flat_map(|gid| gid.to_ne_bytes()).collect();
        let at = asm.bytes(&list);
        let count = u32::try_from(groups.len()).unwrap_or(u32::MAX);
        asm.call("setgroups", libc::SYS_setgroups, &[count.into(), at.into()], format!("groups {groups:?}"));
    }
    set_ids(asm, user.uid(), user.gid());
}

fn set_ids(asm: &mut Assembler, uid: u32, gid: u32) {
    asm.call("setresgid", libc::SYS_setresgid, &[gid.into(), gid.into(), gid.into()], format!("gid {gid}"));
    asm.call("setresuid", libc::SYS_setresuid, &[uid.into(), uid.into(), uid.into()], format!("uid {uid}"));
}
