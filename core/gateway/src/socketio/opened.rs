//! What the request said that opened a session: which dialect it meant, and what the plugin of one may see of it.

use hyper::{HeaderMap, Request, header};

use crate::{
    http::{LocalPort, without_port},
    settings::DialectSettings,
};

/// Names of headers that plugins may see, besides those that begin with `x-`.
const HEADERS: [&str; 4] = ["user-agent", "accept-language", "origin", "referer"];
/// Headers that are kept.
const HEADERS_MAX: usize = 32;
/// Bytes of the query that are kept.
const QUERY_BYTES_MAX: usize = 2048;
/// Parameters of the query that belong to the transport.
const TRANSPORT_PARAMETERS: [&str; 5] = ["EIO", "transport", "sid", "t", "b64"];

/// See the module. Kept only where there are dialects.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Opened {
    pub host: String,
    pub path: String,
    pub port: u16,
    pub query: String,
    pub headers: Vec<(String, String)>,
}

impl Opened {
    /// `token_parameter` is left out, like everything that is a secret.
    pub fn of<B>(request: &Request<B>, token_parameter: &str) -> Opened {
        let headers = request.headers();
        let host = request.uri().host().or_else(|| headers.get(header::HOST)?.to_str().ok());
        Opened {
            host: host.map(without_port).unwrap_or_default().to_ascii_lowercase(),
            path: request.uri().path().to_owned(),
            port: request.extensions().get::<LocalPort>().map_or(0, |port| port.0),
            query: plain_query(request.uri().query().unwrap_or_default(), token_parameter),
            headers: plain_headers(headers),
        }
    }

    /// Whether a dialect is meant, as far as the request can tell.
    pub fn fits(&self, dialect: &DialectSettings) -> bool {
        let host = dialect.host.as_deref().is_none_or(|host| host.eq_ignore_ascii_case(&self.host));
        let path = dialect.path.as_deref().is_none_or(|path| same_path(path, &self.path));
        host && path && dialect.port.is_none_or(|port| port == self.port)
    }
}

/// A slash at the end makes no difference.
pub(crate) fn same_path(a: &str, b: &str) -> bool {
    a.trim_end_matches('/') == b.trim_end_matches('/')
}

fn plain_query(query: &str, token_parameter: &str) -> String {
    let is_plain = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        !TRANSPORT_PARAMETERS.contains(&name) && name != "token" && (token_parameter.is_empty() || name != token_parameter)
    };
    let kept: Vec<&str> = query.split('&').filter(is_plain).collect();
    let mut kept = kept.join("&");
    if kept.len() > QUERY_BYTES_MAX {
        kept.clear(); // half a query would be another one
    }
    kept
}

fn plain_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let is_plain = |name: &str| HEADERS.contains(&name) || name.starts_with("x-");
    let plain = headers.iter().filter(|(name, _)| is_plain(name.as_str()));
    plain
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
        .take(HEADERS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Opened {
        let request = Request::get("/shop/socket.io/?EIO=4&transport=polling&shop=7&token=secret&jwt=secret&t=x")
            .header("host", "Shop.example:3001")
            .header("authorization", "Bearer secret")
            .header("cookie", "a=b")
            .header("x-device", "phone")
            .header("user-agent", "node")
            .body(())
            .expect("a request");
        Opened::of(&request, "jwt")
    }

    #[test]
    fn secrets_are_not_kept() {
        let opened = opened();
        assert_eq!((opened.host.as_str(), opened.query.as_str()), ("shop.example", "shop=7"));
        let mut names: Vec<_> = opened.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["user-agent", "x-device"]);
    }

    #[test]
    fn a_dialect_fits_when_all_its_conditions_do() {
        let opened = opened();
        let fits = |host: Option<&str>, path: Option<&str>, port: Option<u16>| {
            opened.fits(&DialectSettings {
                host: host.map(Into::into),
                path: path.map(Into::into),
                port,
                ..DialectSettings::default()
            })
        };
        assert!(fits(None, None, None) && fits(Some("SHOP.example"), Some("/shop/socket.io"), Some(0)));
        assert!(!fits(Some("other.example"), None, None) && !fits(None, Some("/socket.io/"), None) && !fits(None, None, Some(1)));
    }
}
