//! Reading what Go wrote (`null` for an empty list or map) and the one writer of JSON that goes out.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::JsonError;

/// The members of a document that this crate does not know, in order, so that a typed edit keeps them.
pub type Unknown = BTreeMap<String, serde_json::Value>;

/// The bytes of `value`: compact, members in the type's order, maps sorted.
///
/// Every document that leaves the SDK goes through here, so that equal values have equal digests.
///
/// # Errors
/// [`JsonError`] when a map has keys that are not text; no type of this crate has.
pub fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, JsonError> {
    Ok(serde_json::to_vec(value)?)
}

/// `null` reads as the empty value.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A set that is written as a map to empty objects: `{"80/tcp":{}}`.
pub(crate) mod keys {
    use super::{BTreeMap, BTreeSet, Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Empty {}

    pub(crate) fn serialize<S: Serializer>(set: &BTreeSet<String>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(set.iter().map(|key| (key, Empty {})))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeSet<String>, D::Error> {
        let map = Option::<BTreeMap<String, serde::de::IgnoredAny>>::deserialize(deserializer)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}
