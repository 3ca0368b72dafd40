//! Work in namespaces of its own: user, mount, pid, ipc, uts and network, without root and without a trace on the host.
//!
//! ```text
//! edgepress build                      the verb; ordinary user or root
//!  └─ edgepress sandbox (hidden verb)  unshares; the parent writes its uid and gid map
//!      └─ edgepress sandbox --inner    pid 1 of the new pid namespace: runs one Job, answers in JSON lines
//! ```
//!
//! When the verb dies the kernel kills pid 1, and with it everything that the job had started.
