//! How a device presents itself to Azure: `config.toml` of the runtime, and a linter that knows its traps.

pub mod apart;
pub mod config;
pub mod device;
pub mod lint;
pub mod room;
pub mod source;
pub mod template;
