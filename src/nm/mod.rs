//! nm
