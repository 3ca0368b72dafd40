//! What runs on the device, on the host instead: first boot under a root prefix, the stand-in's services, the firewall in
//! namespaces, and the overlay's files.

#![allow(unreachable_pub, reason = "the support module is a part of each test target")]

#[path = "../support/mod.rs"]
mod support;

mod device_files;
mod files;
mod firewall;
mod names;
mod recovery;
mod registry;
mod script;
mod sources;
mod standin_services;
mod trouble;
mod wifi;
