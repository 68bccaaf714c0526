//! What readers find, and what they do not.

use scp_model::{ProjectId, UserId, VmId, tenancy::ProjectRole};
use scp_state::{NameScope, node_id_of};

use crate::support::World;

fn world() -> World {
    let mut world = World::new();
    world.run(
        "init flavors=small
         token t1
         admit b token=t1
         create-project p
         create-user ana grants=p:member
         create-image debian
         create-image own project=p name=debian
         create-image shared public
         create-image rival public project=p name=common
         create-image older public name=common
         create-keypair laptop project=p
         create-vm web
         create-vm other name=web project=p image=own
         create-vm lone project=p image=own
         bind web a
         bind lone a",
    );
    world
}

#[test]
fn a_thing_is_found_by_its_name_or_its_id_within_its_scope() {
    let mut world = world();
    let default = ProjectId::from_u128(world.number("project", "default"));
    let p = ProjectId::from_u128(world.number("project", "p"));
    let (web, other) =
        (VmId::from_u128(world.number("vm", "web")), VmId::from_u128(world.number("vm", "other")));
    let state = &world.state;
    let found = |project, text: &str| state.find_vm(project, text).map(|vm| vm.id);
    assert_eq!(found(default, "web"), Some(web));
    assert_eq!(found(p, "web"), Some(other));
    assert_eq!(found(default, &web.to_string()), Some(web));
    assert_eq!(found(p, &web.to_string()), None, "an id of another project finds nothing");
    assert_eq!(found(p, "../web"), None);
    assert_eq!(found(p, ""), None);

    let department = state.find_department("default").expect("there is one").id;
    assert_eq!(state.find_project(department, "p").map(|found| found.id), Some(p));
    assert_eq!(state.find_project(department, &p.to_string()).map(|found| found.id), Some(p));
    assert!(state.find_flavor("small").is_some() && state.find_flavor("large").is_none());
    assert!(state.find_keypair(p, "laptop").is_some() && state.find_keypair(default, "laptop").is_none());
    assert_eq!(state.find_user("ana").map(|user| user.id), state.find_user("ana").map(|user| user.id));
    let b = node_id_of(&world.key("b"));
    assert_eq!(state.find_node("b").map(|node| node.id), Some(b));
    assert_eq!(state.find_node(&b.to_string()).map(|node| node.id), Some(b));
    assert!(state.named(NameScope::Nodes, "c").is_none());
}

#[test]
fn a_project_sees_its_own_images_before_public_ones_and_nobody_elses() {
    let mut world = world();
    let default = ProjectId::from_u128(world.number("project", "default"));
    let p = ProjectId::from_u128(world.number("project", "p"));
    let state = &world.state;
    let named =
        |project, name: &str| state.find_image(project, name).map(|image| world.short(image.id.to_string()));
    assert_eq!(named(default, "debian").as_deref(), Some("debian"));
    assert_eq!(named(p, "debian").as_deref(), Some("own"));
    assert_eq!(named(p, "shared").as_deref(), Some("shared"));
    assert_eq!(named(p, "common").as_deref(), Some("rival"), "one's own first");
    assert_eq!(named(default, "common").as_deref(), Some("older"), "one's own first");
    let private = state.find_image(default, "debian").expect("it is there").id.to_string();
    assert!(state.find_image(p, &private).is_none(), "not even by its id");
    assert_eq!(state.visible_images(p).count(), 4);
    assert_eq!(state.visible_images(default).count(), 4);
}

#[test]
fn roles_end_with_the_user_being_disabled() {
    let mut world = world();
    let p = ProjectId::from_u128(world.number("project", "p"));
    let ana = UserId::from_u128(world.number("user", "ana"));
    assert_eq!(world.state.role_in(ana, p), Some(ProjectRole::Member));
    world.run("update-user ana enabled=no");
    assert_eq!(world.state.role_in(ana, p), None);
}

#[test]
fn membership_follows_the_key_and_ends_with_the_node() {
    let mut world = world();
    let (a, b) = (world.key("a"), world.key("b"));
    assert!(world.state.is_member(&a) && world.state.is_member(&b));
    assert!(!world.state.is_member(&world.key("c")));
    world.run("remove-node b");
    assert!(!world.state.is_member(&b));
    assert_eq!(world.state.nodes_up().count(), 1);
}

#[test]
fn what_is_on_a_node_and_what_it_is_to_remove() {
    let mut world = world();
    let a = node_id_of(&world.key("a"));
    assert_eq!(world.state.vms_on(a).count(), 2);
    world.run("delete-vm lone\n drain a\n evacuate web");
    assert_eq!((world.state.vms_on(a).count(), world.state.evictions_on(a).count()), (0, 2));
    let web = VmId::from_u128(world.number("vm", "web"));
    assert_eq!(world.state.evictions_of(web).count(), 1);
    assert_eq!(world.state.holdout(web).map(|node| node.id), Some(a));
}
