//! An apiserver in memory, as far as agents and controller can tell: list, watch with bookmarks and 410, merge and apply patches, status
//! subresource, preconditions. Its network is bad on demand: requests and answers get lost or late, clients are cut off, watches lag, drop or
//! expire, lists are as old as a watch cache may be.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use serde_json::{Map, Value, json};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::rng::Rng;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// One change to one object.
#[derive(Debug)]
struct Entry {
    revision: u64,
    at: Instant,
    kind: &'static str,
    object: Value,
}

/// What one selection of one resource went through.
struct Log {
    entries: Vec<Arc<Entry>>,
    moved: watch::Sender<usize>,
}

/// What the network does to somebody.
#[derive(Debug, Clone, Default)]
struct Trouble {
    cut_off: Option<Instant>,
    /// Watch events come this much late, until then.
    lag: Option<(Instant, Duration)>,
}

struct Inner {
    rng: Rng,
    revision: u64,
    /// Watches cannot begin before this.
    compacted: u64,
    objects: BTreeMap<String, BTreeMap<String, Arc<Entry>>>,
    logs: HashMap<String, Log>,
    away: Option<Instant>,
    /// Share of requests that are refused with 429 or 500, or get lost on either way, until then.
    storm: Option<(Instant, u64)>,
    trouble: HashMap<String, Trouble>,
    requests: BTreeMap<String, u64>,
    /// By whom and which.
    wrote: HashMap<(String, String), Instant>,
}

/// The apiserver.
pub struct Server {
    inner: Mutex<Inner>,
    /// Connections of an older number are gone.
    connections: watch::Sender<u64>,
}

/// `resource` and a selection: all, one name, one label.
fn log_of(resource: &str, selection: &str) -> String {
    format!("{resource}?{selection}")
}

