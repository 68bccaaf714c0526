//! Joining a real city: each thing that can be wrong, what is said of it, and that nothing changed.

mod site;

use std::{net::SocketAddr, sync::Arc};

use scp_api::{client::Client, cluster::Consistency, v1::TokenRequest};
use scp_mesh::{Clock, JoinError, JoinToken, NodeKey, SystemClock, join, token::JoinSecret};
use scp_model::{JoinTokenId, NodeId, PROTOCOL, PROTOCOL_DISTANCE_MAX, Timestamp, node::NodeProfile};
use scp_node::config::Names;
use serde_json::json;
use site::{PASSWORD, Server, Site, door, eventually, id, locally, name, token, token_for};
use uuid::Uuid;

/// Ahead of the system's, or behind it.
struct Shifted(i64);

impl Clock for Shifted {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now().0.saturating_add_signed(self.0))
    }
}

async fn nodes(server: &Server) -> Vec<NodeId> {
    let read = door(server).read(Consistency::Linearizable).await.expect("it reads");
    read.state.nodes.keys().copied().collect()
}

/// Asks `server` to join; asserts the code, a word of what is told and the next command.
async fn refused(server: &Server, (address, token): (SocketAddr, &str), [code, told, next]: [&str; 3]) {
    let order = json!({ "address": address.to_string(), "token": token });
    let (status, problem) = locally(server, "/local/join", &order.to_string()).await;
    assert_eq!((status, &*problem.code), (422, code), "{problem:?}");
    assert!(problem.detail.contains(told), "{problem:?}");
    assert!(problem.remedy.as_ref().is_some_and(|remedy| remedy.contains(next)), "{problem:?}");
    assert!(server.daemon.member().is_none(), "{code}: it is in no city");
}

