//! An OCI runtime as a library, safe to embed in threaded programs.
