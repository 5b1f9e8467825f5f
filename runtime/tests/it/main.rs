//! Real containers, as root and as an ordinary user.

mod basic;
mod support;
