//! Keeps authority and certificate in a Secret that all replicas share, and the bundle in the webhook configurations. Who sees first that something is
//! due makes it; the others find the Secret changed.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::due::{Knobs, Step, due};
use super::{Pair, issue};
use crate::agent::watch::events;

const CALL: Duration = Duration::from_secs(10);
/// Pause before what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// A clock may jump, and events may be lost: the longest time between two looks.
const LOOK: Duration = Duration::from_secs(600);

/// What to keep, and where.
#[derive(Debug, Clone)]
pub struct Keeping {
    /// Of the Secret.
    pub namespace: String,
    /// Name of the Secret.
    pub secret: String,
    /// Name of both webhook configurations.
    pub configuration: String,
    /// Names under which the apiserver calls us.
    pub names: Vec<String>,
    /// How long all of it lives.
    pub knobs: Knobs,
}

/// What is in the Secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Kept {
    /// Certificates of the authorities, newest first, in PEM.
    authorities: Vec<String>,
    /// Key of the newest.
    authority_key: String,
    serving: Option<Pair>,
}

impl Kept {
    fn read(secret: &Secret) -> Self {
        let text = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|d| d.get(key));
            bytes
                .map(|b| String::from_utf8_lossy(&b.0).into_owned())
                .unwrap_or_default()
        };
        let (certificate, key) = (text("tls.crt"), text("tls.key"));
        Kept {
            authorities: issue::blocks(&text("ca.crt")),
            authority_key: text("ca.key"),
            serving: (!certificate.is_empty()).then_some(Pair { certificate, key }),
        }
    }

    fn data(&self) -> BTreeMap<String, ByteString> {
        let serving = self.serving.clone().unwrap_or(Pair {
            certificate: String::new(),
            key: String::new(),
        });
        let all = [
            ("ca.crt", self.bundle()),
            ("ca.key", self.authority_key.clone()),
            ("tls.crt", serving.certificate),
            ("tls.key", serving.key),
        ];
        all.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())))
            .into()
    }

    fn bundle(&self) -> String {
        self.authorities.concat()
    }

    /// Without what cannot be used: damaged by hand, or by whoever restored it.
    fn usable(mut self, names: &[String], now: Timestamp) -> Self {
        self.authorities.retain(|pem| issue::validity(pem).is_ok());
        let newest = self.authorities.first().cloned().unwrap_or_default();
        let authority = Pair {
            certificate: newest,
            key: self.authority_key.clone(),
        };
        if issue::matches(&authority).is_err() {
            self.authorities.clear();
        }
        let bundle = self.bundle();
        self.serving = self
            .serving
            .filter(|pair| issue::sound(pair, &bundle, names, now).is_ok());
        self
    }

    /// What is due now.
    fn due(&self, now: Timestamp, knobs: &Knobs) -> anyhow::Result<Step> {
        let authorities = self.authorities.iter().map(|pem| issue::validity(pem));
        let serving = self.serving.as_ref().map(|pair| issue::validity(&pair.certificate));
        Ok(due(
            now,
            &authorities.collect::<anyhow::Result<Vec<_>>>()?,
            serving.transpose()?,
            knobs,
        ))
    }

    /// Does it.
    fn after(mut self, step: Step, keeping: &Keeping, now: Timestamp) -> anyhow::Result<Self> {
        let alive = |pem: &String| issue::validity(pem).is_ok_and(|v| v.until > now);
        self.authorities.retain(alive);
        match step {
            Step::Authority => {
                let made = issue::authority(now, now + keeping.knobs.ca_rotate)?;
                self.authorities.insert(0, made.certificate);
                self.authority_key = made.key;
            }
            Step::Serving => {
                let certificate = self.authorities.first().context("there is no authority")?.clone();
                let until = (now + keeping.knobs.cert_rotate).min(issue::validity(&certificate)?.until);
                let by = Pair {
                    certificate,
                    key: self.authority_key.clone(),
                };
                self.serving = Some(issue::serving(&by, &keeping.names, now, until)?);
            }
            Step::Prune | Step::Wait(_) => {}
        }
        Ok(self)
    }
}