impl Server {
    pub fn new(seed: u64) -> Arc<Self> {
        let inner = Inner {
            rng: Rng(seed),
            revision: 100,
            compacted: 0,
            objects: BTreeMap::new(),
            logs: HashMap::new(),
            away: None,
            storm: None,
            trouble: HashMap::new(),
            requests: BTreeMap::new(),
            wrote: HashMap::new(),
        };
        Arc::new(Server {
            inner: Mutex::new(inner),
            connections: watch::Sender::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    // ---- what the test does ----

    /// A client whose trouble goes by this name.
    pub fn client(self: &Arc<Self>, who: &str) -> Client {
        let (server, who) = (self.clone(), who.to_owned());
        let service = tower::service_fn(move |request| server.clone().send(who.clone(), request));
        Client::new(service, "default")
    }

    /// As an administrator: makes or replaces an object, with `generation` counted.
    pub fn put(&self, resource: &str, object: Value) {
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        let mut inner = self.lock();
        match inner.get(resource, &name) {
            Some(old) => inner.replace(resource, &name, &old, object),
            None => inner.create(resource, &name, object),
        };
    }

    /// As an administrator: a merge patch.
    pub fn patch(&self, resource: &str, name: &str, patch: &Value) {
        let mut inner = self.lock();
        if let Some(old) = inner.get(resource, name) {
            let mut new = old.clone();
            merge(&mut new, patch);
            inner.replace(resource, name, &old, new);
        }
    }

    pub fn delete(&self, resource: &str, name: &str) {
        self.lock().remove(resource, name);
    }

    pub fn get(&self, resource: &str, name: &str) -> Option<Value> {
        self.lock().get(resource, name)
    }

    /// How long ago somebody wrote an object of this name.
    pub fn wrote(&self, who: &str, name: &str) -> Option<Duration> {
        let wrote = self.lock().wrote.get(&(who.to_owned(), name.to_owned())).copied();
        wrote.map(|at| at.elapsed())
    }

    pub fn all(&self, resource: &str) -> Vec<Value> {
        let inner = self.lock();
        let all = inner.objects.get(resource);
        all.into_iter()
            .flat_map(BTreeMap::values)
            .map(|e| e.object.clone())
            .collect()
    }

    /// Refuses connections for so long.
    pub fn go_away(&self, time: Duration) {
        self.lock().away = Some(Instant::now() + time);
        self.drop_connections();
    }

    /// What somebody sends and is sent is held up or lost for so long.
    pub fn cut_off(&self, who: &str, time: Duration) {
        let until = Instant::now() + time;
        self.lock().trouble.entry(who.to_owned()).or_default().cut_off = Some(until);
    }

    pub fn lag(&self, who: &str, late: Duration, time: Duration) {
        let until = Instant::now() + time;
        self.lock().trouble.entry(who.to_owned()).or_default().lag = Some((until, late));
    }

    pub fn storm(&self, percent: u64, time: Duration) {
        self.lock().storm = Some((Instant::now() + time, percent));
    }

    /// No watch can go on from what was before now.
    pub fn compact(&self) {
        let mut inner = self.lock();
        inner.revision += 1;
        inner.compacted = inner.revision;
        drop(inner);
        self.drop_connections();
    }

    pub fn drop_connections(&self) {
        self.connections.send_modify(|n| *n += 1);
    }

    /// Nothing goes wrong from now on.
    pub fn heal(&self) {
        let mut inner = self.lock();
        (inner.away, inner.storm) = (None, None);
        inner.trouble.clear();
    }

    /// Requests so far by `VERB resource`.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.lock().requests.clone()
    }

    // ---- the network ----

    /// The request is on its way from now on, whether the client waits for the answer or not.
    fn send(
        self: Arc<Self>,
        who: String,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Answer, BoxError>> + Send {
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let answer = self.travel(&who, request).await;
            let _ = tell.send(answer);
        });
        async move { told.await.unwrap_or_else(|_| Err("the test is over".into())) }
    }

    async fn travel(self: &Arc<Self>, who: &str, request: Request<Body>) -> Result<Answer, BoxError> {
        let (there, back, fate) = self.lock().draw();
        sleep(there).await;
        if self.lock().is_away() {
            return Err("connection refused".into());
        }
        if fate == 1 || self.lock().is_cut_off(who) {
            return lost().await;
        }
        let answer = match fate {
            2 => refusal(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", "slow down"),
            3 => refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "etcd is tired"),
            _ => self.answer(who, request).await,
        };
        sleep(back).await;
        if fate == 4 || self.lock().is_cut_off(who) {
            return lost().await;
        }
        Ok(answer)
    }

    async fn answer(self: &Arc<Self>, who: &str, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let asked = Asked::read(parts.uri.path(), parts.uri.query().unwrap_or(""));
        let is_watch = asked.query.get("watch").is_some_and(|w| w == "true");
        let verb = match parts.method {
            Method::GET if is_watch => "WATCH",
            Method::GET if asked.name.is_empty() => "LIST",
            Method::GET => "GET",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::DELETE => "DELETE",
            _ => "PATCH",
        };
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut inner = self.lock();
        if verb == "PATCH" {
            let what = (who.to_owned(), asked.name.clone());
            inner.wrote.insert(what, Instant::now());
        }
        *inner.requests.entry(format!("{verb} {}", asked.resource)).or_default() += 1;
        match verb {
            "WATCH" => {
                let from = asked
                    .query
                    .get("resourceVersion")
                    .and_then(|v| v.parse().ok())
                    .unwrap_or(0);
                let expired = from < inner.compacted;
                let log = inner.log(&log_of(&asked.resource, &asked.selection()));
                let at = log.entries.partition_point(|e| e.revision <= from);
                let moved = log.moved.subscribe();
                let seconds = asked
                    .query
                    .get("timeoutSeconds")
                    .and_then(|s| s.parse().ok())
                    .unwrap_or(290);
                drop(inner);
                let watching = Watching {
                    server: self.clone(),
                    who: who.to_owned(),
                    log: log_of(&asked.resource, &asked.selection()),
                    at,
                    moved,
                    connection: self.connections.subscribe(),
                    born: *self.connections.borrow(),
                    end: Instant::now() + Duration::from_secs(seconds),
                    expired,
                };
                let events = stream::unfold(watching, |w| async { w.next().await });
                Response::new(StreamBody::new(events).boxed_unsync())
            }
            "LIST" => {
                let any = asked.query.get("resourceVersion").is_some_and(|v| v == "0");
                ok(&inner.list(&asked, any))
            }
            "GET" => match inner.get(&asked.resource, &asked.name) {
                Some(object) => ok(&object),
                None => not_found(),
            },
            "POST" => {
                let name = said["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                match inner.get(&asked.resource, &name) {
                    Some(_) => refusal(StatusCode::CONFLICT, "AlreadyExists", "already exists"),
                    None => ok(&inner.create(&asked.resource, &name, said)),
                }
            }
            "PUT" => inner.write(&asked, |old| {
                let mut new = said.clone();
                if new["metadata"]["resourceVersion"].is_null() {
                    new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
                }
                new
            }),
            "DELETE" => inner.delete(&asked, &said),
            _ => {
                let apply = parts
                    .headers
                    .get("content-type")
                    .is_some_and(|t| t == "application/apply-patch+yaml");
                if apply && asked.subresource.is_empty() && inner.get(&asked.resource, &asked.name).is_none() {
                    return ok(&inner.create(&asked.resource, &asked.name, said));
                }
                inner.write(&asked, |old| {
                    let mut new = old.clone();
                    match asked.subresource.as_str() {
                        "status" => merge(&mut new, &json!({"metadata": {"resourceVersion": said["metadata"].get("resourceVersion").unwrap_or(&old["metadata"]["resourceVersion"])}, "status": said["status"]})),
                        _ => merge(&mut new, &said),
                    }
                    new
                })
            }
        }
    }
}

async fn lost() -> Result<Answer, BoxError> {
    // as long as a client waits that knows no shorter limit
    sleep(Duration::from_secs(120)).await;
    Err("timed out".into())
}

/// What a request is about.
struct Asked {
    resource: String,
    name: String,
    subresource: String,
    query: HashMap<String, String>,
}

impl Asked {
    /// `/api/v1/…` or `/apis/<group>/<version>/…`, in a namespace or not.
    fn read(path: &str, query: &str) -> Self {
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let rest = if parts[0] == "api" { &parts[2..] } else { &parts[3..] };
        let rest = match rest {
            ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
            rest => rest,
        };
        let part = |n: usize| rest.get(n).copied().unwrap_or_default().to_owned();
        let decode = |text: &str| text.replace("%3D", "=").replace("%2F", "/").replace("%2C", ",");
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Asked {
            resource: part(0),
            name: part(1),
            subresource: part(2),
            query: pairs.map(|(k, v)| (k.to_owned(), decode(v))).collect(),
        }
    }

