//! Bind mounts: what they keep of their source, and where they may go.

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use oci_spec::runtime::{Capability, LinuxNamespace, LinuxNamespaceType};
use runtime::{CreateOptions, Errno, Error, IdRange, Io, SpecBuilder, UserMapping, oci_spec};

use crate::support::{Bench, bench, fresh_id, is_root, mount, shell, skipped};

/// Runs a test in a mount namespace of its own, which only its thread is in: what it mounts is gone before its directory
/// is removed.
#[expect(unsafe_code, reason = "the safe wrapper is deprecated")]
fn in_own_mounts(test: impl FnOnce(&Bench) + Send) {
    let Some(bench) = bench() else { return };
    if !is_root() {
        return skipped("only root mounts on the host");
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: no other thread is affected, and this one ends with the test.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
            host("mount", "--make-rprivate /");
            test(&bench);
        });
        thread.join().unwrap();
    });
}

fn host(program: &str, args: &str) {
    let output = Command::new(program).args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The flags that a container sees of a bind mount with these options, of a source that has those.
fn flags(bench: &Bench, source: &str, options: &str, mapping: Option<&UserMapping>) -> Result<String, Error> {
    let place = bench.dir.path().join("source");
    let shown = place.display();
    if !place.exists() {
        fs::create_dir(&place).unwrap();
        host("mount", &format!("-t tmpfs -o strictatime none {shown}"));
    }
    host("mount", &format!("-o remount,bind,strictatime,diratime {shown}"));
    host("mount", &format!("-o remount,bind,{source} {shown}"));
    let options: Vec<&str> = options.split(',').collect();
    let script = "while read a b c d; do [ $b = /bound ] && echo ,${d%% *},; done </proc/mounts";
    let mut spec: SpecBuilder = shell(script).mount(mount("/bound", "bind", &place, &options));
    if let Some(mapping) = mapping {
        spec = spec.user_mapping(mapping.clone());
    }
    Ok(bench.run(spec)?.1)
}

#[test]
fn a_bind_mount_has_the_flags_that_are_named_or_all_of_its_source() {
    in_own_mounts(|bench| {
        for (source, options, has, has_not) in [
            ("ro,noexec,nodiratime", "bind", "ro noexec nodiratime", "rw"),
            ("ro,noexec,nosymfollow", "bind,dev", "rw", "ro noexec nosymfollow"),
            ("ro", "rbind,nosuid,nodev,rprivate", "rw nosuid nodev", "ro"),
            ("nosuid,nodev,noexec", "bind,ro", "ro", "nosuid nodev noexec"),
            ("nosuid,nodev", "bind,ro,nosuid", "ro nosuid", "nodev"),
            ("ro,noexec", "rbind,rnosuid", "ro noexec nosuid", "rw"),
            // Access times are one choice, which words that only take something back do not make.
            ("noatime", "bind,atime", "noatime", "relatime"),
            ("noatime", "bind,ro", "ro noatime", "relatime"),
            ("noatime", "bind,relatime", "relatime", "noatime"),
            ("noatime", "bind,nodiratime", "nodiratime relatime", "noatime"),
            ("nodiratime", "bind,strictatime", "rw", "nodiratime relatime noatime"),
        ] {
            let found = flags(bench, source, options, None).unwrap();
            let there = |name: &&str| found.contains(&format!(",{name},"));
            assert!(has.split(' ').all(|name| there(&name)), "{source} {options}: {found}");
            assert!(!has_not.split(' ').any(|name| there(&name)), "{source} {options}: {found}");
        }
    });
}

#[test]
fn in_a_user_namespace_what_is_not_named_stays() {
    in_own_mounts(|bench| {
        let own = |at| IdRange { inside: 0, outside: at, count: 65_536 };
        let mapping = UserMapping::ranges([own(0)], [own(0)]);
        let found = flags(bench, "ro,noexec,nosymfollow", "bind,nodev", Some(&mapping)).unwrap();
        for (name, there) in [(",ro,", true), (",noexec,", true), (",nodev,", true), (",nosymfollow,", false)]
        {
            assert_eq!(found.contains(name), there, "{name}: {found}");
        }
    });
}

#[test]
fn a_flag_that_the_kernel_keeps_is_only_missed_by_who_takes_it_away() {
    let Some(bench) = bench() else { return };
    if is_root() {
        return;
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut fields = mounts.lines().map(|line| line.split(' ').skip(1));
    let noexec = fields.find_map(|mut fields| {
        let (place, flags) = (fields.next()?, fields.nth(1)?);
        (flags.contains("noexec") && Path::new(place).is_dir()).then(|| place.to_owned())
    });
    let Some(noexec) = noexec else { return skipped("the host has no mount with noexec") };
    let bound = |options: &[&str]| {
        let script = "while read a b c d; do [ $b = /tmp ] && echo $d; done </proc/mounts";
        bench.run(shell(script).mount(mount("/tmp", "bind", Path::new(&noexec), options)))
    };
    let (_, output) = bound(&["rbind", "ro"]).unwrap();
    assert!(output.contains("ro,") && output.contains("noexec"), "{output}");
    let error = bound(&["rbind", "exec"]).unwrap_err();
    assert_eq!(error.errno().map(Errno::raw), Some(libc::EPERM), "{error:?}");
}

/// Links with where they lead.
type Links = &'static [(&'static str, &'static str)];

/// Binds a file, and then a directory, at a place of a root filesystem that was prepared; checks that it shows there and at
/// another place.
fn shows(bench: &Bench, prepare: impl Fn(&Path), dest: &str, also: &str) {
    let from = bench.dir.path().join("from");
    fs::create_dir_all(&from).unwrap();
    fs::write(from.join("file"), "bound\n").unwrap();
    for directory in [false, true] {
        prepare(&bench.root());
        let (source, end) = if directory { (from.clone(), "/file") } else { (from.join("file"), "") };
        let script = format!("cat {dest}{end} {also}{end}");
        let (exit, output) = bench.run(shell(&script).mount_bind(&source, dest, true)).unwrap();
        assert!(exit.success() && output == "bound\nbound\n", "{dest} {also}: {output}");
    }
}

fn clear(path: &Path) {
    let removed =
        if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    assert!(removed.is_ok() || !path.exists());
}

#[test]
fn a_mount_point_is_made_behind_links_that_lead_nowhere_yet() {
    let Some(bench) = bench() else { return };
    let links: [(&str, Links, &str); 6] = [
        ("/etc/hosts", &[("etc/hosts", "/tmp/hosts")], "/tmp/hosts"),
        ("/etc/hosts", &[("etc/hosts", "../tmp/new/hosts")], "/tmp/new/hosts"),
        (
            "/etc/hosts",
            &[("jump", "/tmp/foo/bar"), ("etc/hosts", "/jump/baz/hosts")],
            "/tmp/foo/bar/baz/hosts",
        ),
        ("/a/b/c", &[("a", "tmp/one/./two")], "/tmp/one/two/b/c"),
        // What leads out of the root ends at it.
        ("/out/x", &[("out", "../../../../../../tmp/../up/there")], "/up/there/x"),
        ("/chain", &[("chain", "chain1"), ("chain1", "/chain2"), ("chain2", "tmp/end")], "/tmp/end"),
    ];
    for (dest, links, also) in links {
        let prepare = |root: &Path| {
            for place in ["tmp", "jump", "a", "out", "up", "chain", "chain1", "chain2", "etc/hosts"] {
                clear(&root.join(place));
            }
            fs::create_dir(root.join("tmp")).unwrap();
            for (name, target) in links {
                symlink(target, root.join(name)).unwrap();
            }
        };
        shows(&bench, prepare, dest, also);
    }
    assert!(!bench.dir.path().join("up").exists());
}

#[test]
fn links_that_never_end_are_an_error() {
    let Some(bench) = bench() else { return };
    symlink("/loop2/x", bench.root().join("loop1")).unwrap();
    symlink("loop1", bench.root().join("loop2")).unwrap();
    symlink("grow/x", bench.root().join("grow")).unwrap();
    symlink(format!("/{}", "n".repeat(300)), bench.root().join("long")).unwrap();
    fs::write(bench.root().join("file"), "").unwrap();
    symlink("/file/below", bench.root().join("through")).unwrap();
    for (dest, errno) in [
        ("/loop1/x", libc::ELOOP),
        ("/grow/x", libc::ELOOP),
        ("/long/x", libc::ENAMETOOLONG),
        ("/through/x", libc::ENOTDIR),
    ] {
        let error = bench.run(shell("true").mount_bind("/etc", dest, true)).unwrap_err();
        assert_eq!(error.errno().map(Errno::raw), Some(errno), "{dest}: {error:?}");
    }
}

#[test]
fn ids_are_mapped_as_in_a_user_namespace_that_is_joined() {
    let Some(bench) = bench() else { return };
    if !is_root() {
        return skipped("only root maps the ids of mounts");
    }
    let range = |outside| vec![IdRange { inside: 0, outside, count: 65_536 }];
    let mapped =
        |builder: SpecBuilder| builder.user_mapping(UserMapping::ranges(range(100_000), range(100_000)));
    let place = bench.dir.path().join("place");
    fs::create_dir(&place).unwrap();
    fs::write(place.join("of-root"), "").unwrap();
    fs::create_dir(bench.root().join("mapped")).unwrap();
    let holder = mapped(shell("sleep 1000")).build().unwrap();
    let holder =
        bench.runtime.create(&fresh_id(), &holder, bench.rootfs(), Io::null()).unwrap().start().unwrap();
    let spec =
        shell("stat -c %u /mapped/of-root").mount(mount("/mapped", "bind", &place, &["bind", "idmap"]));
    let mut spec = spec.build().unwrap();
    let mut user = LinuxNamespace::default();
    user.set_typ(LinuxNamespaceType::User).set_path(Some(format!("/proc/{}/ns/user", holder.pid()).into()));
    spec.linux_mut().as_mut().unwrap().namespaces_mut().as_mut().unwrap().push(user);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let io = Io::null().stdout(writer.try_clone().unwrap()).stderr(writer);
    let running = bench.runtime.create(&fresh_id(), &spec, bench.rootfs(), io).unwrap().start().unwrap();
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    assert_eq!(output, "0\n");
    running.delete().unwrap();
    holder.delete().unwrap();
}

#[test]
fn without_a_pivot_the_kernels_views_stay_masked() {
    let Some(bench) = bench() else { return };
    if !is_root() {
        return skipped("only root maps root of another user namespace");
    }
    let script = "unshare --mount --map-root-user --pid --fork mount -t proc none /proc && echo bare";
    let mut spec = shell(script).seccomp(None).build().unwrap();
    let mut capabilities = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    let all: HashSet<_> = [Capability::Setfcap].into();
    capabilities.set_bounding(Some(all.clone())).set_permitted(Some(all.clone())).set_effective(Some(all));
    spec.process_mut().as_mut().unwrap().set_capabilities(Some(capabilities));
    for no_pivot in [false, true] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let io = Io::null().stdout(writer.try_clone().unwrap()).stderr(writer);
        let options = CreateOptions::default().no_pivot(no_pivot);
        let created = bench.runtime.create_with(&fresh_id(), &spec, bench.rootfs(), io, &options);
        let running = created.unwrap().start().unwrap();
        let mut output = String::new();
        reader.read_to_string(&mut output).unwrap();
        running.delete().unwrap();
        assert!(output.contains("permission denied") && !output.contains("bare"), "{no_pivot}: {output}");
    }
}
