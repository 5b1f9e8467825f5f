//! cooperage.
