//! The power goes while files are shared.

use std::path::Path;
use std::sync::Arc;

use layer_store::{DedupOptions, Deduplicated, Disk, Store, StoreOptions};

use super::{later, members, sound, unpack};
use crate::loops::{Format, Loop, alone, power_cut, shut_down};
use crate::peers;
use crate::tarball::{Member, dir};

/// Two layers to share, written down.
fn two(root: &Path) {
    let store = Store::open(root).unwrap();
    let some: Vec<Member> = members(1).into_iter().skip(3).take(12).collect();
    let some: Vec<Member> = [dir("d"), dir("d/deep")].into_iter().chain(some).collect();
    unpack(&store, &some);
    unpack(&store, &later(some));
    rustix::fs::syncfs(std::fs::File::open(root).unwrap()).unwrap();
}

#[test]
fn the_power_goes_while_files_are_shared() {
    if !peers::is_root() {
        peers::skip("mounting a loop device needs root");
        return;
    }
    if peers::need(&["mkfs.xfs", "mount", "umount"]).is_none() {
        return;
    }
    alone(|| {
        let place = tempfile::tempdir().unwrap();
        let mut cuts = 0;
        for step in (0..).step_by(3) {
            let Some(mut disk) = Loop::new(place.path(), Format::Xfs) else {
                peers::skip("this machine makes or mounts no Xfs");
                return;
            };
            let root = disk.mount.join("store");
            two(&root);
            let mount = std::fs::File::open(&disk.mount).unwrap();
            let fault = power_cut(mount, step);
            let mut options = StoreOptions::default();
            options.disk = Arc::new(Disk::with_fault(fault));
            let result = Store::open_with(&root, options)
                .and_then(|store| store.deduplicate(&DedupOptions::default()));
            let all: Option<Deduplicated> = result.ok();
            if all.is_some() {
                shut_down(&std::fs::File::open(&disk.mount).unwrap());
            }
            disk.unmount();
            assert!(disk.mount(), "the file system does not come back");
            let store = Store::open(&root).unwrap();
            sound(&store);
            let done = store.deduplicate(&DedupOptions::default()).unwrap();
            assert_eq!((done.copies, done.already + done.shared), (12, 12), "{done:?}");
            sound(&store);
            drop(store);
            disk.unmount();
            cuts += 1;
            if all.is_some() {
                break;
            }
        }
        assert!(cuts > 3, "{cuts}");
        eprintln!("{cuts} cuts while files are shared: check finds nothing");
    });
}