    fn selection(&self) -> String {
        let field = self
            .query
            .get("fieldSelector")
            .map(|f| f.replace("metadata.name=", "name "));
        field
            .or_else(|| self.query.get("labelSelector").cloned())
            .unwrap_or_default()
    }
}

/// One watch.
struct Watching {
    server: Arc<Server>,
    who: String,
    log: String,
    at: usize,
    moved: watch::Receiver<usize>,
    connection: watch::Receiver<u64>,
    born: u64,
    end: Instant,
    expired: bool,
}

impl Watching {
    async fn next(mut self) -> Option<(Result<Frame<Bytes>, Infallible>, Self)> {
        if std::mem::take(&mut self.expired) {
            let status = status(StatusCode::GONE, "Expired", "too old resource version");
            self.end = Instant::now();
            return Some((frame(&json!({"type": "ERROR", "object": status})), self));
        }
        loop {
            if *self.connection.borrow() != self.born || Instant::now() >= self.end {
                return None;
            }
            let next = {
                let mut inner = self.server.lock();
                let late = inner.late(&self.who);
                let cut_off = inner.is_cut_off(&self.who);
                let entry = inner.log(&self.log).entries.get(self.at).cloned();
                entry.map(|e| (e, late, cut_off))
            };
            match next {
                Some((entry, late, false)) => {
                    let due = entry.at + late;
                    if due > Instant::now() && timeout(due - Instant::now(), self.connection.changed()).await.is_ok() {
                        return None;
                    }
                    if self.server.lock().is_cut_off(&self.who) {
                        continue;
                    }
                    self.at += 1;
                    return Some((frame(&json!({"type": entry.kind, "object": entry.object})), self));
                }
                Some(_) => sleep(Duration::from_secs(1)).await,
                None => {
                    tokio::select! {
                        _ = self.moved.changed() => {}
                        _ = self.connection.changed() => return None,
                        () = tokio::time::sleep_until(self.end) => return None,
                    }
                }
            }
        }
    }
}

impl Inner {
    /// Time there, time back, and what becomes of it: 1 lost on the way there, 2 429, 3 500, 4 lost on the way back.
    fn draw(&mut self) -> (Duration, Duration, u64) {
        let way = |rng: &mut Rng| match rng.below(100) {
            0 => rng.between(Duration::ZERO, Duration::from_secs(3)),
            _ => rng.between(Duration::from_micros(200), Duration::from_millis(10)),
        };
        let (there, back) = (way(&mut self.rng), way(&mut self.rng));
        let fate = match self.storm {
            Some((until, percent)) if until > Instant::now() && self.rng.chance(percent) => 1 + self.rng.below(4),
            _ => 0,
        };
        (there, back, fate)
    }

