//! The client against registries: the one in this crate, and Debian's where it is installed.
