//! A program's side of a whole city: streams to several of its nodes, as one.
//!
//! Each answer says who leads. Writes go to the node that leads, if there is a stream to it: they are spared the way
//! from one node to another, and those of all callers travel together. Reads go to all nodes in turn. Any node
//! answers anything, so a wrong idea of who leads costs one more hop and nothing else.
//!
//! When a stream ends, what was asked on it is repeated on another with the same request id: a write that was
//! carried out is answered by its first answer.
//!
//! # Caveats
//! A node that falls silent holds what it was asked until its connection is given up: whoever cannot wait asks again with
//! the same request id.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use scp_model::NodeId;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Ask, Said,
    client::{Asking, Leader, NativeClient, NativeError, gone},
};

/// Streams to nodes of one city, shared by any number of callers.
#[derive(Default)]
pub struct NativeCity {
    streams: BTreeMap<NodeId, NativeClient>,
    leader: Leader,
    /// Whose turn it is.
    turn: AtomicUsize,
}

impl NativeCity {
    /// Takes in a stream to a node that has proven itself, in the place of an older one to the same.
    pub async fn add(
        &mut self,
        node: NodeId,
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
        token: &str,
    ) -> Result<(), NativeError> {
        let client = NativeClient::open_under(self.leader.clone(), stream, token).await?;
        self.streams.insert(node, client);
        Ok(())
    }

    /// The stream to one node.
    pub fn of(&self, node: NodeId) -> Option<&NativeClient> {
        self.streams.get(&node)
    }

    /// The streams to try, in this order; one that ended says so at once.
    fn in_turn(&self, ask: &Ask) -> impl Iterator<Item = &NativeClient> {
        let leader = if ask.is_write() { self.leader.get() } else { None };
        let leads = leader.and_then(|leader| self.of(leader));
        let count = self.streams.len();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % count.max(1);
        leads.into_iter().chain(self.streams.values().cycle().skip(turn).take(count))
    }
}

impl Asking for NativeCity {
    async fn ask(&self, ask: Ask) -> Result<Said, NativeError> {
        let mut ended = gone("there is no stream to any node");
        for client in self.in_turn(&ask) {
            match client.ask(ask.clone()).await {
                Err(error @ NativeError::Gone { .. }) => ended = error,
                answered => return answered,
            }
        }
        Err(ended)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use scp_model::{KeypairId, RequestId};
    use tokio::io::{DuplexStream, duplex};
    use uuid::Uuid;

    use super::*;
    use crate::native::{Answers, Batch, Failure, Hello, read_frame, write_frame};

    /// Which node was asked what, in order.
    type Heard = Arc<Mutex<Vec<(NodeId, Ask)>>>;

    /// What a node says when it is asked.
    #[derive(Clone, Copy)]
    enum Node {
        Says { leader: NodeId },
        Dies,
    }

    async fn serve(node: Node, number: NodeId, mut stream: DuplexStream, heard: Heard) {
        let hello: Option<Hello> = read_frame(&mut stream).await.expect("a frame");
        assert_eq!(hello.expect("it says who it is").token, "token");
        write_frame(&mut stream, &Ok::<(), Failure>(())).await.expect("the program is there");
        while let Ok(Some(Batch { number: batch, asks })) = read_frame(&mut stream).await {
            let answers = asks.iter().map(|_| Ok(Said::Written { index: 1 })).collect();
            heard.lock().expect("nobody panics").extend(asks.into_iter().map(|ask| (number, ask)));
            let Node::Says { leader } = node else { return };
            let answers = Answers { number: batch, answers, leader: Some(leader) };
            write_frame(&mut stream, &answers).await.expect("the program is there");
        }
    }

    async fn city(nodes: &[Node]) -> (NativeCity, Heard) {
        let (mut city, heard) = (NativeCity::default(), Heard::default());
        for (number, node) in (1..).zip(nodes) {
            let (ours, theirs) = duplex(64 << 10);
            tokio::spawn(serve(*node, NodeId(number), theirs, heard.clone()));
            city.add(NodeId(number), ours, "token").await.expect("it is welcome");
        }
        (city, heard)
    }

    fn write() -> Ask {
        Ask::DeleteKeypair { request: RequestId(Uuid::new_v4()), id: KeypairId(Uuid::new_v4()) }
    }

    fn read() -> Ask {
        Ask::ShowKeypair { id: KeypairId(Uuid::new_v4()) }
    }

    fn nodes(heard: &Heard) -> Vec<u128> {
        heard.lock().expect("nobody panics").drain(..).map(|(node, _)| node.0.into()).collect()
    }

    #[tokio::test]
    async fn writes_go_to_whom_an_answer_named_and_reads_to_all_in_turn() {
        let (city, heard) = city(&[Node::Says { leader: NodeId(3) }; 3]).await;
        for _ in 0..4 {
            city.ask(write()).await.expect("it is answered");
        }
        assert_eq!(nodes(&heard), [1, 3, 3, 3], "the first answer says who leads");
        for _ in 0..6 {
            city.ask(read()).await.expect("it is answered");
        }
        let mut asked = nodes(&heard);
        asked.sort_unstable();
        assert_eq!(asked, [1, 1, 2, 2, 3, 3]);
    }

    #[tokio::test]
    async fn what_was_asked_on_a_stream_that_ends_is_repeated_on_another_with_the_same_request() {
        let (city, heard) = city(&[Node::Dies, Node::Says { leader: NodeId(1) }]).await;
        let (first, second) = (write(), write());
        city.ask(first.clone()).await.expect("the other node answers");
        assert_eq!(*heard.lock().expect("nobody panics"), [(NodeId(1), first.clone()), (NodeId(2), first)]);
        // The one that is said to lead is not there.
        nodes(&heard);
        city.ask(second.clone()).await.expect("the other node answers");
        assert_eq!(nodes(&heard), [2]);
    }

    #[tokio::test]
    async fn without_any_stream_it_says_so() {
        let error = NativeCity::default().ask(read()).await.expect_err("nobody is there");
        assert!(matches!(error, NativeError::Gone { .. }), "{error}");
    }
}