    fn is_away(&self) -> bool {
        self.away.is_some_and(|until| until > Instant::now())
    }

    fn is_cut_off(&self, who: &str) -> bool {
        let until = self.trouble.get(who).and_then(|t| t.cut_off);
        until.is_some_and(|until| until > Instant::now())
    }

    fn late(&mut self, who: &str) -> Duration {
        let usual = self.rng.between(Duration::from_micros(200), Duration::from_millis(10));
        match self.trouble.get(who).and_then(|t| t.lag) {
            Some((until, late)) if until > Instant::now() => late,
            _ => usual,
        }
    }

    fn log(&mut self, name: &str) -> &mut Log {
        self.logs.entry(name.to_owned()).or_insert_with(|| Log {
            entries: vec![],
            moved: watch::Sender::new(0),
        })
    }

    fn get(&self, resource: &str, name: &str) -> Option<Value> {
        Some(self.objects.get(resource)?.get(name)?.object.clone())
    }

    fn list(&mut self, asked: &Asked, any: bool) -> Value {
        // a watch cache may lag behind by as much
        let stale = match any && self.rng.chance(20) {
            true => Duration::from_millis(self.rng.below(3000)),
            false => Duration::ZERO,
        };
        let now = Instant::now();
        let revision = self.revision;
        let log = self.log(&log_of(&asked.resource, &asked.selection()));
        let mut items: BTreeMap<&str, &Value> = BTreeMap::new();
        let mut seen = revision;
        for entry in &log.entries {
            if entry.at + stale > now {
                seen = entry.revision - 1;
                break;
            }
            let name = entry.object["metadata"]["name"].as_str().unwrap_or_default();
            match entry.kind {
                "DELETED" => items.remove(name),
                _ => items.insert(name, &entry.object),
            };
        }
        json!({
            "apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": seen.to_string()},
            "items": items.values().collect::<Vec<_>>(),
        })
    }

    fn create(&mut self, resource: &str, name: &str, mut object: Value) -> Value {
        let uid = format!("{:016x}", self.rng.next());
        object["metadata"]["uid"] = uid.into();
        object["metadata"]["generation"] = 1.into();
        if object.get("spec").is_none() {
            object["spec"] = json!({});
        }
        if let Some(map) = object.as_object_mut().filter(|_| resource.starts_with("nodenetwork")) {
            map.remove("status");
        }
        self.store(resource, name, "ADDED", object)
    }

