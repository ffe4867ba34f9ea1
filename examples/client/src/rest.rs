//! REST, one connection per request.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// A server and the token of one user.
#[derive(Clone, Debug)]
pub struct Rest {
    address: String,
    token: Option<String>,
}

/// A response.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body; `null` when there is none or it is not JSON.
    pub body: Value,
    /// Response headers, names in lower case.
    pub headers: Vec<(String, String)>,
}

/// Status, headers and body.
type Exchanged = (u16, Vec<(String, String)>, Bytes);

impl Answer {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The body, if the status is one of success.
    pub fn ok(self) -> Result<Value> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        bail!("status {}: {}", self.status, self.body)
    }

    /// The error's code (`application/problem+json`).
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("")
    }
}

impl Rest {
    /// A client of the server at `address` (`127.0.0.1:3001`).
    pub fn new(address: impl Into<String>, token: Option<&str>) -> Rest {
        Rest {
            address: address.into(),
            token: token.map(str::to_owned),
        }
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.request("GET", path, None, &[]).await
    }

    /// `POST` with a JSON body.
    pub async fn post(&self, path: &str, body: Value) -> Result<Answer> {
        self.request("POST", path, Some(body), &[]).await
    }

    /// `PUT` with a JSON body.
    pub async fn put(&self, path: &str, body: Value) -> Result<Answer> {
        self.request("PUT", path, Some(body), &[]).await
    }

    /// `PATCH` with a JSON body.
    pub async fn patch(&self, path: &str, body: Value) -> Result<Answer> {
        self.request("PATCH", path, Some(body), &[]).await
    }

    /// `DELETE`.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.request("DELETE", path, None, &[]).await
    }

    /// The body of a `GET`, whatever it is.
    pub async fn text(&self, path: &str) -> Result<String> {
        let (_, _, bytes) = self.exchange("GET", path, None, &[]).await?;
        Ok(String::from_utf8(bytes.to_vec())?)
    }

    /// Any request, with headers of one's own.
    pub async fn request(&self, method: &str, path: &str, body: Option<Value>, headers: &[(&str, &str)]) -> Result<Answer> {
        let (status, headers, bytes) = self.exchange(method, path, body, headers).await?;
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(Answer { status, body, headers })
    }

    async fn exchange(&self, method: &str, path: &str, body: Option<Value>, headers: &[(&str, &str)]) -> Result<Exchanged> {
        let stream = TcpStream::connect(&self.address)
            .await
            .with_context(|| format!("connecting to {}", self.address))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.address);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let bytes = match &body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(serde_json::to_vec(body)?)
            }
            None => Bytes::new(),
        };
        let response = sender
            .send_request(request.body(Full::new(bytes))?)
            .await
            .with_context(|| format!("{method} {path}"))?;
        let status = response.status().as_u16();
        let pair =
            |(name, value): (&header::HeaderName, &header::HeaderValue)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned());
        let headers = response.headers().iter().map(pair).collect();
        let bytes = response.into_body().collect().await?.to_bytes();
        driver.abort();
        Ok((status, headers, bytes))
    }
}
