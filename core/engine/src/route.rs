//! Routes of plugins: which request one fits, and whether two could mean the same request.
//!
//! A path is a list of segments: a text that stands for itself, `{name}` for any one segment that is not empty, and at the end
//! perhaps `*` for whatever follows, nothing included.

use std::collections::BTreeSet;

use haggle_model::PluginId;

/// Who may use a plugin's route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAccess {
    /// Anybody.
    Nobody,
    /// Any authenticated user.
    User,
    /// A user whose token has this role.
    Role(String),
}

/// A route that a plugin's manifest declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whose.
    pub plugin: PluginId,
    /// `GET`, `POST` … or `*`.
    pub method: String,
    /// `/plugins/<id>/…` or a mounted path, in the form that the module describes.
    pub path: String,
    /// Who may use it.
    pub access: RouteAccess,
    /// Only where the operator has bound the plugin's routes to a host or a port; there it comes before a route of the core.
    pub bound: bool,
}

impl Route {
    /// Method and path without the names of its parameters: two routes with one shape fit the same requests.
    pub fn shape(&self) -> String {
        let unnamed = |segment| if parameter(segment).is_some() { "{}" } else { segment };
        let path: Vec<&str> = self.path.split('/').map(unnamed).collect();
        format!("{} {}", self.method, path.join("/"))
    }
}

/// Names of parameters, and the segments that stand for them, without percent signs.
pub type Parameters = Vec<(String, String)>;

/// The same as they stand in the pattern and in the request.
type Pairs<'a> = Vec<(&'a str, &'a str)>;

/// How exactly a route says what it fits: its path, its method.
type Rank = (Vec<u8>, bool);

/// What fits a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// This route, with its parameters.
    Route(&'a Route, Parameters),
    /// Its path fits, but only with other methods: these, in the form of the header `Allow`.
    OtherMethod(String),
    /// No route.
    Nothing,
}

