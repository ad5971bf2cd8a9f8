//! The verbs, one file each.

pub(crate) mod bench;
pub(crate) mod doctor;
pub(crate) mod domain;
pub(crate) mod dump;
pub(crate) mod ended;
pub(crate) mod explain;
pub(crate) mod files;
pub(crate) mod help;
pub(crate) mod list;
pub(crate) mod monitor;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod show;
pub(crate) mod status;
pub(crate) mod top;
pub(crate) mod trace;
pub(crate) mod who;
pub(crate) mod why;
