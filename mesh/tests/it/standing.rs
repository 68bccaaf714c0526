//! Who may what: members, expired members, removed members, other cities, strangers.

use std::sync::Arc;

use bytes::Bytes;
use scp_mesh::{Lane, Members, MeshError, NodeKey, RefusalKind, Transport, renew, suite::Echo};
use scp_model::Timestamp;

use crate::city::{BEGINNING, City, DAY_MS, PATIENCE, Registrar, ask, introduce, until};

#[tokio::test]
async fn a_node_of_another_city_is_refused() {
    let (ours, theirs) = (City::new(), City::new());
    let here = ours.start(&ours.member(), Echo::new()).await;
    let there = theirs.start(&theirs.member(), Echo::new()).await;
    introduce(&[here.clone(), there.clone()]);
    for (from, to) in [(&here, &there), (&there, &here)] {
        match ask(from, to.node(), Lane::Forward).await {
            Err(MeshError::NotAMember { why, .. }) => assert!(why.contains("authority"), "{why}"),
            other => panic!("another city's node gave {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_certificate_without_membership_opens_nothing() {
    let city = City::new();
    let here = city.start(&city.member(), Echo::new()).await;
    let outsider = city.issue(&NodeKey::generate().expect("a key"), city.clock.now_ms());
    let there = city.start(&outsider, Echo::new()).await;
    there.set_address(here.node(), Some(here.local_address()));
    match ask(&there, here.node(), Lane::Renew).await {
        Err(MeshError::NotAMember { why, .. }) => assert!(why.contains("not a member"), "{why}"),
        other => panic!("an outsider gave {other:?}"),
    }
    assert!(here.connected().is_empty());
}

#[tokio::test]
async fn a_removed_node_is_cut_off_and_stays_out() {
    let city = City::new();
    let nodes = city.echoes(2).await;
    let (a, b) = (&nodes[0], &nodes[1]);
    ask(a, b.node(), Lane::Forward).await.expect("they are connected");
    // Both see the same state; the removed node itself may lag, so look from the other side.
    city.remove(b.node());
    until("the removed node is cut off", || a.connected().is_empty()).await;
    b.set_address(a.node(), Some(a.local_address()));
    match ask(b, a.node(), Lane::Forward).await {
        Err(MeshError::NotAMember { .. }) => {}
        other => panic!("a removed node gave {other:?}"),
    }
}

#[tokio::test]
async fn a_node_that_is_removed_right_after_it_joined_is_cut_off_too() {
    let city = City::new();
    // All certificates are newer than the state: by their age alone nobody is certainly removed.
    city.members.send_replace(Some(Arc::new(Members::default().known_until(Timestamp(BEGINNING)))));
    let nodes = city.echoes(2).await;
    let (a, b) = (&nodes[0], &nodes[1]);
    ask(a, b.node(), Lane::Forward).await.expect("they are connected");
    city.remove(b.node());
    until("the removed node is cut off", || a.connected().is_empty()).await;
    assert!(matches!(ask(b, a.node(), Lane::Forward).await, Err(MeshError::NotAMember { .. })));
}

#[tokio::test]
async fn a_node_that_was_away_lets_in_who_joined_meanwhile_and_no_one_who_was_removed() {
    let city = City::new();
    let (away, removed) = (city.member(), city.issue(&NodeKey::generate().expect("a key"), BEGINNING));
    city.clock.advance(DAY_MS);
    // The state of the node that was away ends half a day ago.
    let known_until = Timestamp(BEGINNING + DAY_MS / 2);
    city.members.send_modify(|members| {
        let members = members.as_mut().expect("they are known");
        *members = Arc::new(members.as_ref().clone().known_until(known_until));
    });
    let joined = city.issue(&NodeKey::generate().expect("a key"), city.clock.now_ms());
    let here = city.start(&away, Echo::new()).await;
    for (other, is_let_in) in [(joined, true), (removed, false)] {
        let there = city.start(&other, Echo::new()).await;
        introduce(&[here.clone(), there.clone()]);
        for (from, to) in [(&there, &here), (&here, &there)] {
            assert_eq!(ask(from, to.node(), Lane::Raft).await.is_ok(), is_let_in);
        }
        assert_eq!(here.connected().contains(&there.node()), is_let_in);
        // What the node learns next does not cut a member off.
        city.members.send_modify(|_| ());
        assert_eq!(ask(&there, here.node(), Lane::Raft).await.is_ok(), is_let_in);
    }
}

#[tokio::test]
async fn before_the_members_are_known_the_authority_vouches() {
    let city = City::new();
    let (a, b) = (city.member(), city.member());
    city.members.send_replace(None);
    let nodes = [city.start(&a, Echo::new()).await, city.start(&b, Echo::new()).await];
    introduce(&nodes);
    assert_eq!(ask(&nodes[0], b.id(), Lane::Forward).await, Ok("hello".into()));
    city.clock.advance(8 * DAY_MS);
    let late = city.start(&a, Echo::new()).await;
    late.set_address(b.id(), Some(nodes[1].local_address()));
    assert!(
        matches!(ask(&late, b.id(), Lane::Renew).await, Err(MeshError::NotAMember { .. })),
        "expired, and nobody knows the key"
    );
}

#[tokio::test]
async fn an_expired_certificate_renews_and_does_nothing_else() {
    let city = Arc::new(City::new());
    let (voter_key, node) = (NodeKey::generate().expect("a key"), city.member());
    city.clock.advance(8 * DAY_MS);
    let voter = city.issue(&voter_key, city.clock.now_ms());
    city.admit(&voter);
    let registrar = Registrar::new(city.clone());
    let (there, here) = (city.start(&voter, registrar).await, city.start(&node, Echo::new()).await);
    introduce(&[there.clone(), here.clone()]);

    for lane in [Lane::Raft, Lane::Forward, Lane::Bulk, Lane::Probe] {
        let peer = there.node();
        assert_eq!(ask(&here, peer, lane).await, Err(MeshError::CertificateExpired { peer }), "{lane:?}");
        assert!(ask(&there, here.node(), lane).await.is_err(), "{lane:?} towards the expired node");
    }
    assert!(here.open(there.node(), Bytes::new(), PATIENCE).await.is_err());
    assert!(here.send(there.node(), Lane::Gossip, Bytes::new()).is_err());

    assert!(renew::is_due(node.certificate(), city.clock.now_timestamp()));
    let renewed = renew::renew(&here, &[here.node(), there.node()], &node, PATIENCE).await.expect("renewed");
    assert_eq!(renewed.id(), node.id());
    assert!(renewed.certificate().is_valid_at(city.clock.now_timestamp()));
    assert!(!renew::is_due(renewed.certificate(), city.clock.now_timestamp()));
    here.reload(renewed).expect("it is this node's");
    assert_eq!(ask(&here, there.node(), Lane::Forward).await, Ok("hello".into()));
    until("the other way too", || there.connected() == vec![here.node()]).await;
}

#[tokio::test]
async fn a_reload_keeps_connections_and_another_nodes_certificate_is_refused() {
    let city = City::new();
    let (a, b) = (city.member(), city.member());
    let nodes = [city.start(&a, Echo::new()).await, city.start(&b, Echo::new()).await];
    introduce(&nodes);
    ask(&nodes[0], b.id(), Lane::Forward).await.expect("they are connected");
    city.clock.advance(4 * DAY_MS);
    nodes[0].reload(city.issue(&a.key, city.clock.now_ms())).expect("it is this node's");
    assert_eq!(nodes[0].connected(), vec![b.id()]);
    assert!(nodes[0].reload(b).is_err());
}

#[tokio::test]
async fn an_expired_member_that_nobody_pinned_is_not_renewed() {
    let city = City::new();
    let here = city.start(&city.member(), Echo::new()).await;
    let former = city.member();
    city.remove(former.id());
    city.clock.advance(8 * DAY_MS);
    let there = city.start(&former, Echo::new()).await;
    there.set_address(here.node(), Some(here.local_address()));
    assert!(matches!(ask(&there, here.node(), Lane::Renew).await, Err(MeshError::NotAMember { .. })));
}

#[tokio::test]
async fn the_join_lane_is_closed_to_members() {
    let city = City::new();
    let nodes = city.echoes(2).await;
    match ask(&nodes[0], nodes[1].node(), Lane::Join).await {
        Err(MeshError::Refused { refusal, .. }) => assert_eq!(refusal.kind, RefusalKind::Forbidden),
        other => panic!("a member on the join lane gave {other:?}"),
    }
}