/// The route that fits best: in the first segment in which two differ, a text goes before a parameter and that before `*`;
/// of two with one path that which names the method.
pub fn find<'a>(routes: impl IntoIterator<Item = &'a Route>, method: &str, path: &str) -> Found<'a> {
    let mut others = BTreeSet::new();
    let mut best: Option<(Rank, &Route, Pairs<'_>)> = None;
    for route in routes {
        let Some(parameters) = parameters(&route.path, path) else { continue };
        if route.method != "*" && route.method != method {
            others.insert(route.method.as_str());
            continue;
        }
        let rank: Rank = (rank(&route.path), route.method != "*");
        if best.as_ref().is_none_or(|(other, ..)| *other < rank) {
            best = Some((rank, route, parameters));
        }
    }
    match best {
        Some((_, route, parameters)) => {
            let owned = |(name, segment): (&str, &str)| (name.to_owned(), decoded(segment));
            Found::Route(route, parameters.into_iter().map(owned).collect())
        }
        None if others.is_empty() => Found::Nothing,
        None => Found::OtherMethod(others.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

enum Segment<'a> {
    Text(&'a str),
    Parameter(&'a str),
    Rest,
}

fn segments(pattern: &str) -> impl Iterator<Item = Segment<'_>> {
    let texts = pattern.strip_prefix('/').unwrap_or(pattern).split('/');
    texts.map(|text| match text {
        "*" => Segment::Rest,
        _ => parameter(text).map_or(Segment::Text(text), Segment::Parameter),
    })
}

/// The name in a segment `{name}`.
pub fn parameter(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

/// The parameters of a path that fits the pattern.
fn parameters<'a>(pattern: &'a str, path: &'a str) -> Option<Pairs<'a>> {
    let mut found = Vec::new();
    let mut parts = path.strip_prefix('/')?.split('/');
    for segment in segments(pattern) {
        match (segment, parts.next()) {
            (Segment::Rest, _) => return Some(found),
            (Segment::Text(text), Some(part)) if text == part => {}
            (Segment::Parameter(name), Some(part)) if !part.is_empty() => found.push((name, part)),
            _ => return None,
        }
    }
    parts.next().is_none().then_some(found)
}

/// A segment of a path without its percent signs; as it was where that is no text.
fn decoded(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| segment.to_owned())
}

/// Whether there may be a path that both patterns fit. Upper and lower case count as the same, so that no route looks like one
/// that it is not.
pub fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (segments(one), segments(other));
    loop {
        match (one.next(), other.next()) {
            (Some(Segment::Rest), _) | (_, Some(Segment::Rest)) | (None, None) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(Segment::Text(one)), Some(Segment::Text(other))) if !one.eq_ignore_ascii_case(other) => return false,
            _ => {}
        }
    }
}

/// How exactly a pattern says what it fits; an end is more exact than `*`.
fn rank(pattern: &str) -> Vec<u8> {
    let of = |segment| match segment {
        Segment::Rest => 0,
        Segment::Parameter(_) => 1,
        Segment::Text(_) => 2,
    };
    let mut rank: Vec<u8> = segments(pattern).map(of).collect();
    if rank.last() != Some(&0) {
        rank.push(3);
    }
    rank
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Vec<Route> {
        let route = |method: &str, path: &str| Route {
            plugin: "offers".into(),
            method: method.into(),
            path: path.into(),
            access: RouteAccess::User,
            bound: false,
        };
        vec![
            route("GET", "/plugins/offers/stats"),
            route("*", "/plugins/offers/*"),
            route("POST", "/message/create"),
            route("GET", "/chat/{id}"),
            route("GET", "/chat/{id}/messages/{message}"),
            route("GET", "/chat/online"),
            route("*", "/chat/{id}"),
        ]
    }

    #[track_caller]
    fn check(method: &str, path: &str, expect: Option<(&str, &[(&str, &str)])>) {
        let routes = routes();
        let found = match find(&routes, method, path) {
            Found::Route(route, parameters) => Some((format!("{} {}", route.method, route.path), parameters)),
            _ => None,
        };
        let owned = |(name, segment): &(&str, &str)| ((*name).to_owned(), (*segment).to_owned());
        let expect = expect.map(|(route, parameters)| (route.to_owned(), parameters.iter().map(owned).collect()));
        assert_eq!(found, expect, "{method} {path}");
    }

    #[test]
    fn the_most_exact_route_answers() {
        check("GET", "/plugins/offers/stats", Some(("GET /plugins/offers/stats", &[])));
        check("POST", "/plugins/offers/stats", Some(("* /plugins/offers/*", &[])));
        check("GET", "/plugins/offers", Some(("* /plugins/offers/*", &[])));
        check("GET", "/plugins/offers/a/b", Some(("* /plugins/offers/*", &[])));
        check("GET", "/plugins/offersx", None);
        check("POST", "/message/create", Some(("POST /message/create", &[])));
        check("POST", "/message/create/x", None);
        assert_eq!(find(&routes(), "GET", "/message/create"), Found::OtherMethod("POST".into()));
        let mut more = routes();
        more.push(Route {
            method: "DELETE".into(),
            ..more[2].clone()
        });
        assert_eq!(find(&more, "GET", "/message/create"), Found::OtherMethod("DELETE, POST".into()));
        assert_eq!(find(&routes(), "GET", "/message"), Found::Nothing);
    }

    #[test]
    fn a_parameter_is_one_segment() {
        check("GET", "/chat/7", Some(("GET /chat/{id}", &[("id", "7")])));
        check("GET", "/chat/online", Some(("GET /chat/online", &[])));
        check("PUT", "/chat/online", Some(("* /chat/{id}", &[("id", "online")])));
        let both = [("id", "7"), ("message", "a b")];
        check("GET", "/chat/7/messages/a%20b", Some(("GET /chat/{id}/messages/{message}", &both)));
        for path in ["/chat/", "/chat/7/", "/chat/7/messages", "/chat//messages/1", "/chat"] {
            check("GET", path, None);
        }
    }

    #[test]
    fn routes_overlap_where_one_path_fits_both() {
        for (one, other) in [
            ("/a", "/a"),
            ("/a/b", "/a/{x}"),
            ("/a/{y}", "/a/{x}"),
            ("/a/{x}/c", "/a/b/{y}"),
            ("/a/*", "/a"),
            ("/*", "/a/b"),
            ("/{x}", "/v1/*"),
            ("/API/x", "/api/*"),
        ] {
            assert!(overlap(one, other) && overlap(other, one), "{one} {other}");
        }
        for (one, other) in [
            ("/a", "/b"),
            ("/a", "/a/{x}"),
            ("/a/{x}", "/a/{x}/b"),
            ("/a/{x}/c", "/a/{x}/d"),
            ("/apiary", "/api/*"),
        ] {
            assert!(!overlap(one, other) && !overlap(other, one), "{one} {other}");
        }
    }

    #[test]
    fn parameters_come_without_percent_signs() {
        for (segment, expect) in [
            ("plain", "plain"),
            ("a%20b%2fc", "a b/c"),
            ("caf%C3%A9", "café"),
            ("100%", "100%"),
            ("%4", "%4"),
            ("%zz", "%zz"),
            ("%ff", "%ff"),
        ] {
            assert_eq!(decoded(segment), expect);
        }
    }
}
