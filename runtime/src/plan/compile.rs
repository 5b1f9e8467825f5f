//! From a Spec to a plan.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use oci_spec::runtime::{Linux, LinuxIdMapping, Spec};

use super::assemble::{Assembler, At, Reg};
use super::cgroup::Joined;
use super::control::Shown;
use super::mount::Given;
use super::namespace::{self, Namespaces};
use super::process::{self, Program};
use super::reach::{Kind, Links, make_in_root, statx_scratch};
use super::rootfs::{self, Source};
use super::wire::{CONTROL, message};
use super::{Plan, credential, device, mount, option, pivot, schedule, setting, stdio, terminal, validate};
use crate::cgroup::{Joining, TreeRecord};
use crate::hook::{self, Point};
use crate::rootfs::Tree;
use crate::userns::IdMaps;
use crate::{Error, Hint, IdRange, Io, Phase, Rootfs, network_device, seccomp};

/// What this process may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Privilege {
    pub(crate) euid: u32,
    pub(crate) egid: u32,
    /// The effective capabilities, as a bit mask.
    pub(crate) capabilities: u64,
    /// The bounding set, as a bit mask.
    pub(crate) bounding: u64,
    /// The number of the kernel's last capability.
    pub(crate) last_capability: u32,
}

const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_MKNOD: u32 = 27;

impl Privilege {
    /// Asks the kernel.
    pub(crate) fn of_this_process() -> Self {
        let capabilities = rustix::thread::capabilities(None).map_or(0, |sets| sets.effective.bits());
        let last_capability = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .filter(|last| *last < 64)
            .unwrap_or(40);
        let bounding = (0..=last_capability)
            .map(|number| 1 << number)
            .filter(|bit| {
                let one = rustix::thread::CapabilitySet::from_bits_retain(*bit);
                rustix::thread::capability_is_in_bounding_set(one).unwrap_or(false)
            })
            .fold(0, |set, bit| set | bit);
        Self {
            euid: rustix::process::geteuid().as_raw(),
            egid: rustix::process::getegid().as_raw(),
            capabilities,
            bounding,
            last_capability,
        }
    }

    /// Whether it may map any ids into a user namespace.
    pub(crate) fn is_privileged(&self) -> bool {
        self.has(CAP_SETUID) && self.has(CAP_SETGID) && self.has(CAP_SYS_ADMIN)
    }

    /// Whether it may move network devices.
    pub(crate) fn may_administer_network(&self) -> bool {
        self.has(CAP_NET_ADMIN) && self.has(CAP_SYS_ADMIN)
    }

    fn has(&self, capability: u32) -> bool {
        self.capabilities & (1 << capability) != 0
    }

    /// The capabilities a container's process can have.
    pub(crate) fn available(&self, in_user_namespace: bool) -> u64 {
        if in_user_namespace { self.all() } else { self.capabilities }
    }

    /// The capabilities a container's process can have in its bounding set.
    pub(crate) fn bounding(&self, in_user_namespace: bool) -> u64 {
        if in_user_namespace { self.all() } else { self.bounding }
    }

    fn all(&self) -> u64 {
        u64::MAX >> (63 - self.last_capability)
    }
}

/// Everything a plan is made from.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) rootfs: Rootfs,
    pub(crate) trees: Vec<Arc<Tree>>,
    pub(crate) io: Io,
    pub(crate) privilege: Privilege,
    /// Step and error number of an injected failure.
    pub(crate) inject: Option<(u32, i32)>,
    /// The cgroups to join.
    pub(crate) group: Option<Joining>,
    /// What a mount of type cgroup shows.
    pub(crate) cgroups: Vec<TreeRecord>,
    /// Sources of mounts that the host has opened, by the mount's place in the list.
    pub(crate) opened: BTreeMap<usize, OwnedFd>,
    /// The socket over which another process starts it.
    pub(crate) start: Option<OwnedFd>,
    pub(crate) no_pivot: bool,
}

impl<'a> Request<'a> {
    pub(crate) fn new(spec: &'a Spec, rootfs: Rootfs, io: Io) -> Self {
        Self {
            spec,
            rootfs,
            trees: Vec::new(),
            io,
            privilege: Privilege::of_this_process(),
            inject: None,
            group: None,
            cgroups: Vec::new(),
            opened: BTreeMap::new(),
            start: None,
            no_pivot: false,
        }
    }

    /// Refuses what can be seen to be wrong before anything is made.
    pub(crate) fn check(&self) -> Result<(), Error> {
        validate::check(self.spec)?;
        network_device::check(self.spec, &self.privilege)?;
        if let Some(profile) = self.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
            seccomp::compiled(profile)?;
        }
        Ok(())
    }
}

