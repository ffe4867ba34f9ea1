//! Fetching a key set: one GET over plain http, bounded in time and size. For https put the set in a file, or a proxy on this
//! machine before it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const BODY_BYTES_MAX: usize = 256 * 1024;

/// Whether we can fetch from there.
pub fn check(url: &str) -> Result<(), String> {
    target(url).map(|_| ())
}

/// The body at the URL.
pub async fn get(url: &str) -> Result<Vec<u8>, String> {
    tokio::time::timeout(FETCH_TIMEOUT, get_unhurried(url))
        .await
        .map_err(|_| format!("no answer within {FETCH_TIMEOUT:?}"))?
}

fn target(url: &str) -> Result<(String, u16, Uri), String> {
    let uri: Uri = url.parse().map_err(|_| "no URL".to_owned())?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err("https is not spoken here: save the set to a file, or fetch it through a proxy on this machine".into()),
        _ => return Err("expected http://host/path or a file".into()),
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or("no host")?;
    Ok((host.trim_matches(['[', ']']).to_owned(), uri.port_u16().unwrap_or(80), uri))
}

async fn get_unhurried(url: &str) -> Result<Vec<u8>, String> {
    let (host, port, uri) = target(url)?;
    let say = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| say(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| say(&e))?;
    let driver = tokio::spawn(connection);
    let authority = uri.authority().map(|a| a.as_str()).unwrap_or_default();
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new());
    let response = sender.send_request(request.map_err(|e| say(&e))?).await.map_err(|e| say(&e));
    let body = match response {
        Ok(response) if response.status().is_success() => Limited::new(response.into_body(), BODY_BYTES_MAX)
            .collect()
            .await
            .map(|body| body.to_bytes().to_vec())
            .map_err(|e| e.to_string()),
        Ok(response) => Err(format!("answered {}", response.status())),
        Err(error) => Err(error),
    };
    driver.abort();
    body
}
