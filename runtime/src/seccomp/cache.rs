//! Compiled profiles, kept by content: compiling docker's takes longer than everything else the host does for a
//! container.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::LinuxSeccomp;

use super::bpf::Filter;
use super::compile::compile;
use crate::Error;

/// How many profiles are kept; a host has one or two.
const KEPT: usize = 16;

static CACHE: Mutex<VecDeque<(LinuxSeccomp, Arc<Filter>)>> = Mutex::new(VecDeque::new());

/// The filter of a profile. Profiles that are equal, entry by entry, are compiled once in a process.
pub(crate) fn compiled(profile: &LinuxSeccomp) -> Result<Arc<Filter>, Error> {
    let find = |kept: &VecDeque<(LinuxSeccomp, Arc<Filter>)>| {
        kept.iter().find(|(known, _)| known == profile).map(|(_, filter)| Arc::clone(filter))
    };
    if let Some(filter) = find(&CACHE.lock().unwrap_or_else(PoisonError::into_inner)) {
        return Ok(filter);
    }
    let filter = Arc::new(compile(profile)?);
    let mut kept = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() == KEPT {
        kept.pop_front();
    }
    kept.push_back((profile.clone(), Arc::clone(&filter)));
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_profile_is_compiled_once() {
        let profile = crate::seccomp::default_profile(&[]);
        let (one, other) = (compiled(&profile).unwrap(), compiled(&profile.clone()).unwrap());
        assert!(Arc::ptr_eq(&one, &other));
    }
}
