//! The load tester: see [`args`] for what it can be asked.

pub mod args;
pub mod book;
pub mod calls;
pub mod check;
pub mod html;
pub mod machine;
pub mod mix;
pub mod own;
pub mod plot;
pub mod progress;
pub mod record;
pub mod report;
pub mod run;
pub mod session;
pub mod shape;
pub mod table;
pub mod text;
