//! `user[:group]` of an image, in numbers.
//!
//! Names are looked up in the image's own `/etc/passwd` and `/etc/group`. A user without an explicit group brings its
//! supplementary groups; with one it does not, as in docker.

use std::io::Read;

use layer_store::authority::FileAuthority;
use layer_store::{Kind, View};

use crate::error::{Error, Result};

/// The largest passwd or group file that is read, in bytes.
const LIMIT: u64 = 4 << 20;

/// Who a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: Option<String>,
}

/// The text of `path` in `view`; empty when it is not there.
pub(crate) fn text(view: &View, authority: &dyn FileAuthority, path: &[u8]) -> Result<String> {
    let Some(path) = view.resolve(path) else { return Ok(String::new()) };
    let target = match view.find(&path) {
        Some((entry, _)) => match &entry.kind {
            Kind::File { .. } => path,
            Kind::Hardlink { target } => target.clone(),
            _ => return Ok(String::new()),
        },
        None => return Ok(String::new()),
    };
    let Some((_, layer)) = view.file(&target) else { return Ok(String::new()) };
    let mut bytes = Vec::new();
    let read = layer.open_file(authority, &target)?.take(LIMIT).read_to_end(&mut bytes);
    read.map_err(|source| Error::Io { path: String::from_utf8_lossy(&target).into_owned().into(), source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub(crate) fn resolve(user: &str, view: &View, authority: &dyn FileAuthority) -> Result<User> {
    let passwd = text(view, authority, b"etc/passwd")?;
    let group = text(view, authority, b"etc/group")?;
    lookup(user, &passwd, &group)
}

fn lookup(user: &str, passwd: &str, group: &str) -> Result<User> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number = name.parse::<u32>().ok();
    let rows = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut rows = rows.filter(|row| row.len() >= 6);
    let row = rows.find(|row| {
        row.first() == Some(&name)
            || (number.is_some() && row.get(2).and_then(|id| id.parse().ok()) == number)
    });
    let field = |at: usize| row.as_ref().and_then(|row| row.get(at)).copied();
    let id = |at: usize| field(at).and_then(|text| text.parse::<u32>().ok());
    let uid = match (id(2), number) {
        (Some(uid), _) => uid,
        (None, Some(number)) => number,
        (None, None) => return Err(Error::NoSuchUser { kind: "user", name: name.to_owned() }),
    };
    let mut found =
        User { uid, gid: id(3).unwrap_or(0), groups: Vec::new(), home: field(5).map(str::to_owned) };
    let groups: Vec<Vec<&str>> = group.lines().map(|line| line.split(':').collect()).collect();
    let group_id = |row: &Vec<&str>| row.get(2).and_then(|id| id.parse::<u32>().ok());
    match group_name {
        Some(name) => {
            let by_name = groups.iter().find(|row| row.first() == Some(&name)).and_then(group_id);
            found.gid = match (by_name, name.parse().ok()) {
                (Some(gid), _) | (None, Some(gid)) => gid,
                (None, None) => return Err(Error::NoSuchUser { kind: "group", name: name.to_owned() }),
            };
        }
        None => {
            let login = field(0).unwrap_or(name);
            let is_member = |row: &&Vec<&str>| {
                row.get(3).is_some_and(|members| members.split(',').any(|member| member == login))
            };
            found.groups = groups.iter().filter(is_member).filter_map(group_id).collect();
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:app,other\napp:x:1001:\n";

    #[test]
    fn names_numbers_and_groups() {
        let of = |user| lookup(user, PASSWD, GROUP).map(|user| (user.uid, user.gid, user.groups)).ok();
        assert_eq!(of(""), Some((0, 0, vec![])));
        assert_eq!(of("app"), Some((1000, 1001, vec![10])));
        assert_eq!(of("app:wheel"), Some((1000, 10, vec![])));
        assert_eq!(of("1000"), Some((1000, 1001, vec![10])));
        assert_eq!(of("5:6"), Some((5, 6, vec![])));
        assert_eq!(of("5"), Some((5, 0, vec![])));
        assert_eq!(of("nobody"), None);
        assert_eq!(of("app:nogroup"), None);
    }
}
