//! Watching real daemons over the native lane: real QUIC, real TLS, real files.

mod site;

use futures::future::try_join_all;
use scp_api::{
    client::Client,
    cluster::Consistency,
    native::{Filter, SubjectKind, Subscription, WatchClient, WatchEnd},
    v1::TokenRequest,
};
use scp_model::{DepartmentId, RequestId, Subject};
use site::{PASSWORD, PATIENCE, Server, Site, department, door, propose};
use tokio::time::timeout;
use uuid::Uuid;

/// The authority's certificate, and the administrator's token.
async fn keys(server: &Server) -> (String, String) {
    let snapshot = door(server).read(Consistency::Linearizable).await.expect("the city answers");
    let authority = snapshot.state.city.as_ref().expect("it is founded").ca_certificate.to_string();
    let client = Client::https([server.config.api_address.to_string()], &authority).expect("a client");
    let login = TokenRequest { user: "admin".into(), password: PASSWORD.into(), lifetime_s: None };
    (authority, client.login(&login).await.expect("the password is right").token)
}

async fn watch(server: &Server, (authority, token): &(String, String)) -> WatchClient {
    let stream = scp_mesh::client::connect(server.config.mesh_address, authority).await.expect("it is there");
    WatchClient::open(stream, token).await.expect("the token is good")
}

async fn create(server: &Server, number: u128) {
    let answer = propose(&*door(server), RequestId(Uuid::new_v4()), department(number)).await;
    answer.result.expect("it is free");
}

/// The department that the next event is about; or the end.
async fn next(subscription: &mut Subscription) -> Result<DepartmentId, WatchEnd> {
    let told = timeout(PATIENCE, subscription.next()).await.expect("in time").expect("it has not ended")?;
    match told.subject {
        Subject::Department(id) => Ok(id),
        other => panic!("an event about {other}"),
    }
}

const DEPARTMENTS: Filter = Filter { kind: Some(SubjectKind::Department), subject: None, project: None };

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_at_another_node_when_its_own_is_gone() {
    let servers = Site::new().city(3).await;
    let keys = keys(&servers[0]).await;
    let client = watch(&servers[1], &keys).await;
    let mut subscription = client.subscribe(DEPARTMENTS, None).await.expect("it begins");
    for number in 1..=3 {
        create(&servers[0], number).await;
        assert_eq!(next(&mut subscription).await, Ok(DepartmentId::from_u128(number)));
    }
    servers[1].daemon.shutdown().await;
    let end = next(&mut subscription).await;
    assert!(matches!(end, Err(WatchEnd::Gone { .. })), "{end:?}");
    create(&servers[0], 4).await;
    let client = watch(&servers[2], &keys).await;
    let mut again = client.subscribe(DEPARTMENTS, Some(subscription.position())).await.expect("it goes on");
    create(&servers[0], 5).await;
    for number in 4..=5 {
        assert_eq!(next(&mut again).await, Ok(DepartmentId::from_u128(number)), "no gap, no repetition");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_subscriptions_share_a_stream_and_each_is_told_its_own() {
    let servers = Site::new().city(1).await;
    let client = watch(&servers[0], &keys(&servers[0]).await).await;
    let numbers = 1..=200u128;
    let one = |number| Filter {
        subject: Some(Subject::Department(DepartmentId::from_u128(number))),
        ..Filter::default()
    };
    let all = try_join_all(numbers.clone().map(|_| client.subscribe(DEPARTMENTS, None))).await;
    let each = try_join_all(numbers.clone().map(|number| client.subscribe(one(number), None))).await;
    for number in numbers.clone() {
        create(&servers[0], number).await;
    }
    for mut subscription in all.expect("there is room") {
        for number in numbers.clone() {
            assert_eq!(next(&mut subscription).await, Ok(DepartmentId::from_u128(number)));
        }
    }
    for (number, mut subscription) in numbers.zip(each.expect("there is room")) {
        assert_eq!(next(&mut subscription).await, Ok(DepartmentId::from_u128(number)));
    }
}
