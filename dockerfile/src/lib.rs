//! The Dockerfile language, compiled to a typed plan.