    /// Nothing happens where nothing changes.
    fn replace(&mut self, resource: &str, name: &str, old: &Value, mut new: Value) -> Value {
        new["metadata"]["uid"] = old["metadata"]["uid"].clone();
        let spec = |v: &Value| v.get("spec").cloned().unwrap_or_default();
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(1);
        new["metadata"]["generation"] = (generation + i64::from(spec(&new) != spec(old))).into();
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        if new.get("status").is_none() && old.get("status").is_some() {
            new["status"] = old["status"].clone();
        }
        if new == *old {
            return new;
        }
        self.store(resource, name, "MODIFIED", new)
    }

    fn remove(&mut self, resource: &str, name: &str) {
        if let Some(object) = self.get(resource, name) {
            self.store(resource, name, "DELETED", object);
        }
    }

    fn store(&mut self, resource: &str, name: &str, kind: &'static str, mut object: Value) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let entry = Arc::new(Entry {
            revision: self.revision,
            at: Instant::now(),
            kind,
            object: object.clone(),
        });
        let all = self.objects.entry(resource.to_owned()).or_default();
        match kind {
            "DELETED" => all.remove(name),
            _ => all.insert(name.to_owned(), entry.clone()),
        };
        let label = object["metadata"]["labels"]["nmstate.io/node"].as_str();
        let label = label.map(|node| log_of(resource, &format!("nmstate.io/node={node}")));
        let logs = [log_of(resource, ""), log_of(resource, &format!("name {name}"))];
        for log in logs.into_iter().chain(label) {
            let log = self.log(&log);
            log.entries.push(entry.clone());
            log.moved.send_replace(log.entries.len());
        }
        object
    }

    fn write(&mut self, asked: &Asked, change: impl FnOnce(&Value) -> Value) -> Answer {
        let Some(old) = self.get(&asked.resource, &asked.name) else {
            return not_found();
        };
        let new = change(&old);
        if new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
            return refusal(StatusCode::CONFLICT, "Conflict", "the object has been modified");
        }
        ok(&self.replace(&asked.resource, &asked.name, &old, new))
    }

    fn delete(&mut self, asked: &Asked, options: &Value) -> Answer {
        let Some(old) = self.get(&asked.resource, &asked.name) else {
            return not_found();
        };
        let wanted = &options["preconditions"];
        let differs = |key: &str| wanted[key].is_string() && wanted[key] != old["metadata"][key];
        if differs("uid") || differs("resourceVersion") {
            return refusal(StatusCode::CONFLICT, "Conflict", "precondition failed");
        }
        self.remove(&asked.resource, &asked.name);
        ok(&status(StatusCode::OK, "", ""))
    }
}

/// RFC 7396.
fn merge(to: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *to = patch.clone();
        return;
    };
    if !to.is_object() {
        *to = Value::Object(Map::new());
    }
    let Value::Object(to) = to else { return };
    for (key, value) in patch {
        if value.is_null() {
            to.remove(key);
        } else {
            merge(to.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn frame(value: &Value) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(Bytes::from(format!("{value}\n"))))
}

fn status(code: StatusCode, reason: &str, message: &str) -> Value {
    let word = if code.is_success() { "Success" } else { "Failure" };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": word, "message": message, "reason": reason, "code": code.as_u16()})
}

fn body(code: StatusCode, value: &Value) -> Answer {
    let full = Full::new(Bytes::from(value.to_string())).boxed_unsync();
    Response::builder().status(code).body(full).expect("a response")
}

fn ok(value: &Value) -> Answer {
    body(StatusCode::OK, value)
}

fn refusal(code: StatusCode, reason: &str, message: &str) -> Answer {
    body(code, &status(code, reason, message))
}

fn not_found() -> Answer {
    refusal(StatusCode::NOT_FOUND, "NotFound", "not found")
}
