//! The API's own description and the page that shows it, without a request to anywhere else.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use utoipa::{
    OpenApi,
    openapi::{
        ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApiBuilder, RefOr, SecurityRequirement,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
        tag::TagBuilder,
    },
};

use super::problem::{FieldProblem, Problem, ProblemBody, title_of};

const ABOUT: &str = "Conversations, messages and what belongs to them.\n\n\
    **Text is stored and returned byte-exact.** The server escapes nothing: whoever displays a message escapes it for where it stands.\n\n\
    Ids are opaque strings. Times are RFC 3339 in UTC with milliseconds. Lists go on with `nextCursor`. Writes take an \
    `Idempotency-Key`; a retry with the same one changes nothing and gets the first answer. Errors are `application/problem+json` with a \
    stable `code`. Fields of a body that are not listed here are ignored; a listed field that stands twice is refused.";

const PAGE: &str = include_str!("../../assets/docs.html");
const START: &str = include_str!("../../assets/docs.js");
const BUNDLE: &[u8] = include_bytes!("../../assets/swagger-ui-bundle.js.gz");
const STYLE: &[u8] = include_bytes!("../../assets/swagger-ui.css.gz");
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(OpenApi)]
#[openapi(components(schemas(ProblemBody<'static>, FieldProblem)))]
struct Extra;

/// The description without its routes.
pub fn description() -> utoipa::openapi::OpenApi {
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build());
    let mut components = Extra::openapi().components.unwrap_or_default();
    let schemes = ComponentsBuilder::new().security_scheme("bearer", bearer).build();
    components.security_schemes = schemes.security_schemes;
    let info = InfoBuilder::new()
        .title("Haggle")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(
            LicenseBuilder::new()
                .name("MIT OR Apache-2.0")
                .identifier(Some("MIT OR Apache-2.0"))
                .build(),
        ))
        .build();
    let tags = [
        "conversations",
        "messages",
        "participants",
        "events",
        "commands",
        "users",
        "notifications",
    ];
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components))
        .security(Some([SecurityRequirement::new("bearer", Vec::<String>::new())]))
        .tags(Some(tags.map(|name| TagBuilder::new().name(name).build())))
        .build()
}

/// The OpenAPI 3.1 document of the REST API, as JSON.
pub fn openapi() -> String {
    let (_, mut document) = super::api().split_for_parts();
    describe_responses(&mut document);
    let mut text = document.to_pretty_json().expect("the description is plain data");
    text.push('\n');
    text
}

/// Every response must say what it is; most are what their status says.
fn describe_responses(document: &mut utoipa::openapi::OpenApi) {
    let operations = document.paths.paths.values_mut().flat_map(|path| {
        [&mut path.get, &mut path.post, &mut path.put, &mut path.patch, &mut path.delete]
            .into_iter()
            .flatten()
    });
    for (status, response) in operations.flat_map(|operation| &mut operation.responses.responses) {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            let reason = status
                .parse()
                .ok()
                .and_then(|status| StatusCode::from_u16(status).ok())
                .and_then(|status| status.canonical_reason());
            response.description = reason.unwrap_or("Done").into();
        }
    }
}

/// `/openapi.json`
pub async fn openapi_json() -> Response {
    static DOCUMENT: LazyLock<String> = LazyLock::new(openapi);
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

/// `/api/docs`
pub async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, PAGE).into_response()
}

/// `/api/docs/{file}`: the few files the page needs.
pub async fn file(Path(name): Path<String>) -> Response {
    const CACHE: (HeaderName, HeaderValue) = (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=86400"));
    let packed = |kind: &'static str, bytes: &'static [u8]| {
        (
            [
                (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
                (header::CONTENT_ENCODING, HeaderValue::from_static("gzip")),
                CACHE,
            ],
            bytes,
        )
            .into_response()
    };
    match name.as_str() {
        "docs.js" => ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], START).into_response(),
        "swagger-ui-bundle.js" => packed("text/javascript; charset=utf-8", BUNDLE),
        "swagger-ui.css" => packed("text/css; charset=utf-8", STYLE),
        _ => Problem::not_found().into_response(),
    }
}

/// `/problems/{code}`: what the `type` of a problem points to.
pub async fn problem(Path(code): Path<String>) -> Response {
    match title_of(&code) {
        Some(title) => ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{code}: {title}.\n")).into_response(),
        None => (StatusCode::NOT_FOUND, Problem::not_found()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_3_1_and_speaks_of_this_product_only() {
        let document: serde_json::Value = serde_json::from_str(&openapi()).expect("JSON");
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["info"]["title"], "Haggle");
        assert!(document["info"].get("contact").is_none());
        let paths = document["paths"].as_object().expect("paths");
        let operations = paths.values().flat_map(|path| path.as_object().expect("a path").values());
        let ids: Vec<&str> = operations.map(|operation| operation["operationId"].as_str().expect("an id")).collect();
        assert_eq!(
            ids.len(),
            ids.iter().collect::<std::collections::BTreeSet<_>>().len(),
            "operation ids are unique: {ids:?}"
        );
    }

    #[test]
    fn the_page_asks_nobody_else() {
        for text in [PAGE, START] {
            assert!(
                !text.contains("http://") && !text.contains("https://") && !text.contains("\"//"),
                "{text}"
            );
        }
        for file in ["docs.js", "swagger-ui-bundle.js", "swagger-ui.css"] {
            assert!(PAGE.contains(&format!("/api/docs/{file}")), "{file}");
        }
    }
}
