//! Who is not root shares what is his.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use layer_store::{DedupOptions, Store, Unshared};

use super::{CAN, FILES, later, members, unpack};
use crate::loops::on;

/// Run as an ordinary user by the test below.
#[test]
fn ordinary_user() {
    let Some(root) = std::env::var_os("COOPERAGE_SHARING_ROOT") else { return };
    let foreign: u64 = std::env::var("COOPERAGE_SHARING_FOREIGN").unwrap().parse().unwrap();
    let store = Store::open(Path::new(&root)).unwrap();
    let all = FILES as u64;
    if foreign == 0 {
        unpack(&store, &members(1));
        unpack(&store, &later(members(1)));
        assert_eq!(store.deduplicate(&DedupOptions::default()).unwrap().shared, all);
        return;
    }
    let done = store.deduplicate(&DedupOptions::default()).unwrap();
    assert_eq!((done.copies, done.already, done.shared), (all, all - foreign, 0), "{done:?}");
    assert_eq!(done.skipped.get(&Unshared::NotPermitted), Some(&foreign), "{done:?}");
}

#[test]
fn an_ordinary_user_shares_what_is_his() {
    on(&CAN, |_, disk| {
        // Out of every directory that only root looks into.
        let place = disk.mount.parent().unwrap();
        for dir in [place, &disk.mount] {
            std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
        }
        let program = place.join("it");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let root = disk.mount.join("store");
        let as_user = |foreign: usize| {
            let mut command = std::process::Command::new(&program);
            command
                .uid(12_345)
                .gid(12_345)
                .args(["--exact", "sharing::user::ordinary_user"])
                .current_dir("/");
            command.env("COOPERAGE_SHARING_ROOT", &root);
            command.env("COOPERAGE_SHARING_FOREIGN", foreign.to_string());
            let out = command.output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        };
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::chown(&root, Some(12_345), Some(12_345)).unwrap();
        as_user(0);
        // Some files of the layer that follows are written anew, by somebody else, who lets all read them.
        let layers = std::fs::read_dir(root.join("layers")).unwrap().map(|entry| entry.unwrap().path());
        let last = layers.max().unwrap();
        let foreign = ["d/2", "d/5", "d/11"].map(|name| last.join("diff").join(name));
        for path in &foreign {
            let bytes = std::fs::read(path).unwrap();
            std::fs::remove_file(path).unwrap();
            std::fs::write(path, bytes).unwrap();
            std::os::unix::fs::chown(path, Some(54_321), Some(54_321)).unwrap();
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o444)).unwrap();
        }
        disk.used();
        as_user(foreign.len());
    });
}
