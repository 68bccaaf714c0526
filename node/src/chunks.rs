//! Image chunks from other nodes, over the bulk lane.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use scp_api::cluster::ByteStream;
use scp_drivers::{ChunkSource, Driver, DriverError, Hypervisor, Images, images::TakeError};
use scp_mesh::{Lane, Refusal, RefusalKind, Transport};
use scp_model::{
    Digest, ImageId, NodeId,
    image::{CHUNK_BYTES, ImageContent},
};

use crate::wire::{self, WantChunk};

/// 4 MiB take 34 ms at 1 Gbit/s; a busy disk and fifteen others before it are allowed for.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Fetches from peers. Drivers are opened before the server belongs to a city and stay open when it
/// leaves; there are peers only in between.
#[derive(Default)]
pub struct MeshChunks(RwLock<Option<Arc<dyn Transport>>>);

impl MeshChunks {
    /// The mesh to fetch over from now on.
    pub fn connect(&self, transport: Option<Arc<dyn Transport>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = transport;
    }

    fn transport(&self) -> Option<Arc<dyn Transport>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl ChunkSource for MeshChunks {
    async fn fetch(&self, from: NodeId, digest: Digest, bytes_max: u64) -> Result<Bytes, DriverError> {
        let failed = |why: String| DriverError::Retryable { doing: format!("fetching chunk {digest}"), why };
        let Some(transport) = self.transport() else {
            return Err(failed("this server belongs to no city".into()));
        };
        let ask =
            wire::pack(&WantChunk { digest, bytes_max }).map_err(|refusal| failed(refusal.to_string()))?;
        let answer = transport.request(from, Lane::Bulk, ask, TIMEOUT).await;
        answer.map_err(|error| failed(error.to_string()))
    }
}

/// The image store, as far as the node's doors need it.
#[async_trait]
pub trait ImageStore: Send + Sync + 'static {
    /// Takes an image's bytes in: checked, chunked, on disk.
    async fn take(&self, image: ImageId, body: ByteStream) -> Result<ImageContent, TakeError>;
    /// Content that is here.
    async fn read_chunk(&self, digest: Digest, bytes_max: u64) -> Result<Option<Bytes>, DriverError>;
}

#[async_trait]
impl ImageStore for Images {
    async fn take(&self, image: ImageId, body: ByteStream) -> Result<ImageContent, TakeError> {
        Self::take(self, image, body).await
    }

    async fn read_chunk(&self, digest: Digest, bytes_max: u64) -> Result<Option<Bytes>, DriverError> {
        Self::read_chunk(self, digest, bytes_max).await
    }
}

/// A node's engines, behind their ports.
#[derive(Clone)]
pub struct Engines {
    /// Carries out ops on VMs and images alike.
    pub driver: Arc<dyn Driver>,
    pub hypervisor: Arc<dyn Hypervisor>,
    pub images: Arc<dyn ImageStore>,
}

/// Serves a peer's request for a chunk.
pub async fn serve(images: &dyn ImageStore, request: &[u8]) -> Result<Bytes, Refusal> {
    let want: WantChunk = wire::unpack(Lane::Bulk, request)?;
    // The manifest of the largest image is twice a chunk.
    let bytes_max = want.bytes_max.min(2 * CHUNK_BYTES);
    match images.read_chunk(want.digest, bytes_max).await {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(Refusal::new(RefusalKind::NotFound, format!("{} is not here", want.digest))),
        Err(error) => Err(Refusal::new(RefusalKind::Failed, error.to_string())),
    }
}
