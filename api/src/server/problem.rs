//! Every problem that the API tells: one table of codes.
//!
//! A [`Problem`] on its way out travels in the response's extensions; the frame around all routes
//! ([`super::frame`]) adds the request id and writes the body. So does it with errors that are not ours
//! (axum's own), which makes `application/problem+json` true everywhere.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::v1::{InvalidField, Problem};

macro_rules! codes {
    ($($code:ident = $text:literal, $status:literal, $title:literal;)*) => {
        /// The kinds of problems. Their texts are part of the API: clients match on them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($code,)* }

        impl Code {
            pub const ALL: &'static [Code] = &[$(Code::$code,)*];

            pub const fn text(self) -> &'static str {
                match self { $(Self::$code => $text,)* }
            }

            pub const fn status(self) -> u16 {
                match self { $(Self::$code => $status,)* }
            }

            pub const fn title(self) -> &'static str {
                match self { $(Self::$code => $title,)* }
            }
        }
    };
}

codes! {
    MalformedRequest = "malformed_request", 400, "The request cannot be read";
    Unauthenticated = "unauthenticated", 401, "An access token is needed";
    TokenRefused = "token_refused", 401, "The access token is not accepted";
    LoginFailed = "login_failed", 401, "User name and password do not belong together";
    Forbidden = "forbidden", 403, "Not permitted";
    NotFound = "not_found", 404, "There is no such thing";
    RouteUnknown = "route_unknown", 404, "There is no such route";
    MethodNotAllowed = "method_not_allowed", 405, "The route does not know this method";
    Ambiguous = "ambiguous", 409, "The name is not unique";
    NameTaken = "name_taken", 409, "The name is taken";
    IdTaken = "id_taken", 409, "The id is taken";
    InUse = "in_use", 409, "It is in use";
    WrongState = "wrong_state", 409, "Its state does not allow this";
    QuotaExceeded = "quota_exceeded", 409, "The quota does not suffice";
    LimitReached = "limit_reached", 409, "A limit of the platform is reached";
    Stale = "stale", 409, "The world has moved on";
    NotInitialised = "not_initialised", 409, "This server belongs to no city yet";
    AlreadyInitialised = "already_initialised", 409, "The city exists already";
    JoinTokenRefused = "join_token_refused", 409, "The join token is not accepted";
    ProtocolTooFar = "protocol_too_far", 409, "The software versions are too far apart";
    BrakeEngaged = "brake_engaged", 409, "Too many nodes are silent at once";
    SecretTold = "secret_told", 409, "The secret was told already";
    LengthRequired = "length_required", 411, "The length of the body is needed";
    TooLarge = "too_large", 413, "The body is too large";
    MediaType = "media_type", 415, "The body is not of the right kind";
    Invalid = "invalid", 422, "Some fields are not valid";
    BadContent = "bad_content", 422, "The bytes are not what they should be";
    KeyReused = "key_reused", 422, "The idempotency key belongs to another request";
    TooManyLogins = "too_many_logins", 429, "Too many failed logins";
    HeadersTooLarge = "headers_too_large", 431, "The request's headers are too large";
    Internal = "internal", 500, "A fault of the platform";
    NodeUnreachable = "node_unreachable", 502, "A node cannot be reached";
    NoQuorum = "no_quorum", 503, "The city cannot agree at the moment";
    ReadOnly = "read_only", 503, "This node is read-only";
    Overloaded = "overloaded", 503, "Too many requests are under way";
    DiskFull = "disk_full", 507, "The node's disk is full";
    Timeout = "timeout", 504, "There was no answer in time";
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            type_uri: format!("/errors/{}", code.text()),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            code: code.text().to_owned(),
            reason: None,
            remedy: None,
            request_id: String::new(),
            invalid: Vec::new(),
        }
    }

    pub(crate) fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    pub(crate) fn invalid(invalid: Vec<InvalidField>) -> Self {
        let fields: Vec<_> = invalid.iter().map(|field| field.field.as_str()).collect();
        let detail = format!("not valid: {}", fields.join(", "));
        Self { invalid, ..Self::new(Code::Invalid, detail) }
    }

    pub(crate) fn invalid_field(field: &str, why: impl Into<String>) -> Self {
        Self::invalid(vec![InvalidField { field: field.to_owned(), why: why.into() }])
    }

    /// Something of that kind does not exist, or the asker may not know that it does.
    pub(crate) fn not_found(kind: &str, asked: &str) -> Self {
        let word = kind.replace('_', " ");
        let command = match kind {
            "city" => "status".to_owned(),
            "join_token" => "token list".to_owned(),
            noun => format!("{noun} list"),
        };
        Self::new(Code::NotFound, format!("there is no {word} {}", shown(asked)))
            .remedy(format!("See what there is: scpctl {command}"))
    }
}

/// Text from outside, safe in a message: short, quoted, control characters escaped.
pub(crate) fn shown(text: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    let short: String = text.chars().take(CHARACTERS_MAX).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("{short:?}{more}")
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_their_status_is_an_error() {
        let mut texts: Vec<_> = Code::ALL.iter().map(|code| code.text()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| (400..600).contains(&code.status())));
    }

    #[test]
    fn text_from_outside_is_short_and_printable() {
        assert_eq!(shown("a\u{7}b"), r#""a\u{7}b""#);
        assert_eq!(shown(&"x".repeat(500)).chars().count(), 83);
    }
}
