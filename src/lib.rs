//! netwright: the network of Kubernetes nodes under `kubectl`.
//!
//! ```text
//!  kube / file / stdin                                                            NNS, NNCE, NNCP, exit code
//!         │                                                                                  ▲
//!         ├─► capture ─┐                                                                     │
//!         └────────────┴─► state (parse) ─► plan ─► Plan ─► transaction ─► Report ─► agent / controller / cli
//!                ▲                           ▲                │   ▲
//!                └───────────────────────────┤                │   └── probe
//!    kernel, nm ─► facts ─► state (render) ─► Observation     │
//!         ▲                                                   ▼
//!         └─────────────────────────────────────────────────  host (checkpoint, execute, commit, rollback)
//! ```
//!
//! `error`, `scalar`, `facts`, `profile`, `state`, `observation`, `step`, `capture`, `plan` and `api` are pure: no clock, no file, no `.await`.
//! None of them knows `host`.

pub mod admission;
pub mod agent;
pub mod api;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod controller;
pub mod error;
pub mod facts;
#[doc(hidden)]
pub mod fuzz;
pub mod host;
pub mod installer;
pub mod journal;
pub mod kernel;
pub mod log;
pub mod metrics;
pub mod nm;
pub mod observation;
pub mod ovs;
pub mod plan;
pub mod probe;
pub mod profile;
pub mod scalar;
pub mod serve;
pub mod state;
pub mod step;
pub mod transaction;
pub mod yaml;