/// Keeps them for ever; tells `serve` of each certificate that is to be shown. What goes wrong is told and tried again.
pub async fn run(client: Client, keeping: Keeping, serve: watch::Sender<Option<Pair>>) {
    let keeper = Keeper {
        secrets: Api::namespaced(client.clone(), &keeping.namespace),
        validating: Api::all(client.clone()),
        mutating: Api::all(client),
        keeping,
        serve,
    };
    let (secret, configuration) = (&keeper.keeping.secret, &keeper.keeping.configuration);
    let changes = stream::select_all([
        changes(&keeper.secrets, secret),
        changes(&keeper.validating, configuration),
        changes(&keeper.mutating, configuration),
    ]);
    let mut changes = std::pin::pin!(changes.ready_chunks(64));
    let mut told = String::new();
    loop {
        let next = match keeper.look().await {
            Ok(next) => {
                told.clear();
                next
            }
            Err(e) => {
                let why = crate::error::chain(e.as_ref());
                if why != told {
                    tracing::warn!(phase = "webhook", "{why}");
                    told = why;
                }
                Instant::now() + RETRY
            }
        };
        tokio::select! {
            _ = changes.next() => {}
            () = sleep_until(next) => {}
        }
    }
}

/// Something happened to the object of this name.
fn changes<K>(api: &Api<K>, name: &str) -> stream::BoxStream<'static, ()>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let config = watcher::Config::default()
        .fields(&format!("metadata.name={name}"))
        .any_semantic();
    let told = |event: Event<K>| async move { (!matches!(event, Event::Init | Event::InitApply(_))).then_some(()) };
    events(api.clone(), config).filter_map(told).boxed()
}

struct Keeper {
    secrets: Api<Secret>,
    validating: Api<ValidatingWebhookConfiguration>,
    mutating: Api<MutatingWebhookConfiguration>,
    keeping: Keeping,
    serve: watch::Sender<Option<Pair>>,
}

impl Keeper {
    /// One step of what is due, and everybody told of what there is. Returns when to look again.
    async fn look(&self) -> anyhow::Result<Instant> {
        let secret = timeout(CALL, self.secrets.get_opt(&self.keeping.secret))
            .await
            .context("no answer")?;
        let secret = secret.with_context(|| format!("reading Secret {}", self.keeping.secret))?;
        let now = Timestamp::now();
        let kept = secret.as_ref().map(Kept::read).unwrap_or_default();
        let kept = kept.usable(&self.keeping.names, now);
        let step = kept.due(now, &self.keeping.knobs)?;
        if let Step::Wait(then) = step {
            self.publish(&kept).await?;
            let left = Duration::try_from(then.duration_since(now)).unwrap_or_default();
            return Ok(Instant::now() + left.min(LOOK));
        }
        // the apiserver must know an authority before it meets one of its certificates
        self.publish(&kept).await?;
        let kept = kept.after(step, &self.keeping, now)?;
        if self.write(secret, &kept).await? {
            tracing::info!(phase = "webhook", "certificates: {step:?}");
        }
        Ok(Instant::now())
    }

    /// False if somebody else was quicker.
    async fn write(&self, secret: Option<Secret>, kept: &Kept) -> anyhow::Result<bool> {
        let create = secret.is_none();
        let mut secret = secret.unwrap_or_else(|| Secret {
            metadata: ObjectMeta {
                name: Some(self.keeping.secret.clone()),
                labels: Some([("app.kubernetes.io/name".to_owned(), "netwright".to_owned())].into()),
                ..ObjectMeta::default()
            },
            ..Secret::default()
        });
        secret.data = Some(kept.data());
        let params = PostParams::default();
        let written = async {
            match create {
                true => self.secrets.create(&params, &secret).await,
                false => self.secrets.replace(&self.keeping.secret, &params, &secret).await,
            }
        };
        match timeout(CALL, written).await.context("no answer")? {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(e) => Err(e).with_context(|| format!("writing Secret {}", self.keeping.secret)),
        }
    }

    async fn publish(&self, kept: &Kept) -> anyhow::Result<()> {
        if kept.authorities.is_empty() {
            return Ok(());
        }
        let bundle = kept.bundle();
        trusted(&self.validating, &self.keeping.configuration, &bundle).await?;
        trusted(&self.mutating, &self.keeping.configuration, &bundle).await?;
        if let Some(pair) = &kept.serving {
            self.serve.send_if_modified(|shown| {
                let new = shown.as_ref() != Some(pair);
                if new {
                    *shown = Some(pair.clone());
                }
                new
            });
        }
        Ok(())
    }
}

/// Writes the bundle into each webhook that has another one. A configuration that is not there needs none.
async fn trusted<K>(api: &Api<K>, name: &str, bundle: &str) -> anyhow::Result<()>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
    K::DynamicType: Default,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let read = timeout(CALL, api.get_opt(name)).await.context("no answer")?;
    let Some(object) = read.with_context(|| format!("reading {kind} {name}"))? else {
        return Ok(());
    };
    let patch = bundle_patch(&serde_json::to_value(&object)?, bundle);
    if patch.is_empty() {
        return Ok(());
    }
    let patch: json_patch::Patch = serde_json::from_value(Value::Array(patch))?;
    let params = PatchParams::default();
    let written = timeout(CALL, api.patch(name, &params, &Patch::<K>::Json(patch)))
        .await
        .context("no answer")?;
    written.with_context(|| format!("writing the CA bundle into {kind} {name}"))?;
    Ok(())
}

