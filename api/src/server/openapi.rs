//! The OpenAPI 3.1 document, from the same annotations that make the routes.

use std::sync::Arc;

use axum::response::Response;
use utoipa::openapi::{
    ContactBuilder, InfoBuilder, LicenseBuilder, OpenApi,
    security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
};

const DESCRIPTION: &str = "The native API of the Storm Cloud Platform. Any node of the city answers any \
request. Errors are application/problem+json (RFC 9457). Writes take an Idempotency-Key header (a UUID): a \
repeat with the same key is done once. Reads take ?consistency=stale. See docs/api.md.";

/// The document of all routes, finished: who we are, and that a token is needed.
pub(crate) fn finish(mut document: OpenApi) -> String {
    document.info = InfoBuilder::new()
        .title("Storm Cloud Platform")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
        .contact(Some(ContactBuilder::new().url(Some(env!("CARGO_PKG_REPOSITORY"))).build()))
        .build();
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components.get_or_insert_default().security_schemes.insert("token".into(), scheme.into());
    document.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    document.to_json().expect("the document is plain data")
}

pub(crate) async fn serve(document: Arc<str>) -> Response {
    super::json_text(document.to_string())
}
