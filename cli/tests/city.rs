//! The real `scpctl` against the real API of a city in this process: as people and programs use it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use serde_json::json;
use support::{
    Place, Said,
    city::{City, PASSWORD},
};

/// A city with an image, and somebody who works in its project.
fn as_ana() -> (Place, City) {
    let place = Place::new();
    let city = City::begin(&place);
    place.write("disk.raw", "some disk");
    let file = place.path("disk.raw");
    place.over_socket(&format!("--project default image add {} --name debian --public", file.display())).ok();
    log_in(&place, &city, "ana").ok();
    (place, city)
}

fn log_in(place: &Place, city: &City, user: &str) -> Said {
    let (ca, password) = (place.write("ca.pem", &city.ca), place.write("password", PASSWORD));
    place.run(&format!(
        "login --node {} --user {user} --ca {} --password-file {}",
        city.address,
        ca.display(),
        password.display()
    ))
}

#[test]
fn a_login_is_remembered_without_the_password() {
    let (place, city) = as_ana();
    let text = std::fs::read_to_string(place.config()).unwrap();
    assert!(!text.contains(PASSWORD), "{text}");
    let context = place.run("context show --output json").ok().json();
    assert_eq!(
        (&context["name"], &context["user"], &context["nodes"][0], &context["has_token"]),
        (&json!("lisboa"), &json!("ana"), &json!(city.address), &json!(true))
    );
    place.run("vm list").ok();
    // What another machine needs to log in.
    assert_eq!(place.run("context show --ca").ok().out, city.ca);
    // The second time only the password is needed.
    place.run(&format!("login --password-file {}", place.path("password").display())).ok();
}

#[test]
fn a_wrong_password_is_denied_and_changes_nothing() {
    let (place, _city) = as_ana();
    let before = std::fs::read(place.config()).unwrap();
    let wrong = place.write("wrong", "not the right password");
    let told = place.run(&format!("login --password-file {}", wrong.display())).failed(4);
    assert!(told.err.contains("scpctl user password ana"), "{told:#?}");
    assert_eq!(std::fs::read(place.config()).unwrap(), before);
}

#[test]
fn an_expired_token_says_how_to_log_in_again() {
    let (place, _city) = as_ana();
    let text = std::fs::read_to_string(place.config()).unwrap();
    let expired: Vec<_> = text
        .lines()
        .map(|line| match line.starts_with("token_expires_at") {
            true => "token_expires_at = \"2026-01-01T00:00:00.000Z\"",
            false => line,
        })
        .collect();
    std::fs::write(place.config(), expired.join("\n")).unwrap();
    let told = place.run("vm list").failed(4);
    assert_eq!(
        told.err,
        "error: the token of ana in lisboa has expired\n\
         \x20 why:      it was good until 2026-01-01T00:00:00.000Z\n\
         \x20 remedy:   scpctl login --context lisboa\n"
    );
}

#[test]
fn a_vm_is_created_waited_for_listed_and_deleted() {
    let (place, _city) = as_ana();
    let told = place.run("vm create web --image debian --flavor small --wait --timeout 60").ok();
    assert!(told.out.contains("running since"), "{told:#?}");
    assert!(told.err.contains("VM web is ordered"), "{told:#?}");

    let table = place.run("vm list").ok().out;
    let lines: Vec<_> = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(lines[0], ["NAME", "PHASE", "NODE", "FLAVOR", "IMAGE", "PROJECT", "ID"]);
    assert_eq!(lines[1][..6], ["web", "running", "n1", "small", "debian", "default"]);
    let list = place.run("vm list --output json").ok().json();
    assert_eq!((&list[0]["name"], &list[0]["phase"]), (&json!("web"), &json!("running")));

    place.run("vm stop web --wait --timeout 60").ok();
    assert_eq!(place.run("vm show web -o json").ok().json()["phase"], "stopped");
    place.run("vm start web --wait --timeout 60").ok();
    place.run("vm reboot web --wait --timeout 60").ok();
    let id = list[0]["id"].as_str().unwrap();
    assert_eq!(place.run(&format!("vm show {id} -o json")).ok().json()["reboots"], 1);
    place.run("vm delete web --wait --timeout 60").ok();
    assert_eq!(place.run("vm list -o json").ok().json(), json!([]));
}

