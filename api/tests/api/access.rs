//! Logging in, tokens, passwords.

use axum::http::{Method, StatusCode};
use proptest::prelude::*;
use serde_json::json;

use crate::city::{City, PASSWORD};

#[tokio::test]
async fn a_password_gives_a_token_and_the_token_says_who_one_is() {
    let city = City::new().await;
    let token = city.login("member", PASSWORD).await.ok();
    assert_eq!(token["token"].as_str().expect("text").len(), scp_api::server::TOKEN_CHARACTERS);
    let me = city.get("member", "/v1/whoami").await.ok();
    assert_eq!(me["name"], "member");
    assert_eq!(me["grants"][0]["role"], "member");
    assert_eq!(me["expires_at"], token["expires_at"]);
    let root = city.ask(Method::GET, "/v1/whoami").local().send().await.ok();
    assert_eq!((&root["user"], &root["city_roles"][0]), (&json!(null), &json!("admin")));
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_are_answered_alike() {
    let city = City::new().await;
    let wrong = city.login("member", "wrong horse").await.problem("login_failed");
    let unknown = city.login("nobody-at-all", "wrong horse").await.problem("login_failed");
    assert_eq!(wrong["detail"], unknown["detail"]);
    city.login("../etc/passwd\u{0}", PASSWORD).await.problem("login_failed");
    let id = "00000000-0000-0000-0000-000000000005";
    city.login(id, PASSWORD).await.problem("login_failed");
}

#[tokio::test(start_paused = true)]
async fn guessing_is_slowed_down_and_says_how_long() {
    let city = City::new().await;
    for _ in 0..6 {
        city.login("member", "wrong horse").await.problem("login_failed");
    }
    let slowed = city.login("member", PASSWORD).await;
    assert_eq!(slowed.status, StatusCode::TOO_MANY_REQUESTS);
    slowed.problem("too_many_logins");
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    city.login("member", PASSWORD).await.ok();
}

#[tokio::test]
async fn without_a_token_there_is_nothing_and_the_answer_says_how_to_get_one() {
    let city = City::new().await;
    let none = city.ask(Method::GET, "/v1/vms").send().await;
    assert_eq!(none.headers["www-authenticate"], "Bearer");
    assert!(none.problem("unauthenticated")["remedy"].as_str().expect("a remedy").contains("login"));
    for value in ["Basic YTpi", "Bearer", ""] {
        let reply = city.ask(Method::GET, "/v1/vms").header("authorization", value).send().await;
        reply.problem("unauthenticated");
    }
    let twice = city.by("member", Method::GET, "/v1/vms").header("authorization", "Bearer x");
    twice.send().await.problem("unauthenticated");
}

/// Every bit of a token, one at a time, and then anything at all.
#[tokio::test]
async fn a_token_altered_by_a_bit_is_refused() {
    let city = City::new().await;
    let token = city.token("admin").to_owned();
    // Known to be right by now: what is like it is not.
    city.get("admin", "/v1/whoami").await.ok();
    for at in 0..token.len() {
        for bit in 0..7 {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let altered = String::from_utf8(bytes).expect("it stays ASCII");
            let value = format!("Bearer {altered}");
            let Ok(value) = axum::http::HeaderValue::from_str(&value) else { continue };
            let value = value.to_str().unwrap_or("Bearer");
            let reply = city.ask(Method::GET, "/v1/whoami").header("authorization", value).send().await;
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "byte {at} bit {bit}: {altered}");
        }
    }
    let cut = city.ask(Method::GET, "/v1/whoami").header("authorization", &format!("Bearer {}", &token[1..]));
    cut.send().await.problem("token_refused");
    let padded = city.ask(Method::GET, "/v1/whoami").header("authorization", &format!("Bearer {token}="));
    padded.send().await.problem("token_refused");
    city.get("admin", "/v1/whoami").await.ok();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_text_is_a_token_by_chance(text in "[A-Za-z0-9_.-]{163}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let status = runtime.block_on(async {
            let city = City::new().await;
            city.ask(Method::GET, "/v1/whoami").header("authorization", &format!("Bearer {text}")).send().await.status
        });
        prop_assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn a_token_ends_when_it_said_it_would() {
    let city = City::new().await;
    let body = json!({ "user": "member", "password": PASSWORD, "lifetime_s": 60 });
    let token = city.ask(Method::POST, "/v1/tokens").json(body).send().await.ok();
    let value = format!("Bearer {}", token["token"].as_str().expect("a token"));
    let whoami = || city.ask(Method::GET, "/v1/whoami").header("authorization", &value).send();
    city.cluster.advance_ms(59_999);
    whoami().await.ok();
    city.cluster.advance_ms(1);
    assert!(whoami().await.problem("token_refused")["detail"].as_str().expect("text").contains("expired"));
}

