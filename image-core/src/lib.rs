//! OCI image vocabulary: digests, references, manifests, configs.
