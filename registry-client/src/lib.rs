//! Client for OCI and Docker registries, and an in-process registry.
