//! The live view: what is seen, how it is drawn, and on what.
//!
//! ```text
//!   Sight, Sight ──► View ──► a frame on the screen, its text, or JSON
//!   two looks at the broker   numbers per second
//! ```

pub(crate) mod draw;
pub(crate) mod screen;
pub(crate) mod view;
