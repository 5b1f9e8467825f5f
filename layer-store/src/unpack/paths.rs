//! Where an entry goes: parents are made and followed, what is in the way goes.

use crate::authority::Op;
use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::index::{Entry, Kind};
use crate::tar_reader::{Member, Type};
use crate::view::components;

use super::{LINK_LIMIT, NO_DIRECTORY, Unpacking, join};

impl Unpacking<'_> {
    /// The real path of the directory that `names` leads to, made where it is missing, or [`NO_DIRECTORY`].
    pub(super) fn parent(&mut self, names: &[&[u8]], mtime: (i64, u32), makes: bool) -> Result<Vec<u8>> {
        let raw = names.join(&b'/');
        if let Some((last, leads_to)) = &self.last_parent
            && *last == raw
        {
            return Ok(leads_to.clone());
        }
        let mut rest: Vec<Vec<u8>> = names.iter().rev().map(|name| name.to_vec()).collect();
        let mut at = Vec::new();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == b".." {
                let cut = at.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                at.truncate(cut);
                continue;
            }
            let here = join(&at, &name);
            Budget::check(self.depth, (rest.len() + 1) as u64, "components of a path")?;
            let own = self.entries.get(&here).map(|entry| entry.kind.clone());
            let kind = match own {
                Some(kind) => kind,
                None => self.borrow_directory(&here, mtime, makes)?,
            };
            match kind {
                Kind::Directory { .. } => at = here,
                Kind::Symlink { target } => {
                    links += 1;
                    if links > LINK_LIMIT {
                        return Err(Error::layer(&here, "too many symbolic links"));
                    }
                    if target.first() == Some(&b'/') {
                        at.clear();
                    }
                    rest.extend(components(&target).rev().map(<[u8]>::to_vec));
                }
                _ => return Err(Error::layer(&here, NO_DIRECTORY)),
            }
        }
        self.last_parent = Some((raw, at.clone()));
        Ok(at)
    }

    /// A parent directory without an entry in this layer: it looks like the one below, or is made 0755.
    pub(super) fn borrow_directory(&mut self, path: &[u8], mtime: (i64, u32), makes: bool) -> Result<Kind> {
        let found = self.below.view()?.find(path).map(|(entry, _)| entry.clone());
        self.looked_up.insert(path.to_vec());
        if let Some(entry) = &found
            && !entry.is_directory()
        {
            return Ok(entry.kind.clone());
        }
        if found.is_none() && !makes {
            return Err(Error::layer(path, NO_DIRECTORY));
        }
        let mut entry =
            found.unwrap_or_else(|| Entry::new(Kind::Directory { opaque: false }, 0o755, 0, 0, mtime));
        entry.kind = Kind::Directory { opaque: false };
        self.crew.now(&[Op::Directory(path.to_vec())])?;
        self.entries.insert(path.to_vec(), entry);
        Ok(Kind::Directory { opaque: false })
    }

    /// Removes what an earlier entry of the same layer made at `path`, unless both are directories.
    pub(super) fn make_room(&mut self, path: &[u8], member: &Member) -> Result<()> {
        let Some(old) = self.entries.get(path) else { return Ok(()) };
        if old.is_directory() && member.kind == Type::Directory {
            return Ok(());
        }
        self.settle()?;
        self.last_parent = None;
        let mut below = path.to_vec();
        below.push(b'/');
        let mut doomed = vec![path.to_vec()];
        doomed.extend(
            self.entries
                .range(below.clone()..)
                .take_while(|(name, _)| name.starts_with(&below))
                .map(|(name, _)| name.clone()),
        );
        for name in &doomed {
            match self.entries.remove(name) {
                Some(Entry { kind: Kind::Hardlink { target }, .. }) => {
                    if let Some(names) = self.names.get_mut(&target) {
                        names.remove(name);
                    }
                }
                Some(entry) if matches!(entry.kind, Kind::File { .. }) => self.inherit(name, entry),
                _ => {}
            }
        }
        self.crew.now(&[Op::Remove(path.to_vec())])?;
        Ok(())
    }

    /// The file `name` goes; the first of its other names, if there is one, becomes the file.
    pub(super) fn inherit(&mut self, name: &[u8], file: Entry) {
        let number = self.numbers.remove(name);
        let mut others = self.names.remove(name).unwrap_or_default();
        let Some(heir) = others.pop_first() else { return };
        for other in &others {
            if let Some(entry) = self.entries.get_mut(other) {
                entry.kind = Kind::Hardlink { target: heir.clone() };
            }
        }
        if let Some(number) = number {
            self.numbers.insert(heir.clone(), number);
        }
        self.entries.insert(heir.clone(), file);
        self.names.insert(heir, others);
    }
}
