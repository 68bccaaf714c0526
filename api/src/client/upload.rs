//! Uploading an image: the file is streamed, never held in memory.

use std::{path::PathBuf, sync::Arc};

use futures::TryStreamExt;
use reqwest::{Body, Method, header};
use scp_model::{ImageId, RequestId};
use tokio::time::{Instant, sleep};
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use super::{
    Client, ClientError, Result,
    send::{Backoff, pairs, understood},
};
use crate::v1::{self, Image, ImageUpload};

/// Bytes read from the file at once.
const READ_BYTES: usize = 256 << 10;

/// An image on its way up.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Made by whoever asks: the same id again is the same image, and is taken in once.
    pub id: ImageId,
    pub about: ImageUpload,
    pub file: PathBuf,
}

type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

impl Client {
    /// Streams the file to a node, which checks it and replicates it from there. `progress` hears how
    /// many bytes of how many are sent; it begins at 0 again when another node has to take over.
    ///
    /// With the same id the upload can be repeated after any failure: it is done once.
    pub async fn upload_image(
        &self,
        upload: &Upload,
        progress: impl Fn(u64, u64) + Send + Sync + 'static,
    ) -> Result<Image> {
        let key = self.request.unwrap_or_else(|| RequestId(Uuid::now_v7()));
        let progress: Progress = Arc::new(progress);
        let deadline = Instant::now() + self.deadline;
        let mut backoff = Backoff::new();
        let mut round = 0;
        loop {
            let error = match self.upload_once(upload, key, progress.clone(), round).await {
                Ok(image) => {
                    self.prefer(round);
                    return Ok(image);
                }
                Err(error) => error,
            };
            let repeat = match &error {
                ClientError::Unreachable { .. } | ClientError::Lost { .. } => true,
                ClientError::Problem(problem) => matches!(problem.status, 502..=504),
                ClientError::BadAnswer { .. } | ClientError::Config { .. } | ClientError::Io { .. } => false,
            };
            round += 1;
            let wait = backoff.next();
            // Every address gets its turn, however long the bytes took.
            if !repeat || (round >= self.address_count() && Instant::now() + wait >= deadline) {
                return Err(error);
            }
            sleep(wait).await;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one call, split off for its retries")]
    async fn upload_once(
        &self,
        upload: &Upload,
        key: RequestId,
        progress: Progress,
        round: usize,
    ) -> Result<Image> {
        let io = |source| ClientError::Io { doing: format!("reading {}", upload.file.display()), source };
        let open = tokio::fs::File::open(&upload.file).await.map_err(io)?;
        let total = open.metadata().await.map_err(io)?.len();
        let mut sent = 0u64;
        progress(0, total);
        let bytes = ReaderStream::with_capacity(open, READ_BYTES).inspect_ok(move |chunk| {
            sent += chunk.len() as u64;
            progress(sent, total);
        });
        let address = self.address(round);
        let mut url = self.url(&address, &["v1", "images", &upload.id.to_string()])?;
        url.query_pairs_mut().extend_pairs(pairs(&upload.about));
        let request = self
            .request(Method::PUT, url)
            .header(v1::IDEMPOTENCY_KEY, key.to_string())
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, total)
            .body(Body::wrap_stream(bytes));
        let answer = self.stream(request, &address).await?;
        let lost = |error: reqwest::Error| ClientError::Lost { why: error.to_string(), request: Some(key) };
        let body = answer.bytes().await.map_err(lost)?;
        understood(&body)
    }
}
