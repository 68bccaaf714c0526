//! What the network check of a join notices is in the answer that `scpctl join` prints.

mod site;

use std::process::{Command, Stdio};

use scp_api::local::LocalJoined;
use serde_json::json;
use site::{Site, ask_locally, token};

/// Tells the inner run of this binary that it is inside.
const INSIDE: &str = "SCP_TEST_NETWORK";

/// Joins a second server to a city; gives the warnings.
fn warnings_of_a_join() -> Vec<String> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(async {
        let site = Site::new();
        let city = site.city(1).await;
        let second = site.server(2).await;
        let token = token(&city[0]).await.to_string();
        let order = json!({ "address": city[0].config.mesh_address.to_string(), "token": token });
        let (status, joined) = ask_locally::<LocalJoined>(&second, "/local/join", &order.to_string()).await;
        assert_eq!(status, 200, "what is noticed does not stand in the way: {joined:?}");
        joined.warnings
    })
}

fn is_of_the_address(warning: &str) -> bool {
    warning.contains("the city sees this server at 127.0.0.1, it advertises 127.")
        && warning.contains("make sure that every node can reach 127.")
}

/// The whole of 127/8 is this machine, and what goes out from it comes from 127.0.0.1.
#[test]
fn a_server_that_is_seen_at_another_address_than_it_advertises_is_told() {
    let warnings = warnings_of_a_join();
    assert!(matches!(&warnings[..], [one] if is_of_the_address(one)), "{warnings:?}");
}

/// In a network of its own, whose only interface carries small packets.
#[test]
fn a_small_mtu_is_told_with_its_size() {
    let test = "a_small_mtu_is_told_with_its_size";
    if std::env::var_os(INSIDE).is_some() {
        let warnings = warnings_of_a_join();
        let [mtu, address] = &warnings[..] else { panic!("two warnings were due: {warnings:?}") };
        let size = mtu
            .strip_prefix("packets of more than ")
            .and_then(|rest| rest.split_once(" bytes do not reach 127."));
        let (bytes, remedy) = size.unwrap_or_else(|| panic!("{mtu}"));
        // 1280 less the headers of IPv4 and UDP, found to within 32 bytes.
        assert!((1220..=1252).contains(&bytes.parse::<u32>().expect("a number")), "{mtu}");
        assert!(remedy.contains("set the same MTU (1500 or more)"), "{mtu}");
        assert!(is_of_the_address(address), "{address}");
        return;
    }
    let script = "ip link set lo mtu 1280 up && exec \"$0\" \"$@\"";
    let output = Command::new("unshare")
        .args(["--net", "--kill-child", "--fork", "sh", "-c", script])
        .arg(std::env::current_exe().expect("a test knows its binary"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .output()
        .expect("unshare runs");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "it failed in its network:\n{said}");
}
