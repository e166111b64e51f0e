//! Leader election by a Lease: only one controller grants slots.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// Name of the Lease.
pub const NAME: &str = "netwright-controller";
/// A leader that was not heard of for this long is gone.
const DURATION: i32 = 15;
const RENEW: Duration = Duration::from_secs(5);
const CALL: Duration = Duration::from_secs(4);

/// Holds or waits for the Lease.
pub struct Elector {
    api: Api<Lease>,
    identity: String,
}

impl Elector {
    /// For the Lease in this namespace.
    pub fn new(client: Client, namespace: &str, identity: &str) -> Self {
        Elector {
            api: Api::namespaced(client, namespace),
            identity: identity.to_owned(),
        }
    }

    /// Returns once we are the leader.
    pub async fn lead(&self) {
        loop {
            match self.take().await {
                Ok(true) => {
                    info!(phase = "lead", "{} leads", self.identity);
                    return;
                }
                Ok(false) => {}
                Err(e) => warn!(phase = "lead", "the lease cannot be had: {e:#}"),
            }
            sleep(RENEW / 2).await;
        }
    }

    /// Returns when we are not the leader any more.
    pub async fn keep(&self) {
        let mut last = tokio::time::Instant::now();
        while last.elapsed() < Duration::from_secs(DURATION.unsigned_abs().into()) {
            sleep(RENEW).await;
            match self.take().await {
                Ok(true) => last = tokio::time::Instant::now(),
                Ok(false) => return,
                Err(e) => warn!(phase = "lead", "the lease cannot be renewed: {e:#}"),
            }
        }
    }

    /// Takes or renews it; false where another one holds it. The resource version keeps two from taking it at once.
    async fn take(&self) -> anyhow::Result<bool> {
        let now = Timestamp::now();
        let Some(mut lease) = timeout(CALL, self.api.get_opt(NAME)).await?? else {
            let fresh = Lease {
                metadata: ObjectMeta {
                    name: Some(NAME.into()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.spec(now, 0)),
            };
            return conflict(timeout(CALL, self.api.create(&PostParams::default(), &fresh)).await?);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let ours = spec.holder_identity.as_deref() == Some(self.identity.as_str());
        let seconds = spec.lease_duration_seconds.unwrap_or(DURATION);
        let end = spec.renew_time.map(|t| t.0 + SignedDuration::from_secs(seconds.into()));
        let released = spec.holder_identity.as_deref().is_none_or(str::is_empty);
        if !ours && !released && end.is_some_and(|end| end > now) {
            return Ok(false);
        }
        let mut wanted = self.spec(now, spec.lease_transitions.unwrap_or(0) + i32::from(!ours));
        if ours {
            wanted.acquire_time = spec.acquire_time;
        }
        lease.spec = Some(wanted);
        conflict(timeout(CALL, self.api.replace(NAME, &PostParams::default(), &lease)).await?)
    }

    /// Gives it up, so that the next one need not wait.
    pub async fn release(&self) {
        if let Ok(Ok(Some(mut lease))) = timeout(CALL, self.api.get_opt(NAME)).await
            && let Some(spec) = lease
                .spec
                .as_mut()
                .filter(|s| s.holder_identity.as_deref() == Some(self.identity.as_str()))
        {
            spec.holder_identity = Some(String::new());
            let _ = timeout(CALL, self.api.replace(NAME, &PostParams::default(), &lease)).await;
        }
    }

    fn spec(&self, now: Timestamp, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION),
            acquire_time: Some(MicroTime(now)),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

fn conflict(answer: Result<Lease, kube::Error>) -> anyhow::Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(e)) if e.code == 409 => Ok(false),
        Err(e) => Err(e.into()),
    }
}