#[tokio::test]
async fn a_revocation_ends_tokens_whatever_the_clock_of_their_node_said() {
    let city = City::new().await;
    // The node that signs is an hour ahead; the revocation comes from one whose clock is right.
    city.cluster.advance_ms(3_600_000);
    let token = city.login("member", PASSWORD).await.ok();
    city.cluster.now.fetch_sub(3_600_000, std::sync::atomic::Ordering::Relaxed);
    city.cluster.advance_ms(1);
    city.by("admin", Method::PATCH, "/v1/users/member")
        .json(json!({ "revoke_tokens": true }))
        .send()
        .await
        .ok();
    let value = format!("Bearer {}", token["token"].as_str().expect("a token"));
    let reply = city.ask(Method::GET, "/v1/whoami").header("authorization", &value).send().await;
    assert!(reply.problem("token_refused")["detail"].as_str().expect("text").contains("revoked"));
    city.cluster.advance_ms(1);
    city.login("member", PASSWORD).await.ok();
}

#[tokio::test]
async fn disabling_deleting_and_a_new_password_end_tokens_at_once() {
    let city = City::new().await;
    city.by("admin", Method::PATCH, "/v1/users/reader").json(json!({ "enabled": false })).send().await.ok();
    city.get("reader", "/v1/whoami").await.problem("token_refused");
    city.login("reader", PASSWORD).await.problem("login_failed");
    city.delete("admin", "/v1/users/stranger").await.ok();
    city.get("stranger", "/v1/whoami").await.problem("token_refused");
    let body = json!({ "password": "a wholly new sentence", "current_password": PASSWORD });
    city.put("member", "/v1/users/member/password", body).await.ok();
    city.get("member", "/v1/whoami").await.problem("token_refused");
    city.login("member", PASSWORD).await.problem("login_failed");
    city.login("member", "a wholly new sentence").await.ok();
}

#[tokio::test]
async fn ones_own_password_needs_the_current_one() {
    let city = City::new().await;
    let new = json!({ "password": "a wholly new sentence" });
    assert_eq!(
        city.put("member", "/v1/users/member/password", new.clone()).await.invalid(),
        ["current_password"]
    );
    let wrong = json!({ "password": "a wholly new sentence", "current_password": "guessed" });
    city.put("member", "/v1/users/member/password", wrong).await.problem("login_failed");
    assert_eq!(
        city.put("admin", "/v1/users/member/password", json!({ "password": "short" })).await.invalid(),
        ["password"]
    );
    city.put("admin", "/v1/users/member/password", new).await.ok();
}

#[tokio::test]
async fn removing_a_node_ends_the_tokens_that_it_signed() {
    let city = City::new().await;
    let node = scp_api::cluster::Cluster::node(&*city.cluster);
    city.cluster.state.lock().expect("no panic").nodes.remove(&node);
    city.get("admin", "/v1/whoami").await.problem("token_refused");
}

#[tokio::test]
async fn one_can_log_in_and_see_the_status_without_a_quorum() {
    let city = City::new().await;
    city.cluster.set_quorum(false);
    city.login("admin", PASSWORD).await.ok();
    city.get("admin", "/v1/vms").await.problem("no_quorum");
    city.get("admin", "/v1/vms?consistency=stale").await.ok();
}

#[tokio::test]
async fn the_last_admin_stays() {
    let city = City::new().await;
    city.delete("admin", "/v1/users/admin").await.problem("forbidden");
    let reply =
        city.by("admin", Method::PATCH, "/v1/users/admin").json(json!({ "enabled": false })).send().await;
    reply.problem("forbidden");
    assert!(!matches!(city.cluster.snapshot().users.len(), 0));
}
