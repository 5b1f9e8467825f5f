//! What this runtime can do, in runtime-spec's form.

use oci_spec::runtime::{
    Apparmor, Arch, Cgroup, Features, IDMap, IntelRdt, LinuxFeature, LinuxNamespaceType as Kind,
    LinuxSeccompAction as Action, MemoryPolicy, MountExtensions, NetDevices, Seccomp, Selinux,
};

use crate::plan;

/// The oldest and the newest version of runtime-spec whose documents are understood.
pub const OCI_VERSIONS: (&str, &str) = ("1.0.0", "1.3.0");

/// The features document (runtime-spec `features.md`): what is known to this library, whether or not this host has it.
#[must_use]
pub fn features() -> Features {
    let texts = |list: &[&str]| Some(list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
    let mut cgroup = Cgroup::default();
    cgroup.set_v1(Some(true)).set_v2(Some(true)).set_systemd(Some(false)).set_systemd_user(Some(false));
    cgroup.set_rdma(Some(true));
    let mut seccomp = Seccomp::default();
    let archs = if cfg!(target_arch = "aarch64") {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else {
        vec![Arch::ScmpArchX86, Arch::ScmpArchX86_64, Arch::ScmpArchX32]
    };
    let flags = [
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    ];
    seccomp
        .set_enabled(Some(true))
        .set_actions(Some(vec![
            Action::ScmpActAllow,
            Action::ScmpActErrno,
            Action::ScmpActKill,
            Action::ScmpActKillProcess,
            Action::ScmpActKillThread,
            Action::ScmpActLog,
            Action::ScmpActNotify,
            Action::ScmpActTrace,
            Action::ScmpActTrap,
        ]))
        .set_operators(texts(&[
            "SCMP_CMP_EQ",
            "SCMP_CMP_GE",
            "SCMP_CMP_GT",
            "SCMP_CMP_LE",
            "SCMP_CMP_LT",
            "SCMP_CMP_MASKED_EQ",
            "SCMP_CMP_NE",
        ]))
        .set_archs(Some(archs))
        .set_known_flags(texts(&flags))
        .set_supported_flags(texts(&flags));
    let (mut apparmor, mut selinux) = (Apparmor::default(), Selinux::default());
    apparmor.set_enabled(Some(plan::has_apparmor()));
    selinux.set_enabled(Some(plan::has_selinux()));
    let mut rdt = IntelRdt::default();
    rdt.set_enabled(Some(false));
    let mut policy = MemoryPolicy::default();
    policy
        .set_modes(texts(&[
            "MPOL_DEFAULT",
            "MPOL_BIND",
            "MPOL_INTERLEAVE",
            "MPOL_WEIGHTED_INTERLEAVE",
            "MPOL_PREFERRED",
            "MPOL_PREFERRED_MANY",
            "MPOL_LOCAL",
        ]))
        .set_flags(texts(&["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"]));
    let mut idmap = IDMap::default();
    idmap.set_enabled(Some(true));
    let mut extensions = MountExtensions::default();
    extensions.set_idmap(Some(idmap));
    let mut devices = NetDevices::default();
    devices.set_enabled(Some(true));

    let mut linux = LinuxFeature::default();
    linux
        .set_namespaces(Some(vec![
            Kind::Cgroup,
            Kind::Ipc,
            Kind::Mount,
            Kind::Network,
            Kind::Pid,
            Kind::Time,
            Kind::User,
            Kind::Uts,
        ]))
        .set_capabilities(Some(plan::capability_names()))
        .set_cgroup(Some(cgroup))
        .set_seccomp(Some(seccomp))
        .set_apparmor(Some(apparmor))
        .set_selinux(Some(selinux))
        .set_intel_rdt(Some(rdt))
        .set_memory_policy(Some(policy))
        .set_mount_extensions(Some(extensions))
        .set_net_devices(Some(devices));
    let mut features = Features::default();
    features
        .set_oci_version_min(OCI_VERSIONS.0.to_owned())
        .set_oci_version_max(OCI_VERSIONS.1.to_owned())
        .set_hooks(texts(&[
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ]))
        .set_mount_options(Some(plan::mount_options()))
        .set_linux(Some(linux));
    features
}
