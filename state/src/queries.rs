//! What readers ask: by name or id, what is visible, who is a member, what is free, what fits where.
//!
//! `find_*` take a name or an id: a name that looks like an id is taken for an id first.

use std::{ops::RangeInclusive, str::FromStr};

use scp_model::{
    DepartmentId, Event, FlavorId, ImageId, KeypairId, Name, NodeId, ProjectId, PublicKey, Resources,
    Subject, UserId, VmId,
    explain::Obstacle,
    flavor::Flavor,
    image::{Image, Visibility},
    node::Node,
    tenancy::{CityRole, Department, Keypair, Project, ProjectRole, User},
    vm::{Eviction, Vm, VmPhase},
};
use sha2::{Digest as _, Sha256};

use crate::{NameScope, State, Usage};

/// The id that follows from a node's key: the first eight bytes, big endian, of its SHA-256.
pub fn node_id_of(key: &PublicKey) -> NodeId {
    let hash = Sha256::digest(key.0);
    NodeId(u64::from_be_bytes(*hash.first_chunk().expect("SHA-256 has 32 bytes")))
}

/// Events between what the watcher asked for and what the ring still has were lost to it: it reads the
/// state anew and goes on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("events before {oldest} are no longer kept")]
pub struct EventsGap {
    /// The oldest event still kept, or the next one when there is none.
    pub oldest: u64,
}

/// Why a node cannot be removed yet without a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// So many VMs are placed on it.
    Vms(u64),
    /// So many VMs that it no longer owns it has yet to remove.
    Evictions(u64),
    /// It has the only copy.
    OnlyCopy(ImageId),
}

/// Nodes.
impl State {
    /// What the city would lose with a node, or still waits for from it; none: nothing.
    pub fn hold(&self, node: NodeId) -> Option<Hold> {
        let placed = self.vms_on(node).count() as u64;
        if placed > 0 {
            return Some(Hold::Vms(placed));
        }
        let evicted = self.evictions_on(node).count() as u64;
        if evicted > 0 {
            return Some(Hold::Evictions(evicted));
        }
        let only_here = |image: &&Image| image.holders().eq([node]);
        self.images.values().find(only_here).map(|image| Hold::OnlyCopy(image.id))
    }

    /// What of a node may still be promised: overcommitted capacity less reserve and allocations.
    pub fn free(&self, node: &Node) -> Resources {
        self.offered(node).minus(self.allocated.get(&node.id).copied().unwrap_or_default())
    }

    /// What of a node may be promised in all.
    pub fn offered(&self, node: &Node) -> Resources {
        self.overcommit.of(node.profile.capacity.minus(node.profile.reserved))
    }

    pub fn find_node(&self, name_or_id: &str) -> Option<&Node> {
        let by_id = NodeId::from_str(name_or_id).ok().and_then(|id| self.nodes.get(&id));
        by_id.or_else(|| {
            let Subject::Node(id) = self.named(NameScope::Nodes, name_or_id)? else { return None };
            self.nodes.get(&id)
        })
    }

    /// Whether the key belongs to a node of the city. A removed node's does not.
    pub fn is_member(&self, key: &PublicKey) -> bool {
        self.nodes.get(&node_id_of(key)).is_some_and(|node| node.public_key == *key)
    }

    pub fn nodes_up(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.is_up())
    }

    /// VMs placed on a node.
    pub fn vms_on(&self, node: NodeId) -> impl Iterator<Item = &Vm> {
        let whole = (node, VmId::from_u128(0))..=(node, VmId::from_u128(u128::MAX));
        self.vms_by_node.range(whole).filter_map(|(_, vm)| self.vms.get(vm))
    }

    /// Placed members of an anti-affinity group, by node.
    pub fn group(&self, project: ProjectId, group: &Name) -> impl Iterator<Item = (NodeId, &Vm)> {
        self.group_within(project, group, NodeId(0)..=NodeId(u64::MAX))
    }

    /// Members of an anti-affinity group on one node.
    pub fn group_on(&self, project: ProjectId, group: &Name, node: NodeId) -> impl Iterator<Item = &Vm> {
        self.group_within(project, group, node..=node).map(|(_, vm)| vm)
    }

    fn group_within(
        &self,
        project: ProjectId,
        group: &Name,
        nodes: RangeInclusive<NodeId>,
    ) -> impl Iterator<Item = (NodeId, &Vm)> {
        let first = (project, group.clone(), *nodes.start(), VmId::from_u128(0));
        let last = (project, group.clone(), *nodes.end(), VmId::from_u128(u128::MAX));
        let members = self.groups.range(first..=last);
        members.filter_map(|(_, _, node, vm)| Some((*node, self.vms.get(vm)?)))
    }

    /// VMs that are to have a placement, those that wait longest first.
    pub fn pending_vms(&self) -> impl Iterator<Item = &Vm> {
        self.pending.iter().filter_map(|(_, vm)| self.vms.get(vm))
    }

    /// Nodes where a VM uses the image without a copy, and none on its way.
    pub fn copies_missing(&self, image: ImageId) -> impl Iterator<Item = NodeId> {
        self.copies_missing.range((image, NodeId(0))..=(image, NodeId(u64::MAX))).map(|(_, node)| *node)
    }

    /// Nodes that hold the image whole while no VM there uses it.
    pub fn copies_idle(&self, image: ImageId) -> impl Iterator<Item = NodeId> {
        self.copies_idle.range((image, NodeId(0))..=(image, NodeId(u64::MAX))).map(|(_, node)| *node)
    }

    /// What a node is to remove before it does anything else.
    pub fn evictions_on(&self, node: NodeId) -> impl Iterator<Item = &Eviction> {
        let whole = (node, VmId::from_u128(0))..=(node, VmId::from_u128(u128::MAX));
        self.evictions.range(whole).map(|(_, eviction)| eviction)
    }
}

