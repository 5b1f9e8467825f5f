//! Subordinate ids: how an ordinary user has files of many owners.
//!
//! `/etc/subuid` and `/etc/subgid` give a user ranges of ids. In a user namespace that maps them the user's own id is 0
//! and the ranges are 1 and up, so that trees of images have all their owners. The store asks its authority for all work
//! on trees; here that is [`Subordinate`], which has the runtime's helpers in such a namespace do it.

mod compile;
mod walk;

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;

use layer_store::authority::{BatchError, FileAuthority, Found, Op, Owners, Reply};
use runtime::{IdRange, UserMapping, UserNamespace};

use compile::Compiler;

/// Works on trees as root of a user namespace.
#[derive(Debug)]
pub(crate) struct Subordinate(UserNamespace);

impl Subordinate {
    pub(crate) const fn new(namespace: UserNamespace) -> Self {
        Self(namespace)
    }
}

impl FileAuthority for Subordinate {
    fn perform(&self, root: BorrowedFd<'_>, batch: &[Op]) -> Result<Vec<Reply>, BatchError> {
        Compiler::new(&self.0, root).perform(batch)
    }

    fn walk(&self, root: BorrowedFd<'_>) -> io::Result<Vec<Found>> {
        walk::tree(&self.0, root)
    }

    fn owners(&self) -> Owners {
        Owners::True
    }

    fn makes_devices(&self) -> bool {
        false
    }
}

/// The ids that images use: up to nobody, 65534, beside the user's own.
const USUAL_IDS: u32 = 65_534;

/// The mapping of the ranges that the host gives this process's user, the user's own id first. `None` when there are
/// too few for images. Whether they can be mapped is the runtime's to say.
pub(crate) fn mapping() -> Option<UserMapping> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let name = name_of(uid, &fs::read_to_string("/etc/passwd").ok()?);
    let ranges = |table: &str, own| {
        let text = fs::read_to_string(table).ok()?;
        map(own, &ranges_of(uid, name.as_deref(), &text))
    };
    Some(UserMapping::ranges(ranges("/etc/subuid", uid)?, ranges("/etc/subgid", gid)?))
}

/// The name of a user in `passwd(5)`.
fn name_of(uid: u32, passwd: &str) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// First id and count of each range of a user in `subuid(5)`, by name or number.
fn ranges_of(uid: u32, name: Option<&str>, table: &str) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    let line = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (owner == number || Some(owner) == name).then_some(range)
    };
    table.lines().filter_map(line).collect()
}