/// Compiles the plan that creates a container.
pub(crate) fn create(request: Request<'_>) -> Result<Plan, Error> {
    request.check()?;
    let Request { spec, rootfs, trees, io, privilege, inject, group, cgroups, opened, start, no_pivot } =
        request;
    let process = spec.process().as_ref().ok_or_else(|| Error::spec("process", "missing"))?;
    let unset = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&unset);
    let mut namespaces = Namespaces::of(linux.namespaces().as_deref().unwrap_or_default())?;
    // Without a mount namespace of its own its mounts are the host's, and stay there.
    let on_host = if namespaces.makes(libc::CLONE_NEWNS) || namespaces.joins(libc::CLONE_NEWNS) {
        None
    } else if let Rootfs::Path(path) = &rootfs {
        Some(path.clone())
    } else {
        return Err(Error::unsupported("a root filesystem without a path, in the host's mount namespace"));
    };
    namespaces.set_offsets(&time_offsets(linux))?;
    let joined_user = namespaces.joins(libc::CLONE_NEWUSER);
    let maps = maps(linux, &namespaces, &privilege)?;
    credential::check(process.user(), maps.as_ref())?;
    let source = Source::of(&rootfs)?;
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let read_only = spec.root().as_ref().is_some_and(|root| root.readonly().unwrap_or(false));

    let mut asm = Assembler::new();
    asm.inject(inject);
    let terminal = process.terminal().unwrap_or(false);
    let streams = stdio::hand_over(&mut asm, io, terminal)?;
    let group = group.map(|joining| Joined::hand_over(&mut asm, joining));
    let start = start.map(|socket| asm.fd(socket));
    let scratch = statx_scratch(&mut asm);
    let message = asm.bytes(&[0; 16]);

    if let Some(adjustment) = process.oom_score_adj() {
        setting::oom_score(&mut asm, adjustment);
    }
    let (new_net, has_uts) = (namespaces.makes(libc::CLONE_NEWNET), {
        namespaces.makes(libc::CLONE_NEWUTS) || namespaces.joins(libc::CLONE_NEWUTS)
    });
    let parameters = sysctl_map(linux);
    let (kept, flags) = (namespaces.only_new(), namespaces.flags());
    let cgroup_namespace = namespaces.makes(libc::CLONE_NEWCGROUP);
    let clocks = namespaces.enter(&mut asm, group.as_ref().and_then(|group| group.unified));
    let start_of_it = Beginning {
        maps: maps.as_ref(),
        maps_to_come: maps.is_some(),
        group,
        cgroup_namespace,
        joined_user,
        processors: None,
    };
    begin(&mut asm, message, start_of_it)?;
    if let Some(clocks) = clocks {
        clocks.make(&mut asm);
    }

    let propagation = linux.rootfs_propagation().as_deref().filter(|name| !name.is_empty());
    let propagation = propagation.map(option::rootfs_propagation).transpose()?;
    let slave = propagation.is_some_and(|(kind, _)| kind == libc::MS_SLAVE || kind == libc::MS_SHARED);
    if on_host.is_none() {
        pivot::detach_from_host(&mut asm, slave);
    }
    let root = rootfs::assemble(&mut asm, source, &mount::points(mounts, &trees), scratch);
    let null = device::host_null(&mut asm, scratch);
    if linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        // Before the parameters, of which each device has some.
        namespace::await_devices(&mut asm, message);
    }
    setting::sysctls(&mut asm, &parameters, &kept)?;
    let masked = linux.masked_paths().as_deref().unwrap_or_default();
    let read_only_paths = linux.readonly_paths().as_deref().unwrap_or_default();
    match &on_host {
        None => pivot::attach_root(&mut asm, root),
        Some(path) => pivot::attach_at(&mut asm, root, path),
    }
    let shown = Shown { trees: &cgroups, namespace: cgroup_namespace };
    let given = Given { opened, shown, in_user_namespace: maps.is_some() || joined_user };
    mount::all(&mut asm, root, mounts, &trees, given, scratch)?;
    let can_mknod = maps.is_none() && !joined_user && privilege.has(CAP_MKNOD);
    device::all(&mut asm, root, mounts, linux.devices().as_deref().unwrap_or_default(), can_mknod, scratch)?;
    let slave = terminal.then(|| terminal::open(&mut asm, Some(root), process, scratch));
    if let Some(slave) = slave {
        terminal::console(&mut asm, root, slave);
    }
    mount::finish_dev(&mut asm, root, mounts);
    asm.phase(Phase::Process);
    let cwd = make_in_root(&mut asm, root, process.cwd(), Kind::Directory, Links::Follow);
    asm.close(cwd);
    mount::read_only(&mut asm, root, read_only_paths);
    mount::mask(&mut asm, root, masked, null);
    if [Point::Prestart, Point::CreateRuntime, Point::CreateContainer]
        .iter()
        .any(|point| hook::any(spec, *point))
    {
        asm.phase(Phase::Hooks);
        namespace::say(&mut asm, message::HOOKS, "hooks");
        namespace::await_go(&mut asm, message, "the host: the hooks have run");
    }
    if no_pivot && on_host.is_none() {
        pivot::hide_kernel(&mut asm, &pivot::kernel_mounts());
    }
    pivot::pivot(&mut asm, root, read_only, no_pivot || on_host.is_some());
    if let Some((kind, recursive)) = propagation {
        pivot::propagate(&mut asm, kind, recursive);
    }

    setting::names(&mut asm, spec.hostname().as_deref(), spec.domainname().as_deref(), has_uts)?;
    if new_net {
        setting::loopback(&mut asm);
    }
    setting::rlimits(&mut asm, process.rlimits().as_deref().unwrap_or_default())?;
    process::schedule(&mut asm, process, Some(linux))?;
    process::enter_directory(&mut asm, process.cwd());
    let filter = linux.seccomp().as_ref().map(seccomp::compiled).transpose()?;
    let loading = process::become_process(
        &mut asm,
        process,
        maps.as_ref(),
        maps.is_some() || joined_user,
        &privilege,
        filter,
    );
    streams.place(&mut asm, slave);

    let program = Program::of(&mut asm, process)?;
    program.find(&mut asm);
    asm.phase(Phase::Gate);
    // Others may join its namespaces while it waits, and could see what is open.
    let kept: Vec<Reg> = streams.preserved().iter().copied().chain(start).collect();
    asm.close_others(&kept);
    asm.be_mortal();
    let mut loading = loading;
    if linux.seccomp().as_ref().is_some_and(seccomp::can_be_loaded_early) {
        // The agent hears of the container when it is created, as from others.
        std::mem::take(&mut loading).load(&mut asm, CONTROL.into());
        asm.phase(Phase::Gate);
    }
    namespace::say_ready(&mut asm);
    let gate = match start {
        None => asm.len(),
        Some(start) => {
            namespace::await_go(&mut asm, message, "the host: it may be left alone");
            namespace::await_starter(&mut asm, start)
        }
    };
    namespace::await_go(&mut asm, message, "the host: start");
    program.execute(&mut asm, &loading, &streams);

    let mut plan = asm.finish()?;
    plan.gate = gate;
    plan.maps = maps;
    plan.namespaces = flags;
    plan.programs = program.candidates;
    Ok(plan)
}

