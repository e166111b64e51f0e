//! Counts the calls of the apiserver, as a layer around kube's client.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Method, Request, Response};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tower::{Layer, Service};

use super::{APISERVER, Counters, Histograms};

/// A client whose calls are counted.
pub fn client(config: kube::Config) -> kube::Result<Client> {
    Ok(ClientBuilder::try_from(config)?.with_layer(&Counting).build())
}

/// What was asked of the apiserver.
#[derive(Debug)]
pub struct Calls {
    requests: Counters<3>,
    duration: Histograms<1>,
}

impl Default for Calls {
    fn default() -> Self {
        Calls {
            requests: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new([0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0])),
        }
    }
}

impl Calls {
    /// Names and texts of all of it.
    pub fn register(&self, to: &mut Registry) {
        to.register(
            "netwright_apiserver_requests",
            "Calls of the apiserver",
            self.requests.clone(),
        );
        let help = "Until the apiserver's answer, without watches";
        to.register(
            "netwright_apiserver_request_duration_seconds",
            help,
            self.duration.clone(),
        );
    }

    /// A call that has no answer yet.
    pub(super) fn asked(&self, method: &Method, path: &str, query: &str) -> Asked<'_> {
        let (verb, resource) = what(method, path, query);
        Asked {
            calls: self,
            verb,
            resource,
            code: None,
            begun: Instant::now(),
        }
    }
}

/// A call; counted when it is dropped, also by somebody who waits no longer.
pub(super) struct Asked<'a> {
    calls: &'a Calls,
    verb: &'static str,
    resource: String,
    code: Option<u16>,
    begun: Instant,
}

impl Asked<'_> {
    fn answered(&mut self, code: Option<u16>) {
        self.code = code;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let verb = ("verb", self.verb.to_owned());
        if self.verb != "watch" {
            let duration = self.calls.duration.get_or_create(std::array::from_ref(&verb));
            duration.observe(self.begun.elapsed().as_secs_f64());
        }
        let code = self.code.map_or_else(|| "none".to_owned(), |code| code.to_string());
        let labels = [verb, ("resource", std::mem::take(&mut self.resource)), ("code", code)];
        self.calls.requests.get_or_create(&labels).inc();
    }
}

/// Verb and resource, as RBAC has them.
fn what(method: &Method, path: &str, query: &str) -> (&'static str, String) {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let object = match parts.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        other => return (verb(method, false, false), other.join("/")),
    };
    let object = match object {
        ["namespaces", _, ..] if object.len() > 2 => &object[2..],
        other => other,
    };
    let resource = match object {
        [kind, _, sub, ..] => format!("{kind}/{sub}"),
        [kind, ..] => (*kind).to_owned(),
        [] => String::new(),
    };
    let watch = query.split('&').any(|q| matches!(q, "watch=true" | "watch=1"));
    (verb(method, object.len() < 2, watch), resource)
}

fn verb(method: &Method, many: bool, watch: bool) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ if watch => "watch",
        _ if many => "list",
        _ => "get",
    }
}

#[derive(Debug, Clone, Copy)]
struct Counting;

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted(inner)
    }
}

struct Counted<S>(S);

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let uri = request.uri();
        let mut asked = APISERVER.asked(request.method(), uri.path(), uri.query().unwrap_or_default());
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.await;
            asked.answered(answer.as_ref().ok().map(|r| r.status().as_u16()));
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_called_as_rbac_calls_them() {
        let group = "/apis/nmstate.io/v1beta1/nodenetworkconfigurationenactments";
        let lease = "/apis/coordination.k8s.io/v1/namespaces/nmstate/leases";
        for (method, path, query, want) in [
            (
                Method::GET,
                group.to_owned(),
                "limit=500",
                ("list", "nodenetworkconfigurationenactments"),
            ),
            (
                Method::GET,
                group.to_owned(),
                "labelSelector=a&watch=true",
                ("watch", "nodenetworkconfigurationenactments"),
            ),
            (
                Method::PATCH,
                format!("{group}/n.p/status"),
                "",
                ("patch", "nodenetworkconfigurationenactments/status"),
            ),
            (
                Method::DELETE,
                format!("{group}/n.p"),
                "",
                ("delete", "nodenetworkconfigurationenactments"),
            ),
            (Method::POST, lease.to_owned(), "", ("create", "leases")),
            (Method::PUT, format!("{lease}/x"), "", ("update", "leases")),
            (
                Method::GET,
                "/api/v1/namespaces/default".to_owned(),
                "",
                ("get", "namespaces"),
            ),
            (Method::GET, "/api/v1/namespaces".to_owned(), "", ("list", "namespaces")),
            (Method::GET, "/readyz".to_owned(), "", ("get", "readyz")),
        ] {
            let (verb, resource) = what(&method, &path, query);
            assert_eq!((verb, resource.as_str()), want, "{path}");
        }
    }
}
