//! Watches that last: what goes wrong is told once and tried again after a growing pause.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use futures::{Stream, StreamExt, future};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, reflector};
use kube::{Api, Resource};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::error::chain;

use super::apiserver::Apiserver;

/// First pause.
const FIRST: Duration = Duration::from_millis(800);
/// Longest pause: an apiserver that comes back is noticed within this.
const LONGEST: Duration = Duration::from_secs(10);
/// After this long without a fault the pauses begin anew.
const FORGIVEN: Duration = Duration::from_secs(60);

/// kube begins anew at each event, and one comes before every try to list: its pauses never grow while there is no apiserver.
struct Patience {
    next: Duration,
    last: Instant,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            next: FIRST,
            last: Instant::now(),
        }
    }
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.last.elapsed() > FORGIVEN {
            self.next = FIRST;
        }
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        self.last = Instant::now();
        // nodes that lost the apiserver together must not come back together
        Some(pause.mul_f64(0.75 + f64::from(spread()) / 200.0))
    }
}

/// A number from 0 to 99, another one each time.
pub fn spread() -> u32 {
    (RandomState::new().build_hasher().finish() % 100) as u32
}

impl Backoff for Patience {
    fn reset(&mut self) {}
}

/// The events of one kind, for ever.
pub fn events<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = Event<K>> + Send + use<K>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    K::DynamicType: Default,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let mut away = false;
    let all = watcher(api, config).backoff(Patience::default());
    all.filter_map(move |event| {
        let event = match event {
            // comes before anything was asked
            Ok(Event::Init) => Some(Event::Init),
            Ok(event) => {
                if std::mem::take(&mut away) {
                    info!(phase = "watch", "{kind} is watched again");
                }
                Some(event)
            }
            Err(e) => {
                if !std::mem::replace(&mut away, true) {
                    warn!(phase = "watch", "{kind} cannot be watched: {}; trying again", chain(&e));
                }
                None
            }
        };
        future::ready(event)
    })
}

/// Keeps a store up to date and calls at each change. Begins anew when the connections do.
pub fn store<K>(
    apiserver: &Apiserver,
    config: watcher::Config,
    changed: impl Fn() + Send + 'static,
) -> reflector::Store<K>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default + Eq + std::hash::Hash + Clone + Send + Sync,
{
    let (store, mut writer) = reflector::store();
    let mut clients = apiserver.changes();
    tokio::spawn(async move {
        loop {
            let client = clients.borrow_and_update().clone();
            let all = events::<K>(Api::all(client), config.clone());
            futures::pin_mut!(all);
            loop {
                tokio::select! {
                    event = all.next() => match event {
                        Some(event) => {
                            writer.apply_watcher_event(&slim(event));
                            changed();
                        }
                        None => break,
                    },
                    moved = clients.changed() => match moved {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                }
            }
        }
    });
    store
}

/// Who owns which field takes more room than the rest and is of no use here.
fn slim<K: Resource>(event: Event<K>) -> Event<K> {
    let slim = |mut object: K| {
        object.meta_mut().managed_fields = None;
        object
    };
    match event {
        Event::Apply(object) => Event::Apply(slim(object)),
        Event::Delete(object) => Event::Delete(slim(object)),
        Event::InitApply(object) => Event::InitApply(slim(object)),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_until_all_is_well_for_a_minute() {
        let mut patience = Patience::default();
        let mut pause = |n| {
            let all: Vec<Duration> = (0..n).filter_map(|_| patience.next()).collect();
            patience.reset();
            all.last().copied().unwrap_or_default()
        };
        assert!(pause(1) < Duration::from_millis(1001));
        assert!(pause(7) > Duration::from_secs(7));
        tokio::time::advance(FORGIVEN + Duration::from_secs(1)).await;
        assert!(pause(1) < Duration::from_millis(1001));
    }
}
