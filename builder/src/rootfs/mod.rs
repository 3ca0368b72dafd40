//! The root tree, made of layers: each is a folder of what one step added to those below it.
//!
//! ```text
//! base                essential packages, the recipe's, engine      } real packages, configured by the
//! identity-service    aziot-identity-service                        } tree's own dpkg, in this order:
//! edge                aziot-edge                                    } each needs the one before configured
//! initramfs           board's module list, /boot/initrd.img-*
//! images              the engine's store with preloaded images: no key of it depends on a layer below
//! files               overlays, config.toml, account, fstab, grub.cfg, preloaded images
//! ```
//!
//! A layer is made inside a [`crate::sandbox`], in a staging folder of the store, and renamed into place when it is
//! whole. Reading one means stacking it on those below with overlayfs.

pub(crate) mod accounts;
pub(crate) mod clean;
mod credentials;
pub(crate) mod engine_store;
mod extract;
pub(crate) mod files;
pub(crate) mod guard;
pub(crate) mod guard_rules;
pub(crate) mod images;
pub(crate) mod initramfs;
pub(crate) mod layer;
#[cfg(test)]
mod links_tests;
mod login;
pub(crate) mod names;
pub(crate) mod order;
pub(crate) mod package_keys;
mod packaged;
pub(crate) mod packages;
mod scripts;
pub(crate) mod secrets;
pub(crate) mod sync;
mod zone;
