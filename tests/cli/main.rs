//! Every verb as a user meets it: the real program, what it says, and with which exit status it ends. No network, no build
//! and no machine.

#![allow(unreachable_pub, reason = "the support module is a part of each test target")]

#[path = "../support/mod.rs"]
mod support;

mod architecture;
mod azure;
mod flash;
mod inspect;
mod lock;
mod overlay;
mod recipe;
mod registry;
mod sign;
mod sim;
mod sim_sources;
mod stamp;
mod streams;
mod test;
mod test_faults;
