//! How a device presents itself to Azure: `config.toml` of the runtime, and a linter that knows its traps.

pub(crate) mod apart;
pub(crate) mod config;
pub(crate) mod device;
pub mod lint;
pub(crate) mod room;
pub(crate) mod source;
pub(crate) mod template;
