//! Watching events: server-sent events that go on where they broke off.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use reqwest::{Method, header};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Client, ClientError, Result,
    send::{Backoff, describe, pairs},
};
use crate::v1::{Event, EventQuery, Ready, Resync, SSE_EVENT, SSE_READY, SSE_RESYNC};

/// The server says something every 15 s; after three times that it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// No frame of the stream is larger.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// What a watch tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Watched {
    /// From here on everything is seen: look at the state *after* this and no change is missed. Told
    /// again after every reconnection.
    Ready(Ready),
    Event(Event),
    /// Events were missed: look at the state again.
    Resync(Resync),
}

/// A stream of events that reconnects, to another node if need be, and resumes.
pub struct Watch {
    client: Client,
    query: EventQuery,
    /// Sequence number of the last event seen.
    position: Option<u64>,
    stream: Option<Frames<BoxStream<'static, std::result::Result<Bytes, reqwest::Error>>>>,
    round: usize,
    backoff: Backoff,
}

impl Client {
    /// Watches events from now on, or after `query.after`.
    pub fn watch(&self, query: EventQuery) -> Watch {
        let position = query.after;
        let backoff = Backoff::new();
        Watch { client: self.clone(), query, position, stream: None, round: 0, backoff }
    }
}

impl Watch {
    /// The next thing that happened. An error is final for this call only: calling again goes on trying.
    /// It comes when no node can be watched within the client's deadline, or when the server refuses.
    pub async fn next(&mut self) -> Result<Watched> {
        let mut deadline = Instant::now() + self.client.deadline;
        loop {
            let broken = match &mut self.stream {
                None => self.connect().await.err(),
                Some(stream) => match timeout(SILENCE_MAX, stream.next()).await {
                    Ok(Ok(frame)) => match self.accept(&frame)? {
                        Some(watched) => return Ok(watched),
                        None => None,
                    },
                    Ok(Err(why)) => Some(ClientError::Lost { why, request: None }),
                    Err(_) => Some(ClientError::Lost { why: "the node fell silent".into(), request: None }),
                },
            };
            let Some(error) = broken else {
                deadline = Instant::now() + self.client.deadline;
                continue;
            };
            self.stream = None;
            self.round += 1;
            let refused = error.problem().is_some_and(|problem| !matches!(problem.status, 502..=504));
            let wait = self.backoff.next();
            if refused || Instant::now() + wait >= deadline {
                return Err(error);
            }
            sleep(wait).await;
        }
    }

    async fn connect(&mut self) -> Result<()> {
        let address = self.client.address(self.round);
        let mut url = self.client.url(&address, &["v1", "events", "watch"])?;
        url.query_pairs_mut().extend_pairs(pairs(&self.query));
        let mut request = self.client.request(Method::GET, url).header(header::ACCEPT, "text/event-stream");
        if let Some(position) = self.position {
            request = request.header("last-event-id", position);
        }
        let connecting = timeout(self.client.deadline, self.client.stream(request, &address)).await;
        let silent = |_| ClientError::Lost { why: format!("{address}: no answer in time"), request: None };
        let response = connecting.map_err(silent)??;
        self.stream = Some(Frames::new(response.bytes_stream().boxed()));
        Ok(())
    }

    fn accept(&mut self, frame: &Frame) -> Result<Option<Watched>> {
        let bad = |error: serde_json::Error| ClientError::BadAnswer { why: error.to_string() };
        let watched = match frame.event.as_str() {
            SSE_EVENT => {
                let event: Event = serde_json::from_str(&frame.data).map_err(bad)?;
                self.position = Some(event.sequence);
                Watched::Event(event)
            }
            SSE_READY => {
                let ready: Ready = serde_json::from_str(&frame.data).map_err(bad)?;
                self.position = Some(ready.sequence);
                self.backoff = Backoff::new();
                Watched::Ready(ready)
            }
            SSE_RESYNC => {
                let resync: Resync = serde_json::from_str(&frame.data).map_err(bad)?;
                self.position = Some(resync.sequence);
                Watched::Resync(resync)
            }
            // Newer servers may say more.
            _ => return Ok(None),
        };
        Ok(Some(watched))
    }
}

/// One server-sent event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Frame {
    event: String,
    data: String,
}

/// Cuts a byte stream into frames, as the HTML standard says, bounded.
struct Frames<S> {
    source: S,
    line: Vec<u8>,
    frame: Frame,
    ready: VecDeque<Frame>,
}

impl<S, E> Frames<S>
where
    S: futures::Stream<Item = std::result::Result<Bytes, E>> + Unpin,
    E: std::error::Error,
{
    fn new(source: S) -> Self {
        Self { source, line: Vec::new(), frame: Frame::default(), ready: VecDeque::new() }
    }

    /// Cancelling it loses nothing.
    async fn next(&mut self) -> std::result::Result<Frame, String> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(frame);
            }
            match self.source.next().await {
                Some(Ok(bytes)) => self.take(&bytes)?,
                Some(Err(error)) => return Err(describe(&error)),
                None => return Err("the node closed the stream".into()),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> std::result::Result<(), String> {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() + self.frame.data.len() > FRAME_BYTES_MAX {
                    return Err("a frame of the stream is too large".into());
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned();
            self.end_line(&line);
        }
        Ok(())
    }

    fn end_line(&mut self, line: &str) {
        if line.is_empty() {
            let frame = std::mem::take(&mut self.frame);
            if !frame.event.is_empty() || !frame.data.is_empty() {
                self.ready.push_back(frame);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.frame.event = value.to_owned(),
            "data" => {
                if !self.frame.data.is_empty() {
                    self.frame.data.push('\n');
                }
                self.frame.data.push_str(value);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn frames_are_the_same_however_the_bytes_are_cut() {
        let text = b": hello\n\nevent: event\r\nid: 7\r\ndata: {\"a\":1}\r\n\r\ndata: x\ndata: y\n\n";
        for cut in 1..text.len() {
            let chunks: Vec<std::result::Result<Bytes, std::io::Error>> =
                text.chunks(cut).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
            let mut frames = Frames::new(stream::iter(chunks));
            let first = frames.next().await.expect("the first frame is whole");
            assert_eq!(first, Frame { event: "event".into(), data: "{\"a\":1}".into() });
            let second = frames.next().await.expect("the second frame is whole");
            assert_eq!(second, Frame { event: String::new(), data: "x\ny".into() });
            assert!(frames.next().await.is_err(), "nothing follows");
        }
    }

    #[tokio::test]
    async fn an_endless_frame_is_refused() {
        let chunk: std::result::Result<Bytes, std::io::Error> = Ok(Bytes::from(vec![b'x'; 4096]));
        let endless = stream::repeat_with(move || Ok(chunk.as_ref().expect("it is bytes").clone()));
        let mut frames: Frames<_> =
            Frames::new(endless.map(|item: std::result::Result<Bytes, std::io::Error>| item).boxed());
        assert!(frames.next().await.is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(chunks: Vec<Vec<u8>>) {
            let mut frames = Frames::new(stream::empty::<std::result::Result<Bytes, std::io::Error>>());
            for chunk in chunks {
                let _ = frames.take(&chunk);
            }
        }
    }
}
