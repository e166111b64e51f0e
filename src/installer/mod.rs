//! `netwright controller --install`: an NMState object leads to agents, controller, rights and webhook; deleting it removes them.
//!
//! `manifests` says which objects, `status` how they stand; this file writes. All of them have the NMState as owner, so that the cluster's garbage
//! collector removes them even if we are not there; where we are, we do not wait for it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, Preconditions};
use kube::runtime::events::{Event as Told, EventType, Recorder, Reporter};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout};

use crate::agent::watch::events;
use crate::api::nmstate::NMStateStatus;
use crate::api::{NMState, condition, crds};

pub mod manifests;
pub mod status;

use manifests::{Image, Install, objects, predecessors, stands};
use status::Standing;

/// The name under which kubernetes-nmstate owns fields.
const FIELD_MANAGER: &str = "nmstate-operator";
const CALL: Duration = Duration::from_secs(10);
/// Pause before what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Objects that are not watched are looked at this often.
const LOOK: Duration = Duration::from_secs(600);
/// What the controller makes for itself.
const LEFT_BEHIND: [(&str, &str); 2] = [("Secret", "netwright-webhook"), ("Lease", crate::controller::LEASE)];

enum Change {
    NMState(Box<Event<NMState>>),
    Workload,
}

/// Installs for ever what the cluster's NMState says. `image` None is the image that we run ourselves.
pub async fn run(client: Client, namespace: &str, pod: &str, image: Option<String>) -> anyhow::Result<()> {
    let mut installer = Installer {
        wishes: Api::all(client.clone()),
        recorder: Recorder::new(
            client.clone(),
            Reporter {
                controller: "netwright-installer".to_owned(),
                instance: Some(pod.to_owned()),
            },
        ),
        client: client.clone(),
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        image,
        known: BTreeMap::new(),
        listing: None,
        gone: vec![],
        succeeded: None,
    };
    // those that watch NMStates need its definition
    while let Err(e) = installer.definitions().await {
        tracing::warn!(phase = "install", "{}", crate::error::chain(e.as_ref()));
        tokio::time::sleep(RETRY).await;
    }
    let ours = || {
        watcher::Config::default()
            .labels("app.kubernetes.io/name=netwright")
            .any_semantic()
    };
    let daemon_sets = Api::<DaemonSet>::namespaced(client.clone(), namespace);
    let deployments = Api::<Deployment>::namespaced(client, namespace);
    let changes = stream::select_all([
        events(installer.wishes.clone(), watcher::Config::default())
            .map(|event| Change::NMState(Box::new(event)))
            .boxed(),
        events(daemon_sets, ours()).map(|_| Change::Workload).boxed(),
        events(deployments, ours()).map(|_| Change::Workload).boxed(),
    ]);
    let mut changes = std::pin::pin!(changes.ready_chunks(256));
    let mut next = None;
    loop {
        tokio::select! {
            some = changes.next() => some.context("the watches ended")?.into_iter().for_each(|c| installer.learn(c)),
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
        next = Some(Instant::now() + installer.work().await);
    }
}

struct Installer {
    client: Client,
    wishes: Api<NMState>,
    recorder: Recorder,
    namespace: String,
    pod: String,
    image: Option<String>,
    known: BTreeMap<String, NMState>,
    /// A list that is being read.
    listing: Option<BTreeMap<String, NMState>>,
    /// NMStates whose objects are to be removed.
    gone: Vec<NMState>,
    /// `metadata.uid` of the NMState of which we have removed what kubernetes-nmstate made.
    succeeded: Option<String>,
}

impl Installer {
    fn learn(&mut self, change: Change) {
        let Change::NMState(event) = change else { return };
        match *event {
            Event::Init => self.listing = Some(BTreeMap::new()),
            Event::InitApply(wish) => {
                self.listing.get_or_insert_default().insert(wish.name_any(), wish);
            }
            Event::InitDone => {
                let now = self.listing.take().unwrap_or_default();
                for (name, before) in std::mem::replace(&mut self.known, now) {
                    let same = self.known.get(&name).is_some_and(|wish| wish.uid() == before.uid());
                    self.gone.extend((!same).then_some(before));
                }
            }
            Event::Apply(wish) => {
                let before = self.known.insert(wish.name_any(), wish.clone());
                self.gone.extend(before.filter(|before| before.uid() != wish.uid()));
            }
            Event::Delete(wish) => {
                self.known.remove(&wish.name_any());
                self.gone.push(wish);
            }
        }
    }

    /// All that follows from what is known. Returns the pause until it is looked at again.
    async fn work(&mut self) -> Duration {
        if self.listing.is_some() {
            return LOOK;
        }
        let mut pause = LOOK;
        for wish in std::mem::take(&mut self.gone) {
            if let Err(e) = self.remove(&wish).await {
                tracing::warn!(
                    phase = "install",
                    "removing what {} installed: {}",
                    wish.name_any(),
                    crate::error::chain(e.as_ref())
                );
                self.gone.push(wish);
                pause = RETRY;
            }
        }
        let Some((wish, others)) = chosen(&self.known) else {
            return pause;
        };
        let (wish, others): (NMState, Vec<NMState>) = (wish.clone(), others.into_iter().cloned().collect());
        for other in others {
            if let Err(e) = self.refuse(&other, &wish).await {
                tracing::warn!(
                    phase = "install",
                    "deleting NMState {}: {}",
                    other.name_any(),
                    crate::error::chain(e.as_ref())
                );
                pause = RETRY;
            }
        }
        let standing = match self.install(&wish).await {
            Ok(standing) => standing,
            Err(e) => {
                pause = RETRY;
                Standing::Failed(why(&e))
            }
        };
        if !matches!(standing, Standing::Failed(_))
            && let Err(e) = self.succeed(&wish).await
        {
            tracing::warn!(phase = "install", "{}", crate::error::chain(e.as_ref()));
            pause = RETRY;
        }
        if let Err(e) = self.report(&wish, &standing).await {
            tracing::warn!(phase = "install", "{}", crate::error::chain(e.as_ref()));
            pause = RETRY;
        }
        pause
    }

    async fn definitions(&self) -> anyhow::Result<()> {
        for crd in crds() {
            self.apply(&serde_json::to_value(&crd)?).await?;
        }
        Ok(())
    }

    async fn install(&self, wish: &NMState) -> anyhow::Result<Standing> {
        let image = self.image().await?;
        let install = Install {
            spec: &wish.spec,
            namespace: &self.namespace,
            image: &image,
            owner: owner(wish),
        };
        let mut workloads = vec![];
        let mut first = None;
        for object in objects(&install).map_err(anyhow::Error::msg)? {
            match self.apply(&object).await {
                Ok(live) if matches!(object["kind"].as_str(), Some("DaemonSet" | "Deployment")) => {
                    workloads.extend(live)
                }
                Ok(_) => {}
                // a wish that cannot be keeps nothing else from being there
                Err(e) => first = first.or(Some(e)),
            }
        }
        match first {
            Some(e) => Err(e),
            None => Ok(status::standing(&workloads)),
        }
    }

    /// Removes what kubernetes-nmstate made for this NMState, once: where its operator still runs it makes it again.
    async fn succeed(&mut self, wish: &NMState) -> anyhow::Result<()> {
        if self.succeeded == wish.uid() {
            return Ok(());
        }
        for object in predecessors(&self.namespace) {
            let what = what(&object);
            if self
                .delete(&object, wish)
                .await
                .with_context(|| format!("deleting {what}"))?
            {
                tracing::info!(phase = "install", "{what} of kubernetes-nmstate removed");
            }
        }
        self.succeeded = wish.uid();
        Ok(())
    }

    /// The image of our own pod, and how it is pulled.
    async fn image(&self) -> anyhow::Result<Image> {
        if self.image.is_some() {
            return Ok(Image {
                name: self.image.clone(),
                ..Image::default()
            });
        }
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let pod = timeout(CALL, pods.get_opt(&self.pod)).await.context("no answer")?;
        let pod = pod.with_context(|| format!("reading our own pod {}", self.pod))?;
        let Some(spec) = pod.and_then(|pod| pod.spec) else {
            return Ok(Image::default());
        };
        let secrets = spec.image_pull_secrets.into_iter().flatten().map(|s| s.name);
        let container = spec.containers.into_iter().next();
        Ok(Image {
            pull_policy: container.as_ref().and_then(|c| c.image_pull_policy.clone()),
            name: container.and_then(|c| c.image),
            pull_secrets: secrets.collect(),
        })
    }

    fn api(&self, object: &Value) -> anyhow::Result<Api<DynamicObject>> {
        let text = |key: &str| object[key].as_str().unwrap_or_default();
        let (group, version) = text("apiVersion").rsplit_once('/').unwrap_or(("", text("apiVersion")));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("kind")));
        Ok(match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        })
    }

    /// Makes the object so, unless it is; what stands then. An apiserver that does not know such objects does without.
    async fn apply(&self, want: &Value) -> anyhow::Result<Option<Value>> {
        let what = what(want);
        let (api, name) = (self.api(want)?, name(want));
        let live = timeout(CALL, api.get_opt(name)).await.context("no answer")?;
        let live = live.with_context(|| format!("reading {what}"))?;
        let live = live.map(serde_json::to_value).transpose()?;
        if let Some(live) = live.filter(|live| stands(want, live)) {
            return Ok(Some(live));
        }
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let written = timeout(CALL, api.patch(name, &params, &Patch::Apply(want)))
            .await
            .context("no answer")?;
        match written {
            Ok(live) => {
                tracing::info!(phase = "install", "{what} applied");
                Ok(Some(serde_json::to_value(live)?))
            }
            Err(kube::Error::Api(status)) if status.code == 404 && status.details.is_none() => {
                tracing::warn!(phase = "install", "this apiserver knows no {}: left out", want["kind"]);
                Ok(None)
            }
            Err(e) => Err(e).with_context(|| format!("applying {what}")),
        }
    }

    /// Deletes what this NMState owns, last made first, and what the controller made for itself.
    async fn remove(&self, wish: &NMState) -> anyhow::Result<()> {
        let image = Image::default();
        let install = Install {
            spec: &Default::default(),
            namespace: &self.namespace,
            image: &image,
            owner: owner(wish),
        };
        for object in objects(&install).map_err(anyhow::Error::msg)?.iter().rev() {
            self.delete(object, wish)
                .await
                .with_context(|| format!("deleting {}", what(object)))?;
        }
        if !self.known.is_empty() {
            return Ok(());
        }
        for (kind, name) in LEFT_BEHIND {
            let params = DeleteParams::default();
            let deleted = match kind {
                "Secret" => Api::<Secret>::namespaced(self.client.clone(), &self.namespace)
                    .delete(name, &params)
                    .await
                    .map(drop),
                _ => Api::<Lease>::namespaced(self.client.clone(), &self.namespace)
                    .delete(name, &params)
                    .await
                    .map(drop),
            };
            absent_is_fine(deleted).with_context(|| format!("deleting {kind} {name}"))?;
        }
        tracing::info!(
            phase = "install",
            "what NMState {} installed is removed",
            wish.name_any()
        );
        Ok(())
    }

    /// Only what is owned by this very NMState: others, and what was to be kept (`--cascade=orphan`), stay. Says whether there was any.
    async fn delete(&self, object: &Value, wish: &NMState) -> anyhow::Result<bool> {
        let (api, name) = (self.api(object)?, name(object));
        let Some(live) = timeout(CALL, api.get_opt(name)).await.context("no answer")?? else {
            return Ok(false);
        };
        if !live
            .owner_references()
            .iter()
            .any(|o| Some(&o.uid) == wish.metadata.uid.as_ref())
        {
            return Ok(false);
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: live.uid(),
                resource_version: None,
            }),
            ..DeleteParams::background()
        };
        let deleted = timeout(CALL, api.delete(name, &params)).await.context("no answer")?;
        absent_is_fine(deleted.map(drop))?;
        Ok(true)
    }

    /// There is one installation: of two wishes the older one counts, and the other goes.
    async fn refuse(&self, other: &NMState, first: &NMState) -> anyhow::Result<()> {
        let note = format!(
            "NMState {} is older; there can be only one, so {} is deleted",
            first.name_any(),
            other.name_any()
        );
        let event = Told {
            type_: EventType::Warning,
            reason: "Ignored".to_owned(),
            note: Some(note.clone()),
            action: "Delete".to_owned(),
            secondary: None,
        };
        tracing::warn!(phase = "install", "{note}");
        // the deletion matters more than being told of it
        let _ = timeout(CALL, self.recorder.publish(&event, &other.object_ref(&()))).await;
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: other.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let deleted = timeout(CALL, self.wishes.delete(&other.name_any(), &params))
            .await
            .context("no answer")?;
        Ok(absent_is_fine(deleted.map(drop))?)
    }

    async fn report(&mut self, wish: &NMState, standing: &Standing) -> anyhow::Result<()> {
        let before = wish.status.clone().unwrap_or_default().conditions;
        let conditions = status::conditions(standing, &before, &Timestamp::now().to_string());
        if condition::same(&conditions, &before) {
            return Ok(());
        }
        let name = wish.name_any();
        if let Standing::Failed(why) = standing {
            tracing::warn!(phase = "install", "NMState {name}: {why}");
        }
        let patch = Patch::Merge(json!({"status": NMStateStatus { conditions }}));
        let params = PatchParams::default();
        let written = self.wishes.patch_status(&name, &params, &patch);
        match timeout(CALL, written).await.context("no answer")? {
            Ok(written) => {
                self.known.insert(name, written);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(e) => Err(e).with_context(|| format!("writing the status of NMState {name}")),
        }
    }
}

