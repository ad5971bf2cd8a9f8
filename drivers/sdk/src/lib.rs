//! How to write a driver for vgemd: implement [`Engine`], call [`serve`] from `main`.
//!
//! ```no_run
//! # use vgem_driver::{Engine, JobError, Task};
//! # use vgem_proto::describe::{Description, Direction, Operation, Touch};
//! struct Null;
//!
//! impl Engine for Null {
//!     fn description(&self) -> Description {
//!         let touch = Operation::new(0, "touch", "does nothing to its operand")
//!             .operand("data", Direction::InOut, Touch::InPlace)
//!             .with_result("nothing");
//!         Description::new("null", "a device that does nothing", 1).operation(touch)
//!     }
//!
//!     fn run(&self, _task: &mut Task<'_>) -> Result<(), JobError> {
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     vgem_driver::serve(|_options| Ok(Null))
//! }
//! ```
//!
//! What a driver is and is not: it runs commands on memory it was given. It knows nothing of clients, rights,
//! quotas or lifetimes; it waits for fences and signals its own, but the SDK does both.
//!
//! | module | what |
//! |---|---|
//! | [`engine`] | what an engine implements and sees |
//! | [`window`] | private pieces of operands |
//! | [`scratch`] | private memory as long as an operand |
//! | [`mapping`] | operands where they lie, and private memory beside them |
//! | [`local`] | an engine in the process that wants its work done |
//! | [`testing`] | what an engine's own tests need |
//! | `schedule` | which job may run now, and which goes next |
//! | `timeline` | a timeline and the slots that show it |
//! | `instance` | control thread, executors, how they sleep |
//! | `platform` | what those threads stand on, here and in a model |
//! | `execute`, `operands` | one job from claim to signal |
//! | `objects` | the mappings, and how they leave |
//! | `outbox` | causes and completions |
//! | `user` | rings of user queues: work that the broker does not see |
//! | `serve` | command line and link |
#![forbid(unsafe_code)]

pub mod engine;
mod execute;
mod instance;
pub mod local;
mod objects;
mod operands;
mod options;
mod outbox;
mod platform;
mod schedule;
pub mod scratch;
mod serve;
pub mod testing;
mod timeline;
mod user;
pub mod window;

pub use engine::{Engine, JobError, Needs, OperandBytes, ParamValue, Produced, Staging, Task, TaskOperand};
pub use options::{BadOptions, Options};
pub use serve::{LINK_FD, serve};
pub use vgem_os::mapping;
pub use vgem_os::mapping::{Span, SpanMut};
pub use vgem_proto as proto;
