//! What any interface may carry besides its type's own sections.

pub mod ip;
