//! What a member sends and should not: frames cut, damaged, too long, of another time, on the wrong lane.
//! None reaches a service (the scene's would panic), each is refused with a sentence, and the connection
//! survives it. How answers are read is in [`crate::wire`], strangers are in [`crate::join`].

use scp_codec::HEADER_BYTES;

use crate::{
    Lane, Refusal, RefusalKind, Transport,
    testing::{Scene, opening, scene},
    wire::{self, Kind, PREAMBLE_BYTES},
};

impl Scene {
    /// Sends the bytes of a request; gives the refusal.
    async fn refused(&self, connection: &quinn::Connection, bytes: &[u8]) -> Refusal {
        let answer = self.exchange(connection, bytes).await;
        let read = wire::read_answer(&mut answer.as_slice(), 4096).await.expect("an answer");
        read.expect_err("nonsense is refused")
    }
}

fn framed(payload: &[u8]) -> Vec<u8> {
    scp_codec::frame(wire::VERSION, payload).expect("fits a frame")
}

/// The frame's header claims so many bytes.
fn claiming(length: u32) -> Vec<u8> {
    let mut frame = framed(b"hello");
    frame[2..6].copy_from_slice(&length.to_le_bytes());
    frame
}

#[tokio::test]
async fn nonsense_is_refused_with_a_sentence() {
    let scene = scene().await;
    let connection = scene.connect(scene.member_config()).await;
    let small = framed(b"hello");
    let limit = Lane::Probe.limits().bytes_max;
    let oversize = framed(&vec![0; limit + 1]);
    let later = scp_codec::frame(wire::VERSION + 1, b"hello").expect("small");
    let never = scp_codec::frame(0, b"hello").expect("small");
    let ask = |lane, frame: &[u8]| opening(lane, Kind::Request, frame);
    use RefusalKind::{Forbidden, Invalid};
    let cases = [
        ("beyond the lane's bound", ask(Lane::Probe, &oversize), Invalid, "exceeds the limit"),
        ("claims 4 GiB", ask(Lane::Raft, &claiming(u32::MAX)), Invalid, "exceeds the limit"),
        ("claims a byte more", ask(Lane::Raft, &claiming(6)), Invalid, "cut short"),
        ("claims a byte less", ask(Lane::Raft, &claiming(4)), Invalid, "checksum"),
        ("of a later version", ask(Lane::Raft, &later), Invalid, "version"),
        ("of no version", ask(Lane::Raft, &never), Invalid, "version 0"),
        ("an unknown lane", vec![99, 0, 0, 0, 0, 0], Invalid, "lane 99"),
        ("neither request nor stream", vec![1, 7, 0, 0, 0, 0], Invalid, "7 is neither"),
        ("a stream beside the bulk lane", opening(Lane::Raft, Kind::Stream, &small), Forbidden, "bulk lane"),
        ("a request where messages go", ask(Lane::Gossip, &small), Forbidden, "messages only"),
        ("a join of a member", ask(Lane::Join, &small), Forbidden, "strangers"),
    ];
    for (what, bytes, kind, word) in cases {
        let refusal = scene.refused(&connection, &bytes).await;
        assert!(refusal.kind == kind && refusal.why.contains(word), "{what}: {refusal:?}");
    }
    assert!(connection.close_reason().is_none(), "the connection survives it");
}

#[tokio::test]
async fn a_request_cut_anywhere_is_refused() {
    let scene = scene().await;
    let connection = scene.connect(scene.member_config()).await;
    let whole = opening(Lane::Raft, Kind::Request, &framed(b"hello"));
    for at in 0..whole.len() {
        let refusal = scene.refused(&connection, &whole[..at]).await;
        assert_eq!(refusal.kind, RefusalKind::Invalid, "cut at {at}: {refusal:?}");
    }
    assert!(connection.close_reason().is_none(), "the connection survives it");
}

#[tokio::test]
async fn a_request_with_any_bit_of_its_frame_flipped_is_refused() {
    let scene = scene().await;
    let connection = scene.connect(scene.member_config()).await;
    let whole = opening(Lane::Raft, Kind::Request, &framed(b"hello"));
    for bit in PREAMBLE_BYTES * 8..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let refusal = scene.refused(&connection, &flipped).await;
        assert_eq!(refusal.kind, RefusalKind::Invalid, "bit {bit} flipped: {refusal:?}");
    }
    assert!(connection.close_reason().is_none(), "the connection survives it");
}

/// Nobody waits for an answer to a message: what is damaged is dropped, and the next one is heard.
#[tokio::test]
async fn a_damaged_message_is_dropped_and_the_next_is_heard() {
    let scene = scene().await;
    let connection = scene.connect(scene.member_config()).await;
    let mut gossip = scene.mesh.inbox(Lane::Gossip);
    let whole = [&[Lane::Gossip.code()][..], &framed(b"hello")].concat();
    let cut = (0..whole.len()).map(|at| whole[..at].to_vec());
    let flipped = (8..whole.len() * 8).map(|bit| {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    });
    let send = async |bytes: &[u8]| {
        let mut stream = connection.open_uni().await.expect("a stream");
        stream.write_all(bytes).await.expect("it is sent");
        stream.finish().expect("it is sent");
    };
    for (at, bytes) in cut.chain(flipped).enumerate() {
        send(&bytes).await;
        // An exchange now and then, so that none is dropped merely because there are many.
        if at % HEADER_BYTES == 0 {
            scene.refused(&connection, &[]).await;
        }
    }
    send(&whole).await;
    let (_, heard) = gossip.recv().await.expect("the mesh is there");
    assert_eq!(&heard[..], b"hello");
    scene.refused(&connection, &[]).await;
    assert!(gossip.try_recv().is_err(), "one message was whole");
    assert!(connection.close_reason().is_none(), "the connection survives it");
}