/// Tenancy.
impl State {
    pub fn find_department(&self, name_or_id: &str) -> Option<&Department> {
        let by_id = DepartmentId::from_str(name_or_id).ok().and_then(|id| self.departments.get(&id));
        by_id.or_else(|| {
            let Subject::Department(id) = self.named(NameScope::Departments, name_or_id)? else {
                return None;
            };
            self.departments.get(&id)
        })
    }

    /// A project of a department.
    pub fn find_project(&self, department: DepartmentId, name_or_id: &str) -> Option<&Project> {
        let by_id = ProjectId::from_str(name_or_id).ok().and_then(|id| self.projects.get(&id));
        let by_id = by_id.filter(|project| project.department == department);
        by_id.or_else(|| {
            let Subject::Project(id) = self.named(NameScope::Projects(department), name_or_id)? else {
                return None;
            };
            self.projects.get(&id)
        })
    }

    pub fn find_user(&self, name_or_id: &str) -> Option<&User> {
        let by_id = UserId::from_str(name_or_id).ok().and_then(|id| self.users.get(&id));
        by_id.or_else(|| {
            let Subject::User(id) = self.named(NameScope::Users, name_or_id)? else { return None };
            self.users.get(&id)
        })
    }

    pub fn find_keypair(&self, project: ProjectId, name_or_id: &str) -> Option<&Keypair> {
        let by_id = KeypairId::from_str(name_or_id).ok().and_then(|id| self.keypairs.get(&id));
        let by_id = by_id.filter(|keypair| keypair.project == project);
        by_id.or_else(|| {
            let Subject::Keypair(id) = self.named(NameScope::Keypairs(project), name_or_id)? else {
                return None;
            };
            self.keypairs.get(&id)
        })
    }

    pub fn usage_of(&self, project: ProjectId) -> Usage {
        self.usage.get(&project).copied().unwrap_or_default()
    }

    /// Enabled users with the admin role.
    pub fn admins(&self) -> impl Iterator<Item = &User> {
        self.users.values().filter(|user| user.enabled && user.city_roles.contains(&CityRole::Admin))
    }

    /// A user's role in a project, by grant; none for a disabled user.
    pub fn role_in(&self, user: UserId, project: ProjectId) -> Option<ProjectRole> {
        self.users.get(&user).filter(|user| user.enabled)?.grants.get(&project).copied()
    }
}

/// Flavors, images, VMs.
impl State {
    pub fn find_flavor(&self, name_or_id: &str) -> Option<&Flavor> {
        let by_id = FlavorId::from_str(name_or_id).ok().and_then(|id| self.flavors.get(&id));
        by_id.or_else(|| {
            let Subject::Flavor(id) = self.named(NameScope::Flavors, name_or_id)? else { return None };
            self.flavors.get(&id)
        })
    }

    pub fn image_is_visible(&self, image: &Image, project: ProjectId) -> bool {
        image.project == project || image.visibility == Visibility::Public
    }

    /// The project's own images and the city's public ones.
    pub fn visible_images(&self, project: ProjectId) -> impl Iterator<Item = &Image> {
        self.images.values().filter(move |image| self.image_is_visible(image, project))
    }

    /// An image that the project may use: its own of that name before a public one, the oldest public
    /// one first.
    pub fn find_image(&self, project: ProjectId, name_or_id: &str) -> Option<&Image> {
        let by_id = ImageId::from_str(name_or_id).ok().and_then(|id| self.images.get(&id));
        let by_id = by_id.filter(|image| self.image_is_visible(image, project));
        let own = || {
            let Subject::Image(id) = self.named(NameScope::Images(project), name_or_id)? else { return None };
            self.images.get(&id)
        };
        let public = || {
            let named = self.visible_images(project).filter(|image| image.name.as_str() == name_or_id);
            named.min_by_key(|image| (image.created_at, image.id))
        };
        by_id.or_else(own).or_else(public)
    }