/// The same key, another secret.
fn with_secret(token: &JoinToken, secret: [u8; 16]) -> String {
    JoinToken { secret: JoinSecret(secret), ..token.clone() }.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_token_is_told_apart_and_changes_nothing() {
    let (site, elsewhere) = (Site::new(), Site::new());
    let (city, other) = (site.city(1).await, elsewhere.city(1).await);
    let here = city[0].config.mesh_address;
    let (second, third) = (site.server(2).await, site.server(3).await);
    let used = token(&city[0]).await;
    second.daemon.join(here, used.clone(), Names::default()).await.expect("it joins");
    let before = nodes(&city[0]).await;

    let good = token(&city[0]).await;
    let expired = token_for(&city[0], 1).await.to_string();
    let unknown = JoinToken { id: JoinTokenId(Uuid::new_v4()), ..good.clone() }.to_string();
    let foreign = token(&other[0]).await.to_string();
    let mut altered = good.to_string().into_bytes();
    altered[20] = if altered[20] == b'A' { b'B' } else { b'A' };
    let altered = String::from_utf8(altered).expect("ASCII stays ASCII");
    let create = "scpctl token create";
    for (text, said) in [
        (altered, ["token_malformed", "mistyped", create]),
        ("hunter2".to_owned(), ["token_malformed", "begins with SCP-", create]),
        (unknown, ["token_unknown", "does not know this join token", create]),
        (with_secret(&good, [0; 16]), ["token_unknown", "does not know this join token", create]),
        (used.to_string(), ["token_used", "has been used", create]),
        (expired, ["token_expired", "has expired", create]),
        (foreign, ["token_foreign", "not the one that made this token", create]),
    ] {
        refused(&third, (here, &text), said).await;
        assert_eq!(nodes(&city[0]).await, before, "{said:?}");
    }
    // None of it has used up the token whose secret was guessed, or cost the server its chance.
    third.daemon.join(here, good, Names::default()).await.expect("it joins");
    assert_eq!(nodes(&city[0]).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off_is_told_with_its_direction_and_the_token_stays_good() {
    let site = Site::new();
    let city = site.city(1).await;
    let (here, good) = (city[0].config.mesh_address, token(&city[0]).await);
    for (number, shift, told) in [(2, -60_000, "behind the city's"), (3, 60_000, "ahead of the city's")] {
        let late = site.server_by(number, Arc::new(Shifted(shift))).await;
        let said = ["clock_off", told, "repeat the same scpctl join"];
        refused(&late, (here, &good.to_string()), said).await;
    }
    assert_eq!(nodes(&city[0]).await, [id(&city[0])]);
    // Within what is allowed, and with the same token.
    let near = site.server_by(4, Arc::new(Shifted(-3_000))).await;
    near.daemon.join(here, good, Names::default()).await.expect("it joins");
}

/// A server that is not what its release would make it.
async fn joining(city: &Server, token: &JoinToken, change: impl FnOnce(&mut NodeProfile)) -> JoinError {
    let read = door(city).read(Consistency::Linearizable).await.expect("it reads");
    let mut profile = read.state.nodes[&id(city)].profile.clone();
    profile.name = name("another");
    profile.mesh_address.set_port(7601);
    change(&mut profile);
    let (address, token) = (city.config.mesh_address, token.clone());
    let key = NodeKey::generate().expect("a key");
    let config = join::JoinConfig { address, token, key, profile, clock: Arc::new(SystemClock) };
    join::join(config).await.expect_err("it is refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_name_or_address_and_a_release_too_far_are_told_and_the_token_stays_good() {
    let site = Site::new();
    let city = site.city(1).await;
    let good = token(&city[0]).await;
    let (older, newer) =
        (PROTOCOL.checked_sub(PROTOCOL_DISTANCE_MAX + 1), PROTOCOL + PROTOCOL_DISTANCE_MAX + 1);
    let taken = city[0].config.mesh_address;
    let mut refusals = vec![
        (joining(&city[0], &good, |it| it.name = name("n1")).await, "name_taken", "--node-name NAME"),
        (
            joining(&city[0], &good, |it| it.mesh_address = taken).await,
            "address_taken",
            "scpctl node remove NAME",
        ),
        (
            joining(&city[0], &good, |it| it.protocol = newer).await,
            "protocol_too_far",
            "Upgrade the city first",
        ),
    ];
    if let Some(older) = older {
        let error = joining(&city[0], &good, |it| it.protocol = older).await;
        refusals.push((error, "protocol_too_far", "Install the city's release"));
    }
    for (error, code, next) in refusals {
        assert_eq!(error.code(), code, "{error}");
        assert!(error.remedy().contains(next), "{error}: {}", error.remedy());
    }
    assert_eq!(nodes(&city[0]).await, [id(&city[0])]);
    let second = site.server(2).await;
    second.daemon.join(taken, good, Names::default()).await.expect("it joins with the same token");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_join_at_once_all_join() {
    let site = Site::new();
    let city = site.city(1).await;
    let here = city[0].config.mesh_address;
    let mut joins = tokio::task::JoinSet::new();
    for number in 2..=5 {
        let (server, token) = (site.server(number).await, token(&city[0]).await);
        joins.spawn(async move {
            server.daemon.join(here, token, Names::default()).await.expect("it joins");
            server
        });
    }
    let servers = joins.join_all().await;
    assert_eq!(nodes(&servers[3]).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_city_without_its_key_says_what_is_missing_and_admits_nobody_half() {
    let site = Site::new();
    let city = site.city(1).await;
    let (here, good) = (city[0].config.mesh_address, token(&city[0]).await);
    let key = city[0].config.data_dir.join("identity/city.key");
    let aside = key.with_extension("aside");
    std::fs::rename(&key, &aside).expect("it is there");
    let second = site.server(2).await;
    let said = ["unavailable", "holds the city key", "scpctl join"];
    refused(&second, (here, &good.to_string()), said).await;
    assert_eq!(nodes(&city[0]).await, [id(&city[0])]);
    std::fs::rename(&aside, &key).expect("it can be put back");
    second.daemon.join(here, good, Names::default()).await.expect("the token was not used up");
}

/// Who logs in at a node asks every other with its token, until that node is no member any more.
#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_of_a_removed_node_is_refused_by_the_others() {
    let site = Site::new();
    let city = site.city(3).await;
    let read = door(&city[0]).read(Consistency::Linearizable).await.expect("it reads");
    let authority = read.state.city.as_ref().expect("a city").ca_certificate.clone();
    let client = |server: &Server| {
        Client::https([server.config.api_address.to_string()], &authority).expect("a client")
    };
    let login = TokenRequest { user: "admin".into(), password: PASSWORD.into(), lifetime_s: None };
    let token = client(&city[2]).login(&login).await.expect("the password is right").token;
    let elsewhere = client(&city[0]).with_token(&token);
    elsewhere.whoami().await.expect("any node honours it");
    city[2].daemon.leave().await.expect("it leaves");
    eventually("the city has forgotten n3", async || nodes(&city[0]).await.len() == 2).await;
    let error = elsewhere.whoami().await.expect_err("its signer is gone");
    assert_eq!(error.code(), "token_refused", "{error}");
    let remedy = error.problem().and_then(|problem| problem.remedy.clone());
    assert!(remedy.is_some_and(|remedy| remedy.contains("scpctl login")), "{error}");
}