/// The map of one kind of ids; `None` when images would miss some.
fn map(own: u32, ranges: &[(u32, u32)]) -> Option<Vec<IdRange>> {
    let mut map = vec![IdRange { inside: 0, outside: own, count: 1 }];
    let mut next = 1_u32;
    for (first, count) in ranges {
        if *count == 0 || (*first..first.checked_add(*count)?).contains(&own) {
            continue;
        }
        map.push(IdRange { inside: next, outside: *first, count: *count });
        next = next.checked_add(*count)?;
    }
    (next > USUAL_IDS).then_some(map)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use layer_store::authority::{Content, Direct, Stamp};

    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let table = "root:0:1\nann:100000:65536\n# note\n1000:300000:10\nbob:200000:65536\nbroken\n";
        assert_eq!(ranges_of(1000, Some("ann"), table), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(
            name_of(1000, "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\n").as_deref(),
            Some("ann")
        );
    }

    #[test]
    fn a_map_begins_with_ones_own_id_and_has_what_images_use() {
        let maps = map(1000, &[(100_000, 65_536)]).unwrap();
        let numbers: Vec<_> = maps.iter().map(|range| (range.inside, range.outside, range.count)).collect();
        assert_eq!(numbers, [(0, 1000, 1), (1, 100_000, 65_536)]);
        assert!(map(1000, &[(100_000, 1_000)]).is_none());
        // A range with one's own id in it would map that twice.
        assert!(map(1000, &[(0, 65_536)]).is_none());
    }

    /// What there is at each path, without what differs from run to run.
    fn shape(found: &[Found]) -> Vec<String> {
        let line = |one: &Found| {
            let Found { path, mode, uid, gid, size, rdev, mtime, target, xattrs, .. } = one;
            let (path, target) = (String::from_utf8_lossy(path), String::from_utf8_lossy(target));
            let size = if mode & 0o170_000 == 0o040_000 { 0 } else { *size };
            format!("{path} {mode:o} {uid}:{gid} {size} {rdev} {mtime:?} {target} {} {xattrs:?}", one.inode.1)
        };
        found.iter().map(line).collect()
    }

    fn stamp(uid: u32, mode: u32, mtime: i64) -> Stamp {
        let mut stamp = Stamp::at(mtime, 5);
        (stamp.owner, stamp.mode) = (Some((uid, uid + 1)), Some(mode));
        stamp
    }

    /// Everything that the store asks for, and more of it than fits one batch.
    fn work() -> Vec<Op> {
        let mut work = Vec::new();
        let (mut deep, mut stamps) = (b"deep".to_vec(), Vec::new());
        for _ in 0..60 {
            work.push(Op::Directory(deep.clone()));
            stamps.push(Op::Stamp(deep.clone(), stamp(7, 0o500, 3)));
            deep.extend_from_slice(b"/deeper");
        }
        for number in 0..1_500_u32 {
            let path = format!("many-{number}").into_bytes();
            work.push(Op::Put(
                path,
                vec![b'x'; (number % 700) as usize].into(),
                stamp(number % 9, 0o640, number.into()),
            ));
        }
        work.push(Op::Directory(b"odd \xff\n".to_vec()));
        work.push(Op::Put(b"odd \xff\n/large".to_vec(), vec![b'y'; 3 << 20].into(), stamp(1000, 0o4755, 11)));
        let mut marked = stamp(33, 0o2710, -3);
        marked.xattrs = vec![
            // Version 2, cap_net_raw+p: what images hold, and what a reader inside sees again.
            (
                b"security.capability".to_vec(),
                [1, 0, 0, 2, 0, 32].iter().chain([0; 14].iter()).copied().collect(),
            ),
            (b"user.note".to_vec(), vec![7; 300]),
        ];
        work.push(Op::Put(b"marked".to_vec(), Content::default(), marked));
        work.push(Op::Link(b"other name".to_vec(), b"marked".to_vec()));
        work.push(Op::Symlink(b"link".to_vec(), b"/etc/shadow".to_vec()));
        work.push(Op::Stamp(b"link".to_vec(), {
            let mut link = stamp(12, 0, 77);
            link.mode = None;
            link
        }));
        work.push(Op::Node(b"fifo".to_vec(), 0o010_000, 0));
        work.push(Op::Stamp(b"fifo".to_vec(), stamp(65_533, 0o604, 8)));
        work.push(Op::Node(b"whiteout".to_vec(), 0o020_000, 0));
        work.push(Op::Touch(b"many-3".to_vec(), 99, 1));
        work.push(Op::Touch(b"whiteout".to_vec(), 4, 4));
        work.push(Op::Stamp(b"odd \xff\n".to_vec(), stamp(0, 0o1777, 6)));
        work.push(Op::Directory(b"away".to_vec()));
        work.push(Op::Put(b"away/file".to_vec(), Content::default(), stamp(2, 0o600, 1)));
        work.push(Op::Stamp(b"away".to_vec(), stamp(2, 0o000, 1)));
        work.push(Op::Remove(b"away".to_vec()));
        work.push(Op::Remove(b"never there".to_vec()));
        work.extend(stamps.into_iter().rev());
        work
    }

    #[test]
    fn it_does_what_root_does_directly() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: this user may not map ids that are not its own");
            assert!(std::env::var_os("COOPERAGE_REQUIRE_PEERS").is_none());
            return;
        }
        const FIRST: u32 = 800_000;
        let place = tempfile::tempdir().unwrap();
        let runtime = runtime::Runtime::builder().state_dir(place.path().join("state")).build().unwrap();
        let ids = vec![IdRange { inside: 0, outside: FIRST, count: 65_536 }];
        let authority =
            Subordinate::new(runtime.user_namespace(&UserMapping::ranges(ids.clone(), ids)).unwrap());
        let make = |name: &str, owner| {
            let path = place.path().join(name);
            fs::create_dir(&path).unwrap();
            std::os::unix::fs::chown(&path, Some(owner), Some(owner)).unwrap();
            fs::File::open(&path).unwrap()
        };
        let (inside, outside) = (make("inside", FIRST), make("outside", 0));
        let direct = Direct::detect();
        let done = authority.perform(inside.as_fd(), &work()).unwrap();
        let expected = direct.perform(outside.as_fd(), &work()).unwrap();
        for ((reply, expected), op) in done.iter().zip(&expected).zip(work()) {
            let without = |reply: &Reply| match reply {
                Reply::Stamped { without, .. } => Some(without.clone()),
                _ => None,
            };
            assert_eq!(without(reply), without(expected), "{:?}", String::from_utf8_lossy(op.path()));
        }
        assert_eq!(done.len(), expected.len());
        let found = authority.walk(inside.as_fd()).unwrap();
        let (seen, wanted) = (shape(&found), shape(&direct.walk(outside.as_fd()).unwrap()));
        seen.iter().zip(&wanted).for_each(|(seen, wanted)| assert_eq!(seen, wanted));
        assert_eq!(seen.len(), wanted.len());
        // Of one tree, and all of it written: two of the same content may lie in more or fewer extents.
        rustix::fs::syncfs(inside.as_fd()).unwrap();
        assert_eq!(authority.usage(inside.as_fd()).unwrap(), direct.usage(inside.as_fd()).unwrap());
        let reply =
            authority.perform(inside.as_fd(), &[Op::Open(b"odd \xff\n/large".to_vec())]).unwrap().pop();
        let Some(Reply::File(large)) = reply else { panic!("no file") };
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut fs::File::from(large), &mut bytes).unwrap();
        assert_eq!(bytes, vec![b'y'; 3 << 20]);
        // It stops where it fails, and names that.
        let twice = [
            Op::Directory(b"new".to_vec()),
            Op::Directory(b"fifo".to_vec()),
            Op::Directory(b"never".to_vec()),
        ];
        let error = authority.perform(inside.as_fd(), &twice).unwrap_err();
        assert_eq!(
            (error.index, error.path.as_str(), error.source.kind()),
            (1, "fifo", io::ErrorKind::AlreadyExists)
        );
        let names =
            |found: Vec<Found>| found.into_iter().map(|one| one.path).filter(|path| !path.contains(&b'/'));
        let all: Vec<Op> = names(found).chain([b"new".to_vec()]).map(Op::Remove).collect();
        authority.perform(inside.as_fd(), &all).unwrap();
        assert_eq!(authority.walk(inside.as_fd()).unwrap(), []);
    }
}