#[test]
fn what_is_in_another_project_is_found_by_id_and_public_images_by_name() {
    let (place, _city) = as_ana();
    place.over_socket("project create library").ok();
    place.over_socket("--project library vm create web --image debian --flavor small").ok();
    let id = place.over_socket("vm list -A -o json").ok().json()[0]["id"].as_str().unwrap().to_owned();
    place.over_socket("--project default vm show web").failed(3);
    place.over_socket(&format!("--project default vm show {id}")).ok();
    place.over_socket("--project library image show debian").ok();
    let listed = place.over_socket("--project library image list -o json").ok().json();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["name"]), (1, &json!("debian")));
    place.run("vm list -A").ok();
}

#[test]
fn several_vms_are_numbered() {
    let (place, _city) = as_ana();
    let made = place.run("vm create w --image debian --flavor small --count 3 --wait -q -o json").ok();
    let names: Vec<_> = made.json().as_array().unwrap().iter().map(|vm| vm["name"].clone()).collect();
    assert_eq!(names, ["w-1", "w-2", "w-3"]);
    assert_eq!(made.err, "");
}

#[test]
fn a_vm_that_waits_for_a_node_is_explained_when_the_waiting_ends() {
    let (place, _city) = as_ana();
    let told = place.run("vm create stuck --image debian --flavor small --wait --timeout 1").failed(7);
    assert!(told.err.contains("it waits: no node is feasible"), "{told:#?}");
    assert!(told.err.contains("error: not done after 1 s: VM stuck is pending"), "{told:#?}");
    assert!(told.err.contains("scpctl explain"), "{told:#?}");
    let told = place.run("explain stuck").ok();
    assert!(told.out.starts_with("it waits: no node is feasible\n"), "{told:#?}");
}

#[test]
fn a_crash_that_nothing_mends_ends_the_waiting() {
    let (place, _city) = as_ana();
    let words = "vm create broken --image debian --flavor small --restart never --wait --timeout 60";
    let told = place.run(words).failed(1);
    assert!(told.err.contains("it crashed and its restart policy is never"), "{told:#?}");
    assert!(told.err.contains("the guest's kernel panicked"), "{told:#?}");
}

#[test]
fn every_kind_of_failure_has_its_exit_code_and_its_remedy() {
    let (place, city) = as_ana();
    let told = place.run("vm show nothing").failed(3);
    assert!(told.err.starts_with("error: ") && told.err.contains("request: "), "{told:#?}");
    place.run("vm frob").failed(2);
    let told = place.run("vm create bad- --image debian --flavor small --zone ../etc").failed(2);
    assert!(told.err.contains("name: ") && told.err.contains("zone: "), "everything at once: {told:#?}");
    let told = place.run("node drain n1").failed(4);
    assert!(told.err.contains("remedy:"), "{told:#?}");
    place.run("keypair create me --generate").failed(2);
    place.run("vm create web --image debian --flavor small").ok();
    let told = place.run("vm create web --image debian --flavor small").failed(5);
    assert!(told.err.contains("web"), "{told:#?}");
    let told = place.run("vm list --node 127.0.0.1:1 --timeout 1 --output json").failed(6);
    let error: serde_json::Value = serde_json::from_str(told.err.lines().last().unwrap()).unwrap();
    assert!(error["error"]["why"][0].as_str().unwrap().starts_with("127.0.0.1:1: "), "{error}");
    city.cluster.set_quorum(false);
    place.run("vm stop web --timeout 1").failed(6);
    let told = place.run("vm list --stale").ok();
    assert!(told.err.ends_with("This is what one node knew 7 s ago.\n"), "{told:#?}");
    let told = place.run("status").ok();
    assert!(told.out.starts_with("Unavailable: "), "{told:#?}");
}

#[test]
fn a_foreign_authority_is_not_trusted() {
    let (place, city) = as_ana();
    let other = Place::new();
    let foreign = City::begin(&other);
    let (ca, password) = (place.write("foreign.pem", &foreign.ca), place.write("password", PASSWORD));
    let words = format!(
        "login --context x --node {} --user ana --ca {} --password-file {}",
        city.address,
        ca.display(),
        password.display()
    );
    let told = place.run(&format!("{words} --timeout 1")).failed(6);
    assert!(told.err.contains("certificate"), "{told:#?}");
}

#[test]
fn an_image_that_lies_is_refused_with_its_reason() {
    let (place, _city) = as_ana();
    let file = place.write("liar.qcow2", "lies about its backing file");
    let told = place.run(&format!("image add {}", file.display())).failed(2);
    assert!(told.err.contains("backing file"), "{told:#?}");
    let file = place.write("good.img", "an honest disk");
    let told = place.run(&format!("image add {} --wait --timeout 60", file.display())).ok();
    assert!(told.out.contains("name     good"), "{told:#?}");
    place.run("image delete good").ok();
}