/// Compiles the plan of a process that finds out what namespaces allow, and ends.
pub(crate) fn probe(maps: Option<IdMaps>, overlay: bool) -> Result<Plan, Error> {
    let mut asm = Assembler::new();
    let message = asm.bytes(&[0; 16]);
    asm.phase(Phase::Namespaces);
    let user = if maps.is_some() { libc::CLONE_NEWUSER } else { 0 };
    let flags = (user | libc::CLONE_NEWNS | libc::CLONE_NEWPID).cast_unsigned();
    namespace::birth(&mut asm, flags.into(), None);
    begin(
        &mut asm,
        message,
        Beginning { maps: maps.as_ref(), maps_to_come: maps.is_some(), ..Beginning::default() },
    )?;
    if overlay {
        asm.phase(Phase::Rootfs);
        let kind = asm.text("overlay");
        let fs = asm.call("fsopen", libc::SYS_fsopen, &[kind.into(), 1.into()], "overlay").out();
        rootfs::fs_flag(&mut asm, fs, "userxattr", "overlay");
    }
    asm.phase(Phase::Gate);
    namespace::say_ready(&mut asm);
    asm.exit(0);
    let mut plan = asm.finish()?;
    plan.maps = maps;
    Ok(plan)
}

/// Compiles the plan of a process that waits in a new user namespace.
pub(super) fn user_namespace(maps: IdMaps) -> Result<Plan, Error> {
    let mut asm = Assembler::new();
    let message = enter_user_namespace(&mut asm);
    namespace::await_go(&mut asm, message, "the host: the namespace is no longer needed");
    asm.exit(0);
    with_maps(asm, maps)
}

/// Makes a user namespace and serves calls in it, as its root, until the host is gone.
pub(super) fn file_server(maps: IdMaps) -> Result<Plan, Error> {
    let mut asm = Assembler::new();
    enter_user_namespace(&mut asm);
    credential::become_root(&mut asm, &maps);
    asm.serve();
    with_maps(asm, maps)
}