/// The oldest that is not being deleted, and the others.
fn chosen(known: &BTreeMap<String, NMState>) -> Option<(&NMState, Vec<&NMState>)> {
    let mut all: Vec<&NMState> = known
        .values()
        .filter(|w| w.metadata.deletion_timestamp.is_none())
        .collect();
    all.sort_by_key(|w| w.metadata.creation_timestamp.as_ref().map(|t| t.0));
    let mut all = all.into_iter();
    Some((all.next()?, all.collect()))
}

fn owner(wish: &NMState) -> OwnerReference {
    OwnerReference {
        api_version: NMState::api_version(&()).into_owned(),
        kind: NMState::kind(&()).into_owned(),
        name: wish.name_any(),
        uid: wish.uid().unwrap_or_default(),
        ..OwnerReference::default()
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn what(object: &Value) -> String {
    format!("{} {}", object["kind"].as_str().unwrap_or_default(), name(object))
}

/// An error as it fits into a condition.
fn why(error: &anyhow::Error) -> String {
    match error.chain().find_map(|cause| cause.downcast_ref::<kube::Error>()) {
        Some(kube::Error::Api(status)) => format!("{error}: {}", status.message),
        _ => crate::error::chain(error.as_ref()),
    }
}

fn absent_is_fine(deleted: kube::Result<()>) -> kube::Result<()> {
    match deleted {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}
