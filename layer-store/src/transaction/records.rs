//! Records of layers: written before the barrier of a commit, put in their places behind it.

use std::collections::BTreeMap;

use image_core::DiffId;
use rustix::fs::FlockOperation;

use crate::blob::{Encoding, file_name, remember};
use crate::disk::{Dir, record_bytes, unique};
use crate::error::Result;
use crate::store::Places;

use super::{State, Transaction};

impl Transaction {
    /// Writes the records of layers as they will be, so that the barrier makes them durable with everything else.
    pub(super) fn stage_records(&self, state: &State) -> Result<Vec<Record>> {
        let places = &self.0.store.places;
        let mut records = Vec::new();
        let mut encodings: BTreeMap<DiffId, Vec<Encoding>> = BTreeMap::new();
        for (diff_id, encoding) in &state.encodings {
            encodings.entry(*diff_id).or_default().push(encoding.clone());
        }
        for (diff_id, added) in encodings {
            let name = file_name(diff_id.digest());
            let before = places.encodings.read(&name)?;
            let mut known = self.0.store.encodings(&diff_id)?;
            added.iter().for_each(|encoding| remember(&mut known, encoding));
            let bytes = record_bytes(&known, &places.encodings.at(&name))?;
            records.push(self.stage_record(name, Written::Encodings(diff_id, added), before, &bytes)?);
        }
        for (diff_id, paths) in &state.borrows {
            let name = file_name(diff_id.digest());
            let before = places.borrows.read(&name)?;
            let bytes = record_bytes(paths, &places.borrows.at(&name))?;
            records.push(self.stage_record(name, Written::Borrows(bytes.clone()), before, &bytes)?);
        }
        Ok(records)
    }

    fn stage_record(
        &self,
        name: String,
        written: Written,
        before: Option<Vec<u8>>,
        bytes: &[u8],
    ) -> Result<Record> {
        let staged = format!("record-{}", unique());
        self.0.staging.write(&staged, bytes)?;
        Ok(Record { name, staged, written, before })
    }

    /// Puts `records` in their places. What another process wrote there meanwhile is gone on with.
    pub(super) fn publish_records(&self, records: Vec<Record>) -> Result<()> {
        let places = &self.0.store.places;
        let mut late = Vec::new();
        {
            // A sweep must not come between what was read and what replaces it, and nobody else either.
            let _guard = crate::lease::guard(&places.root, FlockOperation::LockShared)?;
            let _alone = crate::lease::alone(&places.encodings)?;
            let mut touched: Vec<&Dir> = Vec::new();
            for record in records {
                let place = record.written.place(places);
                if place.read(&record.name)? != record.before {
                    late.push(record);
                    continue;
                }
                self.0.staging.rename(&record.staged, place, &record.name)?;
                if !touched.iter().any(|other| std::ptr::eq(*other, place)) {
                    touched.push(place);
                }
            }
            touched.into_iter().try_for_each(Dir::sync)?;
        }
        for Record { name, staged, written, .. } in late {
            match written {
                Written::Encodings(diff_id, added) => {
                    for encoding in added {
                        self.0.store.add_encoding(&diff_id, &encoding)?;
                    }
                }
                Written::Borrows(bytes) => {
                    let _guard = crate::lease::guard(&places.root, FlockOperation::LockShared)?;
                    places.borrows.replace(&name, &bytes)?;
                }
            }
            self.0.staging.unlink(&staged)?;
        }
        Ok(())
    }
}

/// A record of a layer, written and not in its place yet.
pub(super) struct Record {
    name: String,
    staged: String,
    written: Written,
    /// What was in its place when it was written.
    before: Option<Vec<u8>>,
}

enum Written {
    Encodings(DiffId, Vec<Encoding>),
    Borrows(Vec<u8>),
}

impl Written {
    const fn place<'a>(&self, places: &'a Places) -> &'a Dir {
        match self {
            Self::Encodings(..) => &places.encodings,
            Self::Borrows(_) => &places.borrows,
        }
    }
}
