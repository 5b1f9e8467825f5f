//! Crash-safe, deduplicating store for OCI layers and images.
