//! A gateway over an engine in memory, asked without sockets.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode},
};
use haggle_engine::{
    Engine, EngineOptions, SystemClock,
    ports::{Hooks, NoPlugins},
};
use haggle_gateway::{AuthConfig, Authenticator, Gateway, GatewaySettings, Origins, auth, rest};
use haggle_model::Limits;
use haggle_store::MemoryStore;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

pub const SECRET: &[u8] = b"a secret that is long enough for HS256, it says";

/// The whole API.
pub struct Api {
    pub gateway: Arc<Gateway>,
    router: Router,
}

/// An answer, its body read.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("JSON expected: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII")).unwrap_or_default()
    }

    /// The status must be this one; gives the body (null where there is none).
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// The problem's status and code must be these; gives the problem.
    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Value {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        let request = self.header("x-request-id").to_owned();
        let problem = self.expect(status);
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("/problems/{code}"));
        assert_eq!(problem["instance"], request);
        assert!(!problem["title"].as_str().expect("a title").is_empty());
        problem
    }
}

impl Api {
    pub async fn new() -> Api {
        Api::with(Arc::new(NoPlugins), generous(), |_| {}).await
    }

    pub async fn with(hooks: Arc<dyn Hooks>, limits: Limits, change: impl FnOnce(&mut GatewaySettings)) -> Api {
        let options = EngineOptions {
            store: Arc::new(MemoryStore::new(1)),
            hooks,
            limits,
            clock: Arc::new(SystemClock),
            erase_after: Duration::from_secs(86_400),
            reject_unknown_users: false,
            commit_interval: Duration::ZERO,
        };
        let engine = Engine::start(options).await.expect("the engine starts");
        let auth = Authenticator::new(AuthConfig {
            secrets: vec![SECRET.to_vec()],
            ..AuthConfig::default()
        })
        .expect("a key");
        let origins = Origins::new(&["https://shop.example".to_string()], false).expect("an origin");
        let mut settings = GatewaySettings::default();
        change(&mut settings);
        let gateway = Gateway::new(engine, auth, origins, settings);
        Api {
            router: rest::router(gateway.clone()),
            gateway,
        }
    }

    pub async fn raw(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.expect("REST always answers");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body in memory").to_bytes().to_vec();
        Reply {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    pub async fn ask(&self, token: Option<&str>, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Reply {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).expect("a method"))
            .uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.raw(
            request
                .body(body.map_or_else(Body::empty, |body| Body::from(body.to_owned())))
                .expect("a request"),
        )
        .await
    }

    pub async fn get(&self, user: &str, path: &str) -> Reply {
        self.ask(Some(&token(user)), "GET", path, &[], None).await
    }

    pub async fn post(&self, user: &str, path: &str, body: Value) -> Reply {
        self.ask(Some(&token(user)), "POST", path, &[], Some(&body.to_string())).await
    }

    pub async fn put(&self, user: &str, path: &str, body: Value) -> Reply {
        self.ask(Some(&token(user)), "PUT", path, &[], Some(&body.to_string())).await
    }

    pub async fn delete(&self, user: &str, path: &str) -> Reply {
        self.ask(Some(&token(user)), "DELETE", path, &[], None).await
    }

    /// The id of the direct conversation of the two.
    pub async fn direct(&self, a: &str, b: &str) -> String {
        let reply = self.post(a, "/api/conversations", json!({ "participants": [b], "type": "direct" })).await;
        assert!(reply.status.is_success(), "{reply:?}");
        reply.json()["id"].as_str().expect("an id").to_owned()
    }

    /// The id of a new group of `admin` and the others.
    pub async fn group(&self, admin: &str, others: &[&str]) -> String {
        let body = json!({ "participants": others, "type": "group", "groupName": "G" });
        self.post(admin, "/api/conversations", body).await.expect(201)["id"]
            .as_str()
            .expect("an id")
            .to_owned()
    }

    /// A text; gives the message.
    pub async fn say(&self, user: &str, conversation: &str, text: &str) -> Value {
        self.post(user, &format!("/api/conversations/{conversation}/messages"), json!({ "content": text }))
            .await
            .expect(201)
    }
}

/// Limits that tests do not run into.
pub fn generous() -> Limits {
    Limits {
        rate_per_second: 1_000_000,
        rate_burst: 1_000_000,
        ..Limits::default()
    }
}

pub fn token(user: &str) -> String {
    token_with(user, &[])
}

pub fn token_with(user: &str, roles: &[&str]) -> String {
    let roles: Vec<String> = roles.iter().map(|role| role.to_string()).collect();
    auth::sign(SECRET, user, &roles, Duration::from_secs(3600)).expect("a token")
}

pub fn expired(user: &str) -> String {
    auth::sign(SECRET, user, &[], Duration::ZERO).expect("a token")
}
