//! Tests of the crate as a program sees it.

mod data;
mod expand;
mod ignore;
mod records;
