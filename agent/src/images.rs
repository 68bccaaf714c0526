//! Images: fetched where they are assigned or needed, told, and dropped when nobody wants them.

use scp_model::{
    ImageId, Op, Report, Timestamp,
    image::{Image, ReplicaStatus},
    op::{EnsureImage, OpSubject},
};

use crate::{
    FailureClass,
    backoff::mix,
    claim::{Claim, claim},
    report,
    round::Round,
};

/// Failed fetches after which the scheduler is told, so that it can choose another node.
pub const FETCH_TRIES: u32 = 4;

/// An image that the state does not know is left alone for so long, in milliseconds: the node that
/// takes an image in has it on disk before its record is committed.
pub const UNKNOWN_IMAGE_MS: u64 = 60 * 60_000;

/// An image that the state holds to be here is told to be gone when so many whole observations ended
/// without it. The first may have begun before it came: a node takes an image in, has it recorded as
/// held, and only then looks around again.
pub const GONE_OBSERVATIONS: u64 = 2;

impl Round<'_> {
    pub(crate) fn images(&mut self) {
        let state = self.state;
        for image in state.images.values() {
            let replica = image.replicas.get(&self.me);
            if replica != Some(&ReplicaStatus::Held) || self.world.images.contains(&image.id) {
                self.memory.missing_images.remove(&image.id);
            }
            match self.world.images.contains(&image.id) {
                true => self.image_here(image, replica),
                false => self.image_missing(image, replica),
            }
        }
        let world = self.world;
        let unknown = |id: &ImageId| !state.images.contains_key(id);
        let now = self.now;
        self.memory.missing_images.retain(|id, _| state.images.contains_key(id));
        self.memory.unknown_images.retain(|id, _| unknown(id) && world.images.contains(id));
        for id in world.images.iter().copied().filter(unknown) {
            let since: Timestamp = *self.memory.unknown_images.entry(id).or_insert(now);
            let drop_at = since.plus_ms(UNKNOWN_IMAGE_MS);
            match drop_at <= now {
                true => self.drop_image(id),
                false => self.wake(drop_at),
            }
        }
    }

    fn image_here(&mut self, image: &Image, replica: Option<&ReplicaStatus>) {
        match replica {
            Some(ReplicaStatus::Held) => {}
            Some(ReplicaStatus::Assigned | ReplicaStatus::Failed { .. }) => {
                self.tell(Report::ImageHeld { image: image.id });
            }
            // Fetched for a VM before the scheduler asked for it.
            None if self.is_used(image.id) => self.tell(Report::ImageHeld { image: image.id }),
            // Ours may be the only copy.
            None if image.holders().next().is_none() => self.tell(Report::ImageHeld { image: image.id }),
            None => self.drop_image(image.id),
        }
    }

    fn is_used(&self, image: ImageId) -> bool {
        self.state.vms_on(self.me).any(|vm| vm.spec.image == image)
    }

    fn image_missing(&mut self, image: &Image, replica: Option<&ReplicaStatus>) {
        let assigned = match replica {
            Some(ReplicaStatus::Assigned) => {
                if scp_mutant::on("copy-claimed-early") {
                    self.tell(Report::ImageHeld { image: image.id });
                }
                true
            }
            Some(ReplicaStatus::Held) => {
                let seen = self.world.observations;
                let since = *self.memory.missing_images.entry(image.id).or_insert(seen);
                if seen >= since + GONE_OBSERVATIONS {
                    self.tell(Report::ImageGone { image: image.id });
                }
                false
            }
            Some(ReplicaStatus::Failed { .. }) | None => false,
        };
        let wanted = assigned || self.images_needed.contains(&image.id);
        let sources = self.sources(image);
        if wanted && self.hold.is_none() && !sources.is_empty() {
            let content = image.content.clone();
            self.ask(Op::EnsureImage(EnsureImage { image: image.id, content, sources }));
        }
        let pace = self.memory.pace(OpSubject::Image(image.id)).filter(|_| assigned);
        let failed = pace.and_then(|pace| Some((pace.attempts, pace.failure.as_ref()?)));
        if let Some((attempts, failure)) = failed
            && (failure.class == FailureClass::Terminal || attempts >= FETCH_TRIES)
        {
            let message = report::message(failure.message.clone());
            self.tell(Report::ImageFailed { image: image.id, message });
        }
    }

    /// Nodes that have it, best first: up, in our zone, and then in an order that differs from node to
    /// node and image to image, so that not all fetch from the same one.
    fn sources(&self, image: &Image) -> Vec<scp_model::NodeId> {
        let zone = self.state.nodes.get(&self.me).map(|node| &node.profile.zone);
        let mut holders: Vec<_> = image.holders().filter(|node| *node != self.me).collect();
        holders.retain(|node| self.state.nodes.contains_key(node));
        holders.sort_by_key(|id| {
            let node = self.state.nodes.get(id);
            let down = !node.is_some_and(|node| node.is_up());
            let far = node.map(|node| &node.profile.zone) != zone;
            let salt = (u128::from(self.me.0) << 64) | u128::from(id.0);
            (down, far, mix(image.id.0.as_u128(), salt), *id)
        });
        holders
    }

    /// Drops our copy, unless something here may stand on it. Of an instance that the state does not
    /// know, nobody knows what it stands on.
    fn drop_image(&mut self, image: ImageId) {
        let uses = |id| self.state.vms.get(id).is_some_and(|vm| vm.spec.image == image);
        let seen = self.world.vms.values().any(|fact| match claim(self.state, self.me, fact) {
            Claim::Ours | Claim::Ended => uses(&fact.vm) || !self.state.vms.contains_key(&fact.vm),
            Claim::Ahead | Claim::Orphan => true,
        });
        if self.hold.is_none() && !self.is_used(image) && !seen && self.world.orphans.is_empty() {
            self.ask(Op::RemoveImage { image });
        }
    }
}
