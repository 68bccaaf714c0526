//! The native lane: the same permissions as over HTTP, in fewer bytes.

use std::sync::Arc;

use axum::http::Method;
use futures::future::join_all;
use scp_api::native::{Ask, Asking, Native, NativeClient, NativeError, NewKeypair, Said};
use scp_model::{KeypairId, RequestId};
use serde_json::json;
use uuid::Uuid;

use crate::city::{City, DEFAULT, name};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ana@city";

/// A stream to the city's node, by whoever has the token.
async fn connect(city: &City, token: &str) -> Result<NativeClient, NativeError> {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let native = Arc::new(Native::new(city.cluster.clone()));
    tokio::spawn(async move { native.serve(theirs).await });
    NativeClient::open(ours, token).await
}

async fn by(city: &City, user: &str) -> NativeClient {
    connect(city, city.token(user)).await.expect("the token is good")
}

fn keypair(text: &str) -> NewKeypair {
    NewKeypair { id: KeypairId(Uuid::new_v4()), project: DEFAULT, name: name(text), public_key: KEY.into() }
}

fn code<T: std::fmt::Debug>(result: Result<T, NativeError>) -> String {
    match result {
        Err(NativeError::Refused(failure)) => failure.code,
        other => panic!("that was to be refused: {other:?}"),
    }
}

#[tokio::test]
async fn what_is_written_is_read_and_a_repeat_changes_nothing() {
    let city = City::new().await;
    let member = by(&city, "member").await;
    let (request, keypair) = (RequestId(Uuid::new_v4()), keypair("ana"));
    let ask = Ask::CreateKeypair { request, keypair: keypair.clone() };
    let first = member.ask(ask.clone()).await.expect("it is free");
    assert_eq!(member.ask(ask.clone()).await.expect("repeated"), first);
    assert_eq!(city.cluster.snapshot().keypairs.len(), 1);
    let kept = by(&city, "reader").await.keypair(keypair.id).await.expect("readers see it");
    assert_eq!((kept.name, kept.public_key.as_str()), (keypair.name, KEY));
    assert!(kept.fingerprint.starts_with("SHA256:"));
    // The same id of somebody else's is another request.
    let manager = by(&city, "manager").await.ask(ask).await.expect("the same contents");
    assert_ne!(manager, first);
    let request = RequestId(Uuid::new_v4());
    let delete = Ask::DeleteKeypair { request, id: kept.id };
    let gone = member.ask(delete.clone()).await.expect("it is there");
    assert_eq!(member.ask(delete).await.expect("repeated"), gone);
    assert_eq!(code(member.keypair(kept.id).await), "not_found");
}

#[tokio::test]
async fn permissions_are_those_of_http() {
    let city = City::new().await;
    let kept = keypair("kept");
    by(&city, "member").await.create_keypair(kept.clone()).await.expect("a member may");
    for user in ["reader", "stranger", "nobody", "operator", "auditor"] {
        assert_eq!(code(by(&city, user).await.create_keypair(keypair("x")).await), "forbidden", "{user}");
        let deleted = code(by(&city, user).await.delete_keypair(kept.id).await);
        let expected = if user == "reader" { "forbidden" } else { "not_found" };
        assert_eq!(deleted, expected, "{user}");
    }
    for user in ["stranger", "nobody", "operator", "auditor"] {
        assert_eq!(code(by(&city, user).await.keypair(kept.id).await), "not_found", "{user}");
    }
    let mut bad = keypair("bad");
    bad.public_key = "-----BEGIN OPENSSH PRIVATE KEY-----".into();
    assert_eq!(code(by(&city, "member").await.create_keypair(bad).await), "invalid");
    assert_eq!(city.cluster.snapshot().keypairs.len(), 1);
}

#[tokio::test]
async fn whoever_has_no_good_token_gets_no_further() {
    let city = City::new().await;
    assert_eq!(code(connect(&city, "").await.map(|_| ())), "token_refused");
    let (body, signature) = city.token("admin").split_once('.').expect("a token has two parts");
    let (_, other) = city.token("member").split_once('.').expect("a token has two parts");
    assert_ne!(signature, other);
    assert_eq!(code(connect(&city, &format!("{body}.{other}")).await.map(|_| ())), "token_refused");
    // One that is taken away counts no more, whatever stream it opened before.
    let member = by(&city, "member").await;
    member.create_keypair(keypair("before")).await.expect("the token is good");
    city.cluster.advance_ms(1);
    let ended = json!({ "revoke_tokens": true });
    city.by("admin", Method::PATCH, "/v1/users/member").json(ended).send().await.ok();
    assert_eq!(code(member.create_keypair(keypair("after")).await), "token_refused");
    assert_eq!(code(connect(&city, city.token("member")).await.map(|_| ())), "token_refused");
}

#[tokio::test]
async fn callers_of_one_stream_are_answered_each_by_their_own() {
    let city = City::new().await;
    let member = by(&city, "member").await;
    let keypairs: Vec<_> = (0..90).map(|at| keypair(&format!("k{at}"))).collect();
    let written = join_all(keypairs.iter().map(|keypair| member.create_keypair(keypair.clone()))).await;
    let mut indexes: Vec<_> = written.into_iter().map(|index| index.expect("all are free")).collect();
    indexes.sort_unstable();
    indexes.dedup();
    assert_eq!(indexes.len(), keypairs.len());
    let read = join_all(keypairs.iter().map(|keypair| member.keypair(keypair.id))).await;
    for (keypair, kept) in keypairs.iter().zip(read) {
        assert_eq!(kept.expect("it was written").name, keypair.name);
    }
    let taken = member.ask(Ask::CreateKeypair { request: RequestId(Uuid::new_v4()), keypair: keypair("k1") });
    assert_eq!(code(taken.await.map(|said: Said| said)), "name_taken");
}
