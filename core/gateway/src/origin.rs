//! Which web pages may talk to the server: the allow-list for the `Origin` header, on upgrades and on REST.

use hyper::Uri;

/// The origins that are let in. A request without an `Origin` header comes from no web page and is not judged here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    allowed: Vec<String>,
    any: bool,
    loopback: bool,
}

/// An entry of the allow-list that is no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no origin: write scheme://host[:port] without a path, or * for every origin")]
pub struct OriginError(pub String);

impl Origins {
    /// Lets in `allowed` (`https://shop.example`, or `*` for all); with `loopback` also pages served from this machine.
    pub fn new(allowed: &[String], loopback: bool) -> Result<Origins, OriginError> {
        let any = allowed.iter().any(|origin| origin == "*");
        let allowed = allowed
            .iter()
            .filter(|origin| *origin != "*")
            .map(|origin| normalize(origin))
            .collect::<Result<_, _>>()?;
        Ok(Origins { allowed, any, loopback })
    }

    /// Whether the page at this origin may talk to us. `null` never may, not even with `*`.
    pub fn allows(&self, origin: &str) -> bool {
        let Ok(origin) = normalize(origin) else { return false };
        self.any || self.allowed.contains(&origin) || (self.loopback && is_loopback(&origin))
    }

    /// The same for a request: without the header there is nothing to judge, and a page of this very server is let in.
    pub fn allow_request(&self, headers: &hyper::HeaderMap) -> bool {
        let Some(origin) = headers.get(hyper::header::ORIGIN) else { return true };
        let Ok(origin) = origin.to_str() else { return false };
        let host = headers.get(hyper::header::HOST).and_then(|host| host.to_str().ok());
        self.allows(origin) || host.is_some_and(|host| is_same_host(origin, host))
    }
}

/// Whether the page came from the host it now talks to. A proxy may have taken TLS off, so the scheme is not compared.
fn is_same_host(origin: &str, host: &str) -> bool {
    let authority = |scheme: &str| normalize(origin).ok().and_then(|origin| Some(origin.strip_prefix(scheme)?.to_owned()));
    let host = host.to_ascii_lowercase();
    let plain = |authority: String| authority == host || host.strip_suffix(":80").or(host.strip_suffix(":443")) == Some(authority.as_str());
    authority("http://").or_else(|| authority("https://")).is_some_and(plain)
}

/// Scheme and host in lower case, the default port left out.
fn normalize(origin: &str) -> Result<String, OriginError> {
    let wrong = || OriginError(origin.into());
    let (scheme, authority) = origin.split_once("://").ok_or_else(wrong)?;
    let scheme = scheme.to_ascii_lowercase();
    if scheme.is_empty() || authority.is_empty() || authority.contains(['/', '?', '#', '@', ' ']) {
        return Err(wrong());
    }
    let authority = authority.to_ascii_lowercase();
    let default_port = match scheme.as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let authority = if default_port.is_empty() {
        &authority
    } else {
        authority.strip_suffix(default_port).unwrap_or(&authority)
    };
    format!("{scheme}://{authority}").parse::<Uri>().map_err(|_| wrong())?;
    Ok(format!("{scheme}://{authority}"))
}

fn is_loopback(origin: &str) -> bool {
    let Ok(uri) = origin.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.ends_with(".localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(allowed: &[&str], loopback: bool, origin: &str, expect: bool) {
        let allowed: Vec<String> = allowed.iter().map(|s| s.to_string()).collect();
        assert_eq!(
            Origins::new(&allowed, loopback).expect("valid list").allows(origin),
            expect,
            "{origin} in {allowed:?}"
        );
    }

    #[test]
    fn an_origin_is_compared_whole() {
        let list = ["https://shop.example", "http://intra.example:8080"];
        check(&list, false, "https://shop.example", true);
        check(&list, false, "HTTPS://Shop.Example:443", true);
        check(&list, false, "http://shop.example", false);
        check(&list, false, "https://shop.example.evil.test", false);
        check(&list, false, "https://evil.test/https://shop.example", false);
        check(&list, false, "https://user@shop.example", false);
        check(&list, false, "http://intra.example:8080", true);
        check(&list, false, "http://intra.example", false);
        check(&list, false, "null", false);
        check(&list, false, "", false);
    }

    #[test]
    fn loopback_pages_are_let_in_on_request_only() {
        for origin in [
            "http://localhost:5173",
            "http://127.0.0.1:8080",
            "http://[::1]:3000",
            "http://app.localhost",
        ] {
            check(&[], true, origin, true);
            check(&[], false, origin, false);
        }
        for origin in ["http://localhost.evil.test", "http://127.0.0.1.evil.test", "http://10.0.0.1"] {
            check(&[], true, origin, false);
        }
    }

    #[test]
    fn a_page_of_this_server_and_a_request_of_no_page_are_let_in() {
        let request = |origin: &str, host: &str| {
            let headers = [(hyper::header::ORIGIN, origin), (hyper::header::HOST, host)];
            let headers = headers
                .into_iter()
                .filter(|(_, v)| !v.is_empty())
                .map(|(k, v)| (k, v.parse().expect("value")))
                .collect();
            Origins::default().allow_request(&headers)
        };
        assert!(request("", "chat.example"));
        assert!(request("http://chat.example:3001", "chat.example:3001"));
        assert!(request("https://chat.example", "chat.example"));
        assert!(!request("https://evil.example", "chat.example"));
        assert!(!request("https://chat.example:8443", "chat.example"));
        assert!(!request("null", "null"));
    }

    #[test]
    fn a_star_lets_in_every_page_that_has_an_origin() {
        check(&["*"], false, "https://anything.example", true);
        check(&["*"], false, "null", false);
    }

    #[test]
    fn what_is_no_origin_is_refused_in_the_list() {
        for wrong in ["shop.example", "https://shop.example/", "https://", "https://a b"] {
            assert!(Origins::new(&[wrong.to_string()], false).is_err(), "{wrong}");
        }
    }
}