    pub fn find_vm(&self, project: ProjectId, name_or_id: &str) -> Option<&Vm> {
        let by_id = VmId::from_str(name_or_id).ok().and_then(|id| self.vms.get(&id));
        let by_id = by_id.filter(|vm| vm.spec.project == project);
        by_id.or_else(|| {
            let Subject::Vm(id) = self.named(NameScope::Vms(project), name_or_id)? else { return None };
            self.vms.get(&id)
        })
    }

    /// A VM's order of removal on each node that may still hold it.
    pub fn evictions_of(&self, vm: VmId) -> impl Iterator<Item = &Eviction> {
        let whole = (vm, NodeId(0))..=(vm, NodeId(u64::MAX));
        self.evictions_by_vm.range(whole).filter_map(|(vm, node)| self.evictions.get(&(*node, *vm)))
    }

    /// Whether a VM may be bound now: it is pending, and no node that is *up* still has to remove it.
    ///
    /// A node that is down cannot be asked; its instance is fenced by its epoch, and the node removes
    /// it before anything else when it comes back.
    pub fn may_bind(&self, vm: &Vm) -> bool {
        vm.status.phase == VmPhase::Pending && vm.placement.is_none() && self.holdout(vm.id).is_none()
    }

    /// A node that is up and still has to remove the VM.
    pub fn holdout(&self, vm: VmId) -> Option<&Node> {
        if scp_mutant::on("holdout-ignored") {
            return None;
        }
        let mut nodes = self.evictions_of(vm).filter_map(|eviction| self.nodes.get(&eviction.node));
        nodes.find(|node| node.is_up())
    }

    /// The first check that a node does not pass for a VM; none: the VM may be bound there.
    pub fn obstacle(&self, vm: &Vm, node: &Node) -> Option<Obstacle> {
        self.refusal(node).or_else(|| self.misfit(vm, node)).or_else(|| self.shortage(vm, node))
    }

    /// Why a node takes no VM at all.
    fn refusal(&self, node: &Node) -> Option<Obstacle> {
        if !node.is_up() {
            return Some(Obstacle::Down);
        }
        if node.draining {
            return Some(Obstacle::Draining);
        }
        if !node.schedulable {
            return Some(Obstacle::Cordoned);
        }
        let why_not = node.profile.compute.why_not();
        why_not.map(|reason| Obstacle::NoCompute { reason: reason.into() })
    }

    /// Why a node is the wrong place for this VM.
    fn misfit(&self, vm: &Vm, node: &Node) -> Option<Obstacle> {
        let has = &node.profile.zone;
        if let Some(wants) = vm.spec.zone.as_ref().filter(|wants| *wants != has) {
            return Some(Obstacle::Zone { wants: wants.clone(), has: has.clone() });
        }
        let group = vm.spec.anti_affinity.as_ref().filter(|_| !scp_mutant::on("anti-affinity-ignored"))?;
        let rival = self.group_on(vm.spec.project, group, node.id).find(|other| other.id != vm.id)?;
        Some(Obstacle::AntiAffinity { group: group.clone(), vm: rival.spec.name.clone() })
    }

    /// What a node has too little of.
    fn shortage(&self, vm: &Vm, node: &Node) -> Option<Obstacle> {
        if scp_mutant::on("capacity-ignored") {
            return None;
        }
        let (needs, free, total) = (vm.spec.resources, self.free(node), self.offered(node));
        if needs.vcpus > free.vcpus {
            let (needs, free, total) = (needs.vcpus, free.vcpus, total.vcpus);
            return Some(Obstacle::Vcpus { needs, free, total });
        }
        if needs.memory_mib > free.memory_mib {
            let (needs, free, total) = (needs.memory_mib, free.memory_mib, total.memory_mib);
            return Some(Obstacle::Memory { needs, free, total });
        }
        if needs.disk_mib > free.disk_mib {
            let (needs, free, total) = (needs.disk_mib, free.disk_mib, total.disk_mib);
            return Some(Obstacle::Disk { needs, free, total });
        }
        None
    }
}

/// Names, events.
impl State {
    /// What has this name in its scope.
    pub fn named(&self, scope: NameScope, name: &str) -> Option<Subject> {
        let name = Name::new(name).ok()?;
        self.names.get(&(scope, name)).copied()
    }

    /// Events from `sequence` on, oldest first.
    pub fn events_from(&self, sequence: u64) -> Result<impl Iterator<Item = &Event>, EventsGap> {
        let oldest = self.next_event - self.events.len() as u64;
        match usize::try_from(sequence.saturating_sub(oldest)) {
            // Each watcher asks at each change: its place is found, not walked to.
            Ok(skip) if sequence >= oldest => {
                Ok(self.events.focus().narrow(skip.min(self.events.len())..).into_iter())
            }
            _ => Err(EventsGap { oldest }),
        }
    }
}
