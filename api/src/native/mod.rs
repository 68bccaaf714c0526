//! The native lane: requests of many callers over one byte stream, many in a frame.
//!
//! ```text
//!   program                                                 any node
//!     Hello{token, Ask}                                 ▶   the signature is checked, once
//!                                                       ◀   Welcome, or why not; then it ends
//!     Batch{number, asks}                               ▶   the token again, then each ask's permission
//!                                                           writes: one proposal each, proposed together
//!                                                           reads: one confirmation for all of them
//!                                                       ◀   Answers{number, one for each ask, in order}
//! ```
//! It is for programs that ask a lot: HTTP costs more than what it carries when that is a name and a key.
//! The asks are those of HTTP's routes, permitted by the same table, and become the same commands. What is
//! not here yet is asked over HTTP. The stream is anything that is authenticated and encrypted on the
//! city's side (`scp-mesh`'s client connection); who the asker is, is proven by the token alone. A stream is
//! either for asking or for [watching](watch): who reads events slowly shall not wait for answers.
//!
//! # Guarantees
//! - An answer to a write says that it is synced on a majority and applied here; repeating a write with the
//!   same request id repeats its answer and nothing else.
//! - A read reflects every write acknowledged before it was sent.
//! - Any node answers; an answer says who leads, and [`NativeCity`] goes there with writes.
//! - A stream has at most [`BATCHES_MAX`] batches under way, each of at most [`ASKS_MAX`] asks: who sends
//!   more is not read from.
//!
//! # Caveats
//! - Asks of one batch are under way together: one does not see another.
//! - A write is permitted by what this node knows, if it knew itself up to date within
//!   [`session::FRESH_MS_MAX`]: a role or token that is taken away counts after that time at the latest.

#![allow(clippy::result_large_err, reason = "a problem is the rare path, and becomes an answer at once")]

mod city;
mod client;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod session;
pub mod watch;

use scp_codec::{CodecError, HEADER_BYTES, Header};
use scp_model::{KeypairId, Name, NodeId, ProjectId, RequestId, Timestamp};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub use self::{
    city::NativeCity,
    client::{Asking, NativeClient, NativeError},
    session::Native,
    watch::{Filter, Subscription, WatchClient, WatchEnd},
};
pub use crate::server::seen::SubjectKind;

/// Version of the frames.
const VERSION: u16 = 3;
/// Asks of one frame: enough to fill a group commit, few enough that the first does not wait for the last.
pub const ASKS_MAX: usize = 512;
/// Batches of one stream under way: one on its way to the disk, one gathering behind it, and as many again
/// for the way there and back.
pub const BATCHES_MAX: usize = 4;
/// The largest frame: [`ASKS_MAX`] keys of the largest size, and some.
const FRAME_BYTES_MAX: usize = 8 << 20;

/// The first frame of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    token: String,
    purpose: Purpose,
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Purpose {
    Ask,
    Watch,
}

/// Asks that travel together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Batch {
    number: u64,
    asks: Vec<Ask>,
}

/// The answers to one batch, each at its ask's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Answers {
    number: u64,
    answers: Vec<Result<Said, Failure>>,
    /// Who leads, as far as this node knows: writes are shortest there.
    leader: Option<NodeId>,
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// A new keypair; answered by [`Said::Written`].
    CreateKeypair { request: RequestId, keypair: NewKeypair },
    /// Answered by [`Said::Written`].
    DeleteKeypair { request: RequestId, id: KeypairId },
    /// Answered by [`Said::Keypair`].
    ShowKeypair { id: KeypairId },
}

impl Ask {
    /// It changes something.
    fn is_write(&self) -> bool {
        match self {
            Self::CreateKeypair { .. } | Self::DeleteKeypair { .. } => true,
            Self::ShowKeypair { .. } => false,
        }
    }
}

/// The public half of a keypair, to be kept by the city.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewKeypair {
    pub id: KeypairId,
    pub project: ProjectId,
    pub name: Name,
    /// One line of a `.pub` file.
    pub public_key: String,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// Committed at this index, and applied at the node that answers.
    Written {
        index: u64,
    },
    Keypair(Box<KeptKeypair>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptKeypair {
    pub id: KeypairId,
    pub project: ProjectId,
    pub name: Name,
    pub public_key: String,
    pub fingerprint: String,
    pub created_at: Timestamp,
}

/// Why not: what HTTP's problem details say, without their form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Failure {
    /// The same codes as HTTP's.
    pub code: String,
    pub detail: String,
    pub remedy: Option<String>,
}

impl From<crate::v1::Problem> for Failure {
    fn from(problem: crate::v1::Problem) -> Self {
        let mut detail = problem.detail;
        for field in problem.invalid {
            detail = format!("{detail}; {} {}", field.field, field.why);
        }
        Self { code: problem.code, detail, remedy: problem.remedy }
    }
}

/// Why no frame could be read or written.
#[derive(Debug, thiserror::Error)]
enum FrameError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Codec(#[from] CodecError),
}

/// The next frame; none at the stream's end.
async fn read_frame<T: DeserializeOwned>(
    reader: &mut (impl AsyncRead + Unpin),
) -> Result<Option<T>, FrameError> {
    let mut head = [0; HEADER_BYTES];
    match reader.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let header = Header::parse(&head, FRAME_BYTES_MAX)?;
    if header.version != VERSION {
        return Err(CodecError::Version { found: header.version, expected: VERSION }.into());
    }
    // Only what arrives takes room.
    let mut payload = Vec::new();
    let have = reader.take(header.length as u64).read_to_end(&mut payload).await?;
    if have < header.length {
        return Err(CodecError::Incomplete { have, need: header.length }.into());
    }
    header.verify(&payload)?;
    Ok(Some(scp_codec::from_payload(&payload)?))
}

fn frame(message: &impl Serialize) -> Result<Vec<u8>, CodecError> {
    scp_codec::encode(VERSION, message)
}

async fn write_frame(
    writer: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> Result<(), FrameError> {
    writer.write_all(&frame(message)?).await?;
    writer.flush().await?;
    Ok(())
}
