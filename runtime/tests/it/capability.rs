//! Capabilities, read from inside.

use std::collections::HashSet;
use std::io::Read;

use runtime::oci_spec::runtime::{Capability, LinuxCapabilitiesBuilder, Spec};
use runtime::{Io, Warning};
use rustix::thread::{CapabilitySet, capabilities, remove_capability_from_bounding_set, set_capabilities};

use crate::support::{bench, fresh_id, is_root, shell, skipped};

/// A Spec with these capabilities in all five sets, which prints what it has of them.
fn spec(wanted: &[Capability]) -> Spec {
    let wanted: HashSet<Capability> = wanted.iter().copied().collect();
    let sets = LinuxCapabilitiesBuilder::default()
        .bounding(wanted.clone())
        .effective(wanted.clone())
        .inheritable(wanted.clone())
        .permitted(wanted.clone())
        .ambient(wanted)
        .build();
    let script =
        "while read name value; do case $name in Cap*) echo $name $value;; esac; done < /proc/self/status";
    let mut spec = shell(script).build().unwrap();
    spec.process_mut().as_mut().unwrap().set_capabilities(Some(sets.unwrap()));
    spec
}

#[test]
fn what_cannot_be_granted_is_left_out_with_a_warning() {
    let Some(bench) = bench() else { return };
    if !is_root() {
        return skipped("not root: a user namespace has every capability");
    }
    let lacking = CapabilitySet::SYS_BOOT;
    // Capabilities belong to a thread, and this one is the test's own.
    let mut own = capabilities(None).unwrap();
    remove_capability_from_bounding_set(lacking).unwrap();
    own.effective -= lacking;
    own.permitted -= lacking;
    own.inheritable -= lacking;
    set_capabilities(None, own).unwrap();

    let spec = spec(&[Capability::SysBoot, Capability::Kill]);
    let warnings = [Warning::CapabilityNotGranted { capability: "CAP_SYS_BOOT".to_owned() }];
    let (mut reader, writer) = std::io::pipe().unwrap();
    let io = Io::null().stdout(writer.try_clone().unwrap());
    let created = bench.runtime.create(&fresh_id(), &spec, bench.rootfs(), io).unwrap();
    assert_eq!(created.warnings(), warnings);
    let beside = created.exec(spec.process().as_ref().unwrap(), Io::null().stdout(writer)).unwrap();
    assert_eq!(beside.warnings(), warnings);
    beside.wait().unwrap();
    let running = created.start().unwrap();
    running.wait().unwrap();
    running.delete().unwrap();
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    let only_kill = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .map(|set| format!("{set}: {:016x}\n", CapabilitySet::KILL.bits()))
        .concat();
    assert_eq!(output, only_kill.repeat(2));
}

#[test]
fn an_ambient_capability_that_is_not_inheritable_is_left_out_with_a_warning() {
    let Some(bench) = bench() else { return };
    let mut spec = spec(&[Capability::Kill]);
    let process = spec.process_mut().as_mut().unwrap();
    let mut sets = process.capabilities().clone().unwrap();
    sets.set_inheritable(None);
    process.set_capabilities(Some(sets));
    let plan = runtime::Plan::compile(&spec, bench.rootfs()).unwrap();
    assert_eq!(plan.warnings(), [Warning::AmbientNotRaised { capability: "CAP_KILL".to_owned() }]);
}
