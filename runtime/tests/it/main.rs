//! Real containers, as root and as an ordinary user.

mod basic;
mod failure;
mod hostile;
mod overlay;
mod support;
mod threads;
