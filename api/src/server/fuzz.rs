//! A door for the fuzz target of access tokens. Compiled for fuzzing only.

/// What a client sends as its token.
pub fn access_token(text: &str) {
    let _ = super::token::parse(text);
}
