//! The command line's own small HTTP client, for the admin API of a running server.

use std::{net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::failure::{Failure, Kind};

/// How long a server may take to answer. Loading a plugin compiles it.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A server's operators listener.
#[derive(Clone, Debug)]
pub struct AdminClient {
    /// Its address.
    pub address: SocketAddr,
    /// A token with the role `admin`; reads need none.
    pub token: Option<String>,
}

/// Status and body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, as text.
    pub body: String,
}

impl AdminClient {
    /// Asks, and fails unless the answer is a success.
    pub async fn call(&self, method: Method, path: &str, body: Vec<u8>) -> Result<String, Failure> {
        let answer = self.ask(method, path, body).await?;
        if (200..300).contains(&answer.status) {
            return Ok(answer.body);
        }
        let said = serde_json::from_str::<serde_json::Value>(&answer.body)
            .ok()
            .and_then(|problem| problem["detail"].as_str().map(str::to_owned))
            .unwrap_or_else(|| answer.body.trim().to_owned());
        let failure = Failure::failed(format!("the server answered {}: {said}", answer.status));
        Err(match answer.status {
            401 | 403 => failure.hint("give --token with a token of role `admin`: haggle token you --role admin"),
            _ => failure,
        })
    }

    /// Asks and returns whatever is answered.
    pub async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Answer, Failure> {
        timeout(ANSWER_MAX, self.exchange(method, path, body))
            .await
            .map_err(|_| self.unreachable(format!("no answer within {} s", ANSWER_MAX.as_secs())))?
            .map_err(|error| self.unreachable(error.to_string()))
    }

    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<Answer> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, self.address.to_string());
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("{error}"))?
            .to_bytes();
        connection.abort();
        Ok(Answer {
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    fn unreachable(&self, error: String) -> Failure {
        Failure::new(
            Kind::Unreachable,
            format!("no answer from the operators listener at {}: {error}", self.address),
        )
        .hint("start the server, or give its server.admin address by --admin")
    }
}