/// Each webhook keeps its place while it is patched: the names are tested.
fn bundle_patch(configuration: &Value, bundle: &str) -> Vec<Value> {
    let encoded = serde_json::to_value(ByteString(bundle.as_bytes().to_vec())).unwrap_or_default();
    let webhooks = configuration["webhooks"].as_array();
    let old = webhooks.into_iter().flatten().enumerate();
    let stale = old.filter(|(_, webhook)| webhook["clientConfig"]["caBundle"] != encoded);
    stale
        .flat_map(|(i, webhook)| {
            [
                json!({"op": "test", "path": format!("/webhooks/{i}/name"), "value": webhook["name"]}),
                json!({"op": "add", "path": format!("/webhooks/{i}/clientConfig/caBundle"), "value": encoded}),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    fn keeping() -> Keeping {
        let seconds = SignedDuration::from_secs;
        Keeping {
            namespace: "nmstate".into(),
            secret: "s".into(),
            configuration: "c".into(),
            names: vec!["netwright-webhook.nmstate.svc".into()],
            knobs: Knobs {
                ca_rotate: seconds(100),
                ca_overlap: seconds(20),
                cert_rotate: seconds(50),
                cert_overlap: seconds(10),
            },
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    /// Steps until there is nothing to do.
    fn settled(mut kept: Kept, now: Timestamp) -> (Kept, Vec<Step>) {
        let (keeping, mut steps) = (keeping(), vec![]);
        loop {
            kept = kept.usable(&keeping.names, now);
            match kept.due(now, &keeping.knobs).unwrap() {
                Step::Wait(_) => return (kept, steps),
                step => steps.push(step),
            }
            assert!(steps.len() < 10, "{steps:?}");
            kept = kept.after(steps[steps.len() - 1], &keeping, now).unwrap();
        }
    }

    #[test]
    fn through_a_rotation_with_real_certificates() {
        let (first, steps) = settled(Kept::default(), at(0));
        assert_eq!(steps, [Step::Authority, Step::Serving]);
        let secret = Secret {
            data: Some(first.data()),
            ..Secret::default()
        };
        assert_eq!(Kept::read(&secret), first);
        let (second, steps) = settled(first.clone(), at(45));
        assert_eq!((steps, second.authorities.len()), (vec![Step::Serving], 1));
        // the authority is renewed, the certificate only when that has settled
        let (third, steps) = settled(second.clone(), at(80));
        assert_eq!((steps, third.authorities.len()), (vec![Step::Authority], 2));
        assert_eq!(third.serving, second.serving);
        let (fourth, steps) = settled(third, at(86));
        assert_eq!((steps, fourth.authorities.len()), (vec![Step::Serving], 2));
        let (fifth, steps) = settled(fourth.clone(), at(101));
        assert_eq!((steps, fifth.authorities.len()), (vec![Step::Prune], 1));
        assert_eq!(fifth.serving, fourth.serving);
    }

    #[test]
    fn what_was_damaged_is_made_anew() {
        let (whole, _) = settled(Kept::default(), at(0));
        let damaged = [
            Kept {
                authority_key: "x".into(),
                ..whole.clone()
            },
            Kept {
                authorities: vec!["x".into()],
                ..whole.clone()
            },
            Kept {
                serving: None,
                ..whole.clone()
            },
            Kept {
                authorities: settled(Kept::default(), at(0)).0.authorities,
                ..whole.clone()
            },
        ];
        for kept in damaged {
            let (mended, steps) = settled(kept, at(1));
            assert!(!steps.is_empty());
            let pair = mended.serving.as_ref().unwrap();
            issue::sound(pair, &mended.bundle(), &keeping().names, at(1)).unwrap();
        }
    }

    #[test]
    fn only_what_differs_is_patched() {
        let hook = |name: &str, bundle: &str| json!({"name": name, "clientConfig": {"caBundle": serde_json::to_value(ByteString(bundle.into())).unwrap()}});
        let configuration =
            json!({"webhooks": [hook("a", "new"), hook("b", "old"), {"name": "c", "clientConfig": {}}]});
        let paths: Vec<String> = bundle_patch(&configuration, "new")
            .iter()
            .filter(|p| p["op"] == "add")
            .map(|p| p["path"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            paths,
            ["/webhooks/1/clientConfig/caBundle", "/webhooks/2/clientConfig/caBundle"]
        );
        assert!(bundle_patch(&json!({}), "new").is_empty());
    }
}
