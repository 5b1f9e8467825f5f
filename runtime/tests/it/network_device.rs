//! Network devices of the host that a container gets. Each test has a network namespace of its own for the host's, with
//! pairs of devices in it: of the kinds that are made by software, the one that every kernel here has.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use oci_spec::runtime::{LinuxNamespaceType, LinuxNetDeviceBuilder};
use runtime::{CreateOptions, Errno, Error, Io, Plan, Running, Signal, oci_spec};

use crate::support::{Bench, bench, fresh_id, is_root, shell, skipped};

type Spec = oci_spec::runtime::Spec;

fn ip(args: &str) -> String {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Takes this thread to a network namespace of its own, with a pair of devices, `give0` and `keep0`.
#[expect(unsafe_code, reason = "the safe wrapper is deprecated")]
pub(crate) fn own_devices() -> bool {
    // SAFETY: a network namespace has no part in what this process knows of its memory or descriptors.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
    let made = Command::new("ip").args("link add give0 type veth peer name keep0".split(' ')).status();
    made.unwrap().success()
}

/// Runs a test in a network namespace with a device `give0`, which is up and has addresses; its peer is `keep0`.
fn with_devices(test: impl FnOnce(Bench) + Send) {
    let Some(bench) = bench() else { return };
    if !is_root() || Command::new("ip").arg("-V").output().is_err() {
        return skipped("network devices are made by root, with ip(8)");
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if !own_devices() {
                return skipped("the kernel has no pairs of network devices");
            }
            ip("link set give0 mtu 1345");
            ip("link set give0 up");
            ip("addr add 192.0.2.7/24 brd 192.0.2.255 dev give0");
            ip("addr add 192.0.2.8/32 dev give0 scope link");
            ip("addr add 192.0.2.9/24 dev give0 valid_lft 1000 preferred_lft 1000");
            ip("-6 addr add 2001:db8::7/64 dev give0 nodad");
            test(bench);
        });
        thread.join().unwrap();
    });
}

pub(crate) fn with(script: &str, devices: &[(&str, Option<&str>)]) -> Spec {
    let mut spec = shell(script).build().unwrap();
    let device = |(host, name): &(&str, Option<&str>)| {
        let mut device = LinuxNetDeviceBuilder::default();
        if let Some(name) = name {
            device = device.name(*name);
        }
        ((*host).to_owned(), device.build().unwrap())
    };
    let devices: HashMap<_, _> = devices.iter().map(device).collect();
    spec.linux_mut().as_mut().unwrap().set_net_devices(Some(devices));
    spec
}

fn join(spec: &mut Spec, path: &str) {
    for namespace in spec.linux_mut().as_mut().unwrap().namespaces_mut().as_mut().unwrap() {
        if namespace.typ() == LinuxNamespaceType::Network {
            namespace.set_path(Some(path.into()));
        }
    }
}

fn start(bench: &Bench, spec: &Spec) -> Result<Running, Error> {
    bench.runtime.create(&fresh_id(), spec, bench.rootfs(), Io::null())?.start()
}

