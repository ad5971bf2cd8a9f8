//! The words two vgem processes agree on.
#![forbid(unsafe_code)]

pub mod layout;
