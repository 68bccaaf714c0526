//! Whole cities of real daemons in one process: real QUIC, real TLS, real files; no VMs.
//!
//! Each server has a loopback address of its own, so that tests run side by side.

mod site;

use scp_api::cluster::Consistency;
use scp_model::{Command, DepartmentId, NodeId, Rejection, RequestId, Timestamp, command::RemoveNode};
use scp_node::config::Names;
use site::{Server, Site, department, door, eventually, id, locally, propose, start_again, token};
use uuid::Uuid;

async fn knows(server: &Server, number: u128) -> bool {
    let read = door(server).read(Consistency::Linearizable).await;
    read.is_ok_and(|snapshot| snapshot.state.departments.contains_key(&DepartmentId::from_u128(number)))
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_takes_a_write_and_every_node_reads_it_at_once() {
    let servers = Site::new().city(3).await;
    for (number, server) in (1u128..).zip(&servers) {
        let answer = propose(&*door(server), RequestId(Uuid::new_v4()), department(number)).await;
        assert_eq!(answer.result, Ok(()));
        for other in &servers {
            assert!(knows(other, number).await, "{} reads what {} wrote", id(other), id(server));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_answered_by_the_first_answer_on_any_node() {
    let servers = Site::new().city(3).await;
    let request = RequestId(Uuid::new_v4());
    let first = propose(&*door(&servers[0]), request, department(1)).await;
    let again = propose(&*door(&servers[2]), request, department(1)).await;
    assert_eq!(first, again);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_goes_down_in_order_hands_over_and_nothing_is_lost() {
    let servers = Site::new().city(3).await;
    propose(&*door(&servers[1]), RequestId(Uuid::new_v4()), department(1)).await.result.expect("created");
    let leader = door(&servers[0]).agreement().leader.expect("a leader");
    let (down, up): (Vec<_>, Vec<_>) = servers.iter().partition(|server| id(server) == leader);
    down[0].daemon.shutdown().await;
    propose(&*door(up[0]), RequestId(Uuid::new_v4()), department(2)).await.result.expect("created");
    assert!(knows(up[1], 1).await && knows(up[1], 2).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_is_declared_down_with_evidence_and_up_again_when_it_returns() {
    let servers = Site::new().city(3).await;
    let down = id(&servers[2]);
    servers[2].daemon.shutdown().await;
    eventually("n3 is down", async || {
        let snapshot = door(&servers[0]).read(Consistency::Linearizable).await;
        snapshot.is_ok_and(|snapshot| !snapshot.state.nodes[&down].is_up())
    })
    .await;
    let daemon = start_again(&servers[2]).await;
    eventually("n3 is up", async || {
        let snapshot = door(&servers[0]).read(Consistency::Linearizable).await;
        snapshot.is_ok_and(|snapshot| snapshot.state.nodes[&down].is_up())
    })
    .await;
    daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_city_that_lost_power_comes_back_by_itself() {
    let servers = Site::new().city(3).await;
    propose(&*door(&servers[0]), RequestId(Uuid::new_v4()), department(7)).await.result.expect("created");
    for server in &servers {
        server.daemon.shutdown().await;
    }
    let mut daemons = Vec::new();
    for server in &servers {
        daemons.push(start_again(server).await);
    }
    eventually("the city answers", async || {
        let member = daemons[1].member().expect("still a member");
        let read = member.door.read(Consistency::Linearizable).await;
        read.is_ok_and(|snapshot| snapshot.state.departments.contains_key(&DepartmentId::from_u128(7)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_leaves_and_joins_again_under_the_same_identity() {
    let servers = Site::new().city(3).await;
    let who = id(&servers[2]);
    servers[2].daemon.leave().await.expect("leaves");
    assert!(servers[2].daemon.member().is_none());
    eventually("the city forgets it", async || {
        let snapshot = door(&servers[0]).read(Consistency::Linearizable).await;
        snapshot.is_ok_and(|snapshot| !snapshot.state.nodes.contains_key(&who))
    })
    .await;
    let token = token(&servers[0]).await;
    let address = servers[1].config.mesh_address;
    servers[2].daemon.join(address, token, Names::default()).await.expect("joins again");
    assert_eq!(id(&servers[2]), who);
    assert!(Timestamp(0) < door(&servers[2]).now());
}

async fn eventually_down(seen_by: &Server, down: NodeId) {
    eventually("it is seen to be down", async || {
        let snapshot = door(seen_by).read(Consistency::Linearizable).await;
        snapshot.is_ok_and(|snapshot| !snapshot.state.nodes[&down].is_up())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_agreement_needs_does_not_leave_until_the_dead_one_is_removed() {
    let servers = Site::new().city(3).await;
    let dead = id(&servers[2]);
    servers[2].daemon.shutdown().await;
    eventually_down(&servers[0], dead).await;

    let error = servers[1].daemon.leave().await.expect_err("it is needed").to_string();
    assert!(error.contains("bring back or remove first what is down (n3)"), "{error}");
    let by_force = Command::RemoveNode(RemoveNode { node: id(&servers[1]), force: false });
    let answer = propose(&*door(&servers[0]), RequestId(Uuid::new_v4()), by_force).await;
    assert!(matches!(answer.result, Err(Rejection::WrongState { .. })), "{answer:?}");
    let state = door(&servers[0]).read(Consistency::Linearizable).await.expect("reads").state;
    let stays = &state.nodes[&id(&servers[1])];
    assert!(stays.schedulable && !stays.draining, "a member as before");

    let remove = Command::RemoveNode(RemoveNode { node: dead, force: true });
    propose(&*door(&servers[0]), RequestId(Uuid::new_v4()), remove).await.result.expect("removed");
    servers[1].daemon.leave().await.expect("leaves");
    let answer = propose(&*door(&servers[0]), RequestId(Uuid::new_v4()), department(1)).await;
    assert_eq!(answer.result, Ok(()), "the last one goes on alone");
    let error = servers[0].daemon.leave().await.expect_err("the last one stays").to_string();
    assert!(error.contains("the last node of a city stays"), "{error}");
    assert!(servers[0].daemon.member().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_voter_of_two_nodes_leaves_and_the_other_goes_on() {
    let site = Site::new();
    let servers = site.city(2).await;
    propose(&*door(&servers[1]), RequestId(Uuid::new_v4()), department(1)).await.result.expect("created");
    assert_eq!(door(&servers[0]).agreement().voters, [id(&servers[0])]);
    servers[0].daemon.leave().await.expect("leaves");
    propose(&*door(&servers[1]), RequestId(Uuid::new_v4()), department(2)).await.result.expect("created");
    assert!(knows(&servers[1], 1).await && knows(&servers[1], 2).await);
    let third = site.server(3).await;
    let address = servers[1].config.mesh_address;
    let joined = third.daemon.join(address, token(&servers[1]).await, Names::default()).await;
    joined.expect("the city key did not leave with the first");
    assert!(knows(&third, 2).await);
}

/// Leaves, and comes back at once through another.
async fn return_at_once(server: &Server, through: &Server) {
    server.daemon.leave().await.expect("leaves");
    let token = token(through).await;
    let address = through.config.mesh_address;
    server.daemon.join(address, token, Names::default()).await.expect("joins again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_founder_of_two_leaves_and_joins_again_at_once_and_so_does_the_other() {
    let servers = Site::new().city(2).await;
    for round in 0..3u128 {
        let (leaves, stays) = if round % 2 == 0 { (0, 1) } else { (1, 0) };
        propose(&*door(&servers[leaves]), RequestId(Uuid::new_v4()), department(round))
            .await
            .result
            .expect("created");
        return_at_once(&servers[leaves], &servers[stays]).await;
        assert!(knows(&servers[leaves], round).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_founder_of_three_leaves_and_joins_again_at_once() {
    let servers = Site::new().city(3).await;
    for round in 0..2u128 {
        let created = propose(&*door(&servers[0]), RequestId(Uuid::new_v4()), department(round)).await;
        assert_eq!(created.result, Ok(()));
        return_at_once(&servers[0], &servers[1]).await;
        assert!(knows(&servers[0], round).await && knows(&servers[2], round).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_token_admits_nobody_else_and_changes_nothing() {
    let site = Site::new();
    let servers = site.city(1).await;
    let token = token(&servers[0]).await;
    let address = servers[0].config.mesh_address;
    let second = site.server(2).await;
    second.daemon.join(address, token.clone(), Names::default()).await.expect("joins");
    let third = site.server(3).await;
    let error = third.daemon.join(address, token, Names::default()).await.err().expect("refused");
    assert!(error.to_string().contains("has been used"), "{error}");
    assert!(third.daemon.member().is_none());
    let snapshot = door(&servers[0]).read(Consistency::Linearizable).await.expect("reads");
    assert_eq!(snapshot.state.nodes.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_socket_refuses_with_a_remedy_and_changes_nothing() {
    let site = Site::new();
    let alone = site.server(9).await;
    for (body, detail) in [
        (r#"{"city":"a","country":"PT","admin_password":"short"}"#, "at least 15 characters"),
        (r#"{"city":"../a","country":"PT"}"#, "city"),
        (r#"{"city":"a","country":"Portugal"}"#, "country"),
        (r#"{"city":"a","country":"PT","zone":"z\u0007"}"#, "zone"),
    ] {
        let (status, problem) = locally(&alone, "/local/init", body).await;
        assert_eq!((status, &*problem.code), (400, "invalid"), "{body}");
        assert!(problem.detail.contains(detail), "{body}: {}", problem.detail);
        assert!(alone.daemon.member().is_none(), "{body}");
    }
    let (status, problem) = locally(&alone, "/local/leave", "").await;
    assert_eq!((status, &*problem.code), (409, "no_city"));

    let servers = site.city(1).await;
    let (status, problem) = locally(&servers[0], "/local/leave", "").await;
    assert_eq!((status, &*problem.code), (409, "cannot_leave"));
    assert!(problem.remedy.is_some_and(|remedy| remedy.contains("To end the city")));
    let (status, problem) = locally(&servers[0], "/local/init", r#"{"city":"b","country":"PT"}"#).await;
    assert_eq!((status, &*problem.code), (409, "already_member"));
}