#[test]
fn a_keypair_is_made_and_its_private_half_stays_here() {
    let (place, _city) = as_ana();
    let key = place.path("web.key");
    let made = place.run(&format!("keypair create web --generate {} -o json", key.display())).ok().json();
    assert!(made["public_key"].as_str().unwrap().starts_with("ssh-ed25519 "));
    assert!(std::fs::read_to_string(&key).unwrap().starts_with("-----BEGIN OPENSSH PRIVATE KEY-----"));
    // The same file is not overwritten, and a private key is not sent.
    place.run(&format!("keypair create again --generate {}", key.display())).failed(2);
    place.run(&format!("keypair create again --public-key {}", key.display())).failed(2);
    let words = "vm create web --image debian --flavor small --keypair web -o json";
    assert_eq!(place.run(words).ok().json()["ssh_keys"].as_array().unwrap().len(), 1);
}

#[test]
fn administrators_look_after_people_projects_and_machines() {
    let (place, _city) = as_ana();
    let root = |words: &str| place.over_socket(words);
    root("department create culture").ok();
    let made = root("project create library --department culture --vcpus 16 -o json").ok().json();
    assert_eq!(made["quota"]["vcpus"], 16);
    let made = root("project quota library --memory 8GiB -o json").ok().json();
    assert_eq!((&made["quota"]["vcpus"], &made["quota"]["memory_mib"]), (&json!(16), &json!(8192)));
    let password = place.write("new", "four unrelated words here");
    let file = password.display();
    root(&format!("user create eva --password-file {file} --grant library=member")).ok();
    root("user grant eva --city operator").ok();
    root("user grant eva --in default --role reader").ok();
    root("user revoke eva --in library").ok();
    let eva = root("user show eva -o json").ok().json();
    assert_eq!(eva["city_roles"], json!(["operator"]));
    assert_eq!(eva["grants"].as_array().unwrap().len(), 1);
    root("user disable eva").ok();
    assert_eq!(root("user show eva -o json").ok().json()["enabled"], false);
    root(&format!("user password eva --password-file {file}")).ok();
    root("user delete eva").ok();
    root("flavor create large --vcpus 4 --memory 8G --disk 40G").ok();
    root("flavor delete large").ok();
    let token = root("token create --expires 15m").ok();
    assert!(token.out.starts_with("scpctl join 10.0.0.1:7443 SCP-"), "{token:#?}");
    let id = root("token list -o json").ok().json()[0]["id"].as_str().unwrap().to_owned();
    root(&format!("token revoke {id}")).ok();
    root("node cordon n1").ok();
    assert!(root("node explain n1").ok().out.contains("scpctl node uncordon n1"));
    root("node uncordon n1").ok();
    root("node drain n1 --wait --timeout 60").ok();
    root("project delete library").ok();
    root("department delete culture").ok();
}

#[test]
fn status_is_one_sentence_first() {
    let (place, _city) = as_ana();
    let told = place.over_socket("status").ok();
    assert_eq!(told.out.lines().next(), Some("Running, NOT highly available (1 of 3). Add two servers."));
    assert!(told.out.contains("NAME  ZONE    STATE  ROLE    COMPUTE  VMS  FREE MEMORY"), "{told:#?}");
    // A tenant gets the sentence, and no machines.
    let told = place.run("status").ok();
    assert_eq!(told.out.lines().next(), Some("Running, NOT highly available (1 of 3). Add two servers."));
    assert!(!told.out.contains("rack-1"), "{told:#?}");
}

#[test]
fn events_are_lines_for_people_and_json_lines_for_programs() {
    let (place, _city) = as_ana();
    place.run("vm create web --image debian --flavor small --wait").ok();
    let told = place.over_socket("events --about vm").ok();
    assert!(told.out.lines().next().unwrap().contains("vm_created"), "{told:#?}");
    let told = place.over_socket("events --all --output json").ok();
    let first: serde_json::Value = serde_json::from_str(told.out.lines().next().unwrap()).unwrap();
    assert_eq!((&first["sequence"], &first["kind"]), (&json!(0), &json!("city_initialised")));
}

#[test]
fn a_console_log_and_statistics_are_shown() {
    let (place, _city) = as_ana();
    place.run("vm create web --image debian --flavor small --wait").ok();
    assert_eq!(place.run("vm log web").ok().out, "Linux version 6.1\r\nlogin: ");
    assert!(place.run("vm stats web").ok().out.contains("cpu time      12 s"));
}
