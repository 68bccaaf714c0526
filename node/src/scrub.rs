//! Looks the images on this node over for rot. What is damaged is removed; the agent then finds it
//! missing, tells so, and has it fetched again.

use std::{sync::Arc, time::Duration};

use scp_drivers::Images;
use tokio_util::sync::CancellationToken;

/// Every chunk is read once a week, as storage arrays do.
const INTERVAL: Duration = Duration::from_secs(7 * 24 * 3600);

/// Scrubs once an interval, first after one: a start is busy enough.
pub async fn keep(images: Arc<Images>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        match images.scrub().await {
            Ok(report) if report.chunks_damaged.is_empty() => {
                tracing::info!(chunks = report.chunks_checked, "images are as they were");
            }
            Ok(report) => {
                let damaged = report.chunks_damaged.len();
                tracing::error!(damaged, images = ?report.images_damaged, "images were damaged on this disk");
            }
            Err(error) => tracing::warn!(%error, "images could not be looked over"),
        }
    }
}