fn enter_user_namespace(asm: &mut Assembler) -> At {
    let message = asm.bytes(&[0; 16]);
    asm.phase(Phase::Namespaces);
    namespace::birth(asm, u64::from(libc::CLONE_NEWUSER.cast_unsigned()), None);
    namespace::await_go(asm, message, "the host: the id maps are written");
    namespace::say_ready(asm);
    message
}

fn with_maps(asm: Assembler, maps: IdMaps) -> Result<Plan, Error> {
    let mut plan = asm.finish()?;
    plan.maps = Some(maps);
    Ok(plan)
}

/// What the first steps of a process depend on.
#[derive(Debug, Default)]
pub(super) struct Beginning<'a> {
    /// The ids of its user namespace.
    pub(super) maps: Option<&'a IdMaps>,
    /// Whether the host is still to write them: not in a namespace that was joined.
    pub(super) maps_to_come: bool,
    pub(super) group: Option<Joined>,
    /// Whether a cgroup namespace is to be made.
    pub(super) cgroup_namespace: bool,
    /// Whether it is in a user namespace that exists already.
    pub(super) joined_user: bool,
    /// The processors it may run on, if that is said, and the field that says it.
    pub(super) processors: Option<(&'a str, &'static str)>,
}

/// The first steps of the new process.
pub(super) fn begin(asm: &mut Assembler, message: At, beginning: Beginning<'_>) -> Result<(), Error> {
    let Beginning { maps, maps_to_come, group, cgroup_namespace, joined_user, processors } = beginning;
    asm.phase(Phase::Namespaces);
    if maps_to_come {
        namespace::await_go(asm, message, "the host: the id maps are written");
    }
    if let Some(group) = group {
        group.join(asm);
        if processors.is_none() {
            schedule::any_processor(asm);
        }
    }
    if let Some((list, field)) = processors {
        schedule::affinity(asm, list, field)?;
    }
    asm.phase(Phase::Namespaces);
    match maps {
        Some(maps) => credential::become_root(asm, maps),
        None if joined_user => credential::become_its_root(asm),
        None => {}
    }
    if cgroup_namespace {
        // Only now, so that its root is the group that was joined.
        let args = [libc::CLONE_NEWCGROUP.into()];
        asm.call("unshare", libc::SYS_unshare, &args, "a cgroup namespace");
    }
    asm.call("setsid", libc::SYS_setsid, &[], "a session of its own");
    asm.call("umask", libc::SYS_umask, &[0.into()], "none, while files are made with exact modes");
    let name = asm.text("container-init");
    asm.call("prctl", libc::SYS_prctl, &[libc::PR_SET_NAME.into(), name.into()], "the name of the process");
    Ok(())
}

fn maps(linux: &Linux, namespaces: &Namespaces, privilege: &Privilege) -> Result<Option<IdMaps>, Error> {
    let ranges = |list: &Option<Vec<LinuxIdMapping>>| -> Vec<IdRange> {
        list.iter()
            .flatten()
            .map(|map| IdRange { inside: map.container_id(), outside: map.host_id(), count: map.size() })
            .collect()
    };
    if namespaces.joins(libc::CLONE_NEWUSER) {
        // Its ids are those it has.
        return Ok(None);
    }
    let (uids, gids) = (ranges(linux.uid_mappings()), ranges(linux.gid_mappings()));
    if namespaces.makes(libc::CLONE_NEWUSER) {
        let privileged = privilege.is_privileged();
        return IdMaps::new(uids, gids, privilege.euid, privilege.egid, privileged).map(Some);
    }
    if !uids.is_empty() || !gids.is_empty() {
        return Err(Error::spec("linux.uidMappings", "given without a new user namespace"));
    }
    if !privilege.has(CAP_SYS_ADMIN) {
        return Err(Error::Host {
            what: "the privilege (CAP_SYS_ADMIN) to run containers without a user namespace".to_owned(),
            hint: Hint::new(
                "this process is not root",
                "add a user namespace with id mappings to the Spec, or run as root",
            ),
        });
    }
    Ok(None)
}

fn sysctl_map(linux: &Linux) -> BTreeMap<&str, &str> {
    linux.sysctl().iter().flatten().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

fn time_offsets(linux: &Linux) -> BTreeMap<&str, (i64, u32)> {
    let offsets = linux.time_offsets().iter().flatten();
    offsets
        .map(|(clock, offset)| (clock.as_str(), (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0))))
        .collect()
}