/// What `ip` shows in the network namespace of a process.
fn shown(pid: u32, args: &str) -> String {
    let net = format!("--net=/proc/{pid}/ns/net");
    let output = Command::new("nsenter").args([&*net, "ip"]).args(args.split(' ')).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The device is where it was, as it was.
fn is_as_before() {
    let addresses = ip("addr show dev give0");
    for part in ["mtu 1345", "192.0.2.7/24 brd 192.0.2.255", "192.0.2.8/32", "2001:db8::7/64", ",UP"] {
        assert!(addresses.contains(part), "{part}: {addresses}");
    }
}

#[test]
fn a_device_moves_with_its_addresses_and_comes_up() {
    with_devices(|bench| {
        let mut spec = with("sleep 1000", &[("give0", Some("inside0"))]);
        let sysctl = [("net.ipv4.conf.inside0.log_martians".to_owned(), "1".to_owned())];
        spec.linux_mut().as_mut().unwrap().set_sysctl(Some(sysctl.into()));
        let running = start(&bench, &spec).unwrap();
        let inside = shown(running.pid(), "addr show dev inside0");
        for part in
            ["mtu 1345", "192.0.2.7/24 brd 192.0.2.255 scope global", "2001:db8::7/64 scope global", ",UP"]
        {
            assert!(inside.contains(part), "{part}: {inside}");
        }
        // Only what has no end and is not for the link alone.
        assert!(!inside.contains("192.0.2.8") && !inside.contains("192.0.2.9"), "{inside}");
        assert!(!ip("link").contains("give0"));
        running.delete().unwrap();
    });
}

#[test]
fn the_kernel_numbers_a_template() {
    with_devices(|bench| {
        ip("link add more0 type veth peer name more1");
        let devices = [("give0", Some("net%d")), ("more0", Some("net%d")), ("more1", None)];
        let running = start(&bench, &with("sleep 1000", &devices)).unwrap();
        let inside = shown(running.pid(), "-o link");
        for name in ["net0", "net1", "more1"] {
            assert!(inside.contains(&format!(" {name}@")), "{name}: {inside}");
        }
        running.delete().unwrap();
    });
}

#[test]
fn what_cannot_be_moved_is_named_and_nothing_is() {
    with_devices(|bench| {
        ip("link add more0 type veth peer name more1");
        let refused = |devices: &[(&str, Option<&str>)]| start(&bench, &with("true", devices)).unwrap_err();
        let errno = |error: &Error| error.errno().map(Errno::raw);
        let error = refused(&[("give0", None), ("nosuch0", None)]);
        assert!(errno(&error) == Some(libc::ENODEV) && error.to_string().contains("nosuch0"), "{error}");
        // The container has it already.
        let error = refused(&[("more0", None), ("give0", Some("lo"))]);
        assert!(errno(&error) == Some(libc::EEXIST) && error.hint().is_some(), "{error}");
        let error = refused(&[("give0", None), ("lo", Some("lo%d"))]);
        assert!(errno(&error) == Some(libc::EINVAL) && error.hint().is_some(), "{error}");
        let long = "a-name-of-sixteen";
        for devices in [
            [("give0", Some("same")), ("more0", Some("same"))],
            [("give0", Some("a/b")), ("more0", None)],
            [("give0", Some(long)), ("more0", None)],
            [("give0", Some("%d%d")), ("more0", None)],
            [("give0", Some("x%n")), ("more0", None)],
        ] {
            assert!(matches!(refused(&devices), Error::Spec { .. }), "{devices:?}");
        }
        let mut without = with("true", &[("give0", None)]);
        let namespaces = without.linux_mut().as_mut().unwrap().namespaces_mut().as_mut().unwrap();
        namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
        let mut own = with("true", &[("give0", None)]);
        join(&mut own, "/proc/thread-self/ns/net");
        for spec in [without, own] {
            let error = start(&bench, &spec).unwrap_err();
            assert!(
                matches!(error, Error::Spec { .. }) && error.to_string().contains("netDevices"),
                "{error}"
            );
        }
        assert!(bench.runtime.list().unwrap().is_empty());
        assert!(ip("link").contains("more0@"));
        is_as_before();
    });
}

#[test]
fn a_container_that_comes_to_nothing_gives_its_devices_back() {
    gives_back(13, 4);
}

#[test]
#[ignore = "takes a minute: .ci/run runs it by --ignored"]
fn a_container_that_comes_to_nothing_at_any_step_gives_its_devices_back() {
    gives_back(1, 0);
}

/// Lets every so-many-th step fail, and those within a distance of the move itself.
fn gives_back(stride: usize, near: usize) {
    with_devices(|bench| {
        let spec = with("true", &[("give0", Some("inside0"))]);
        let plan = Plan::compile(&spec, bench.rootfs()).unwrap();
        let shown = plan.explain();
        let gate = shown.lines().position(|line| line.contains(" gate ")).unwrap();
        let waits = shown.lines().position(|line| line.contains("its network devices are there")).unwrap();
        let mut named = 0;
        for step in (0..gate).filter(|step| step % stride == 0 || waits.abs_diff(*step) < near) {
            let options = CreateOptions::default().fail_at(u32::try_from(step).unwrap(), Errno::from_raw(28));
            let created = bench.runtime.create_with(&fresh_id(), &spec, bench.rootfs(), Io::null(), &options);
            match created {
                Err(Error::Step { step: Some(at), errno, .. }) => {
                    assert_eq!((at as usize, errno.raw()), (step, 28));
                    named += 1;
                }
                // A step on a branch that is not taken here. Its device has ended with its namespace.
                Ok(created) => {
                    drop(created);
                    // The kernel takes its time with namespaces.
                    while ip("link").contains("keep0") {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    ip("link add give0 mtu 1345 type veth peer name keep0");
                    ip("link set give0 up");
                    for address in ["192.0.2.7/24 brd 192.0.2.255", "192.0.2.8/32", "2001:db8::7/64"] {
                        ip(&format!("addr add {address} dev give0"));
                    }
                }
                Err(other) => panic!("step {step}: {other:?}"),
            }
            is_as_before();
            assert!(bench.runtime.list().unwrap().is_empty(), "step {step}");
        }
        assert!(named > 8, "{named}");
    });
}

#[test]
fn what_comes_after_the_move_can_fail_too() {
    with_devices(|bench| {
        // The address cannot be given, as the namespace that is joined has it switched off.
        let holder = start(&bench, &with("sleep 1000", &[])).unwrap();
        let net = format!("--net=/proc/{}/ns/net", holder.pid());
        let off = "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6";
        assert!(Command::new("nsenter").args([&*net, "sh", "-c", off]).status().unwrap().success());
        let mut spec = with("true", &[("give0", None)]);
        join(&mut spec, &format!("/proc/{}/ns/net", holder.pid()));
        let error = start(&bench, &spec).unwrap_err();
        assert!(error.to_string().contains("an address of give0"), "{error}");
        is_as_before();
        holder.delete().unwrap();
    });
}

#[test]
fn a_namespace_that_is_joined_keeps_the_device() {
    with_devices(|bench| {
        let holder = start(&bench, &with("sleep 1000", &[])).unwrap();
        let mut spec = with("sleep 1000", &[("give0", None)]);
        join(&mut spec, &format!("/proc/{}/ns/net", holder.pid()));
        let running = start(&bench, &spec).unwrap();
        running.kill(Signal::KILL).unwrap();
        running.delete().unwrap();
        assert!(shown(holder.pid(), "addr show dev give0").contains("192.0.2.7/24"));
        holder.delete().unwrap();
    });
}

#[test]
fn an_ordinary_user_moves_no_devices() {
    let Some(bench) = bench() else { return };
    if is_root() {
        return;
    }
    let error = start(&bench, &with("true", &[("lo", Some("lo1"))])).unwrap_err();
    assert!(matches!(error, Error::Host { .. }) && error.hint().is_some(), "{error:?}");
}

#[test]
fn an_index_that_is_taken_there_is_not_in_the_way() {
    with_devices(|bench| {
        let holder = start(&bench, &with("sleep 1000", &[])).unwrap();
        let index: u32 = ip("-o link show dev give0").split(':').next().unwrap().parse().unwrap();
        shown(holder.pid(), &format!("link add name taken0 index {index} type veth peer name taken1"));
        let taken = shown(holder.pid(), "-o link show dev taken0");
        assert!(taken.starts_with(&format!("{index}:")), "{taken}");
        let mut spec = with("sleep 1000", &[("give0", Some("taken%d"))]);
        join(&mut spec, &format!("/proc/{}/ns/net", holder.pid()));
        let running = start(&bench, &spec).unwrap();
        let inside = shown(holder.pid(), "addr show dev taken2");
        assert!(inside.contains("192.0.2.7/24") && !inside.starts_with(&format!("{index}:")), "{inside}");
        running.delete().unwrap();
        holder.delete().unwrap();
    });
}
