//! Hard links: to what is in the layer, and to what is below.

use crate::error::{Error, Result};
use crate::index::{Entry, Kind};
use crate::view::components;

use super::{Unpacking, join};

impl Unpacking<'_> {
    pub(super) fn link(&mut self, path: Vec<u8>, target: &[u8]) -> Result<()> {
        let names: Vec<&[u8]> = components(target).collect();
        let Some((last, parents)) = names.split_last() else {
            return Err(Error::layer(&path, "a hard link to the root"));
        };
        if names.contains(&b"..".as_slice()) {
            return Err(Error::layer(&path, "a hard link that leads out of the layer"));
        }
        let resolved = join(&self.parent(parents, (0, 0), true)?, last);
        if resolved == path {
            return Err(Error::layer(&path, "a hard link to itself"));
        }
        let Some(entry) = self.entries.get(&resolved).cloned() else { return self.copy_up(path, &resolved) };
        match &entry.kind {
            Kind::Directory { .. } | Kind::Whiteout => Err(Error::layer(&path, "a hard link to a directory")),
            Kind::Hardlink { .. } | Kind::File { .. } => {
                let target =
                    if let Kind::Hardlink { target } = &entry.kind { target.clone() } else { resolved };
                self.links.push((path.clone(), target.clone()));
                self.names.entry(target.clone()).or_default().insert(path.clone());
                self.entries.insert(path, Entry { kind: Kind::Hardlink { target }, ..entry });
                Ok(())
            }
            _ => {
                self.links.push((path.clone(), resolved));
                self.entries.insert(path, entry);
                Ok(())
            }
        }
    }

    /// A hard link to a file below: the layer gets a copy, as an overlay would make.
    pub(super) fn copy_up(&mut self, path: Vec<u8>, target: &[u8]) -> Result<()> {
        let below = self.below.view()?;
        let Some((entry, layer)) = below.file(target) else {
            return Err(Error::layer(&path, "a hard link to nothing"));
        };
        let Kind::File { size, .. } = entry.kind else {
            return Err(Error::layer(&path, "a hard link to something below that is no file"));
        };
        self.looked_up.insert(target.to_vec());
        let source = match below.find(target) {
            Some((Entry { kind: Kind::Hardlink { target }, .. }, _)) => target.clone(),
            _ => target.to_vec(),
        };
        let mut from = layer.open_file(self.authority, &source)?;
        let entry = entry.clone();
        let io = |source| Error::Io {
            action: "copy",
            path: String::from_utf8_lossy(&path).into_owned().into(),
            source,
        };
        let copied = std::io::copy(&mut from, &mut self.new_file(&path)?).map_err(io)?;
        if copied != size {
            return Err(Error::SizeMismatch {
                what: String::from_utf8_lossy(&source).into_owned(),
                expected: size,
                actual: copied,
            });
        }
        self.crew.now(&[self.stamp(&path, &entry)])?;
        self.entries.insert(path, entry);
        Ok(())
    }
}
