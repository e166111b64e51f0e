//! One controller at a time: whoever holds a Lease works, the others wait for it to run out.

use std::time::Duration;

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::clock;

const DURATION: Duration = Duration::from_secs(15);
const RENEW: Duration = Duration::from_secs(5);
/// How often those that wait look.
const LOOK: Duration = Duration::from_secs(2);
/// Pause before a renewal that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// So long after we sent the last renewal that went well we stop, before others may start.
const GIVE_UP: Duration = Duration::from_secs(12);
const CALL: Duration = Duration::from_secs(4);

/// Our part in the election.
#[derive(Debug)]
pub struct Election {
    api: Api<Lease>,
    name: String,
    namespace: String,
    identity: String,
}

/// The Lease as somebody else left it, and when we first saw it so. Their clock does not matter.
struct Seen {
    version: Option<String>,
    since: Instant,
}

impl Election {
    /// Takes part in the election for the Lease of this name.
    pub fn new(client: Client, name: &str, namespace: &str, identity: &str) -> Self {
        Election {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            identity: identity.to_owned(),
        }
    }

    /// Returns when we lead: since when, at the earliest.
    pub async fn win(&self) -> Instant {
        let mut seen: Option<Seen> = None;
        let mut told = String::new();
        loop {
            let asked = Instant::now();
            match self.try_to_win(&mut seen).await {
                // ready to lead, or to follow
                Ok(won) => {
                    crate::serve::health().ready();
                    if won {
                        return asked;
                    }
                    told.clear();
                }
                Err(e) => {
                    let why = crate::error::chain(e.as_ref());
                    // once, not at every try
                    if why != told {
                        tracing::warn!(phase = "lead", "leader election: {why}");
                        told = why;
                    }
                }
            }
            sleep(LOOK).await;
        }
    }

    async fn try_to_win(&self, seen: &mut Option<Seen>) -> anyhow::Result<bool> {
        let Some(lease) = self.get().await? else {
            return self.write(None).await;
        };
        let holder = holder(&lease);
        if holder.is_empty() || holder == self.identity {
            return self.write(Some(lease)).await;
        }
        let version = lease.metadata.resource_version.clone();
        match seen {
            Some(seen) if seen.version == version => {
                if seen.since.elapsed() >= DURATION {
                    return self.write(Some(lease)).await;
                }
            }
            _ => {
                if seen.is_none() {
                    tracing::info!("{holder} leads; waiting");
                }
                *seen = Some(Seen {
                    version,
                    since: Instant::now(),
                });
            }
        }
        Ok(false)
    }

    /// Renews for as long as we lead, which began at `renewed`; returns why we do not any more.
    pub async fn hold(&self, mut renewed: Instant) -> anyhow::Error {
        let mut pause = RENEW;
        let mut failed = anyhow!("no answer");
        loop {
            let end = renewed + GIVE_UP;
            let asked = Instant::now() + pause;
            let tried = timeout_at(end, async {
                sleep(pause).await;
                self.renew().await
            });
            match tried.await {
                Err(_) => return failed.context("lost the lease"),
                Ok(Ok(None)) => (renewed, pause) = (asked, RENEW),
                Ok(Ok(Some(other))) => return anyhow!("lost the lease: {other} leads now"),
                Ok(Err(e)) => {
                    tracing::warn!("renewing the lease: {}", crate::error::chain(e.as_ref()));
                    (failed, pause) = (e, AGAIN);
                }
            }
        }
    }

    /// Gives who leads in our place, if somebody does.
    async fn renew(&self) -> anyhow::Result<Option<String>> {
        let lease = self.get().await?.context("the lease is gone")?;
        if holder(&lease) != self.identity {
            return Ok(Some(holder(&lease).to_owned()));
        }
        self.write(Some(lease))
            .await?
            .then_some(())
            .context("somebody else wrote it")?;
        Ok(None)
    }

    /// Lets go, so that another one need not wait for the end.
    pub async fn release(&self) {
        let ours = |lease: &Lease| holder(lease) == self.identity;
        if let Ok(Some(mut lease)) = self.get().await
            && ours(&lease)
        {
            lease.spec.get_or_insert_default().holder_identity = None;
            let params = PostParams::default();
            // it runs out by itself otherwise
            let _ = timeout(CALL, self.api.replace(&self.name, &params, &lease)).await;
        }
    }

    async fn get(&self) -> anyhow::Result<Option<Lease>> {
        let answer = timeout(CALL, self.api.get_opt(&self.name)).await.context("no answer")?;
        answer.with_context(|| format!("reading lease {} in namespace {}", self.name, self.namespace))
    }

    /// Writes us into it; false if somebody else was quicker.
    async fn write(&self, lease: Option<Lease>) -> anyhow::Result<bool> {
        let create = lease.is_none();
        let mut lease = lease.unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let spec = lease.spec.get_or_insert_default();
        take(spec, &self.identity, clock::now());
        let params = PostParams::default();
        let written = async {
            match create {
                true => self.api.create(&params, &lease).await,
                false => self.api.replace(&self.name, &params, &lease).await,
            }
        };
        match timeout(CALL, written).await.context("no answer")? {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(e) => Err(e).with_context(|| format!("writing lease {} in namespace {}", self.name, self.namespace)),
        }
    }
}

fn holder(lease: &Lease) -> &str {
    lease
        .spec
        .as_ref()
        .and_then(|spec| spec.holder_identity.as_deref())
        .unwrap_or("")
}

fn take(spec: &mut LeaseSpec, identity: &str, now: Timestamp) {
    if spec.holder_identity.as_deref() != Some(identity) {
        spec.holder_identity = Some(identity.to_owned());
        spec.acquire_time = Some(MicroTime(now));
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(-1) + 1);
    }
    spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
    spec.renew_time = Some(MicroTime(now));
}
