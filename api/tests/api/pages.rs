//! Lists: pages, filters, names that several projects have.

use std::collections::BTreeSet;

use scp_api::v1::{List, Vm};
use scp_model::{Command, ProjectId, command::CreateProject, tenancy::Quota};
use serde_json::json;

use crate::city::{City, DEPARTMENT, name};

#[tokio::test]
async fn pages_give_everything_once_and_in_order() {
    let city = City::new().await;
    city.put("admin", "/v1/projects/default/quota", json!({ "vms": 30 })).await.ok();
    for number in 0..23 {
        city.vm(&format!("vm{number}")).await;
    }
    for filter in ["", "&project=default"] {
        let (mut seen, mut token, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = city.get("reader", &format!("/v1/vms?limit=5{filter}{token}")).await.ok();
            let page: List<Vm> = serde_json::from_value(page).expect("a list of VMs");
            assert!(page.items.len() <= 5);
            seen.extend(page.items.into_iter().map(|vm| vm.id));
            pages += 1;
            match page.next_page_token {
                Some(next) => token = format!("&page_token={next}"),
                None => break,
            }
        }
        assert_eq!((seen.len(), pages), (23, 5), "{filter}");
        assert!(seen.is_sorted());
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 23);
    }
    let exact = city.get("reader", "/v1/vms?limit=23").await.ok();
    assert_eq!(exact["next_page_token"], json!(null), "nothing follows");
}

#[tokio::test]
async fn what_is_deleted_between_two_pages_does_not_break_them() {
    let city = City::new().await;
    for number in 0..4 {
        city.vm(&format!("vm{number}")).await;
    }
    let first = city.get("reader", "/v1/vms?limit=2").await.ok();
    let last = first["items"][1]["id"].as_str().expect("an id");
    city.delete("member", &format!("/v1/vms/{last}")).await.ok();
    let token = first["next_page_token"].as_str().expect("more follow");
    let second = city.get("reader", &format!("/v1/vms?limit=2&page_token={token}")).await.ok();
    assert_eq!(second["items"].as_array().expect("a list").len(), 2);
}

#[tokio::test]
async fn a_page_token_is_this_lists_or_none() {
    let city = City::new().await;
    for token in ["x", "%2e%2e", "AAAA", "bm9uc2Vuc2U"] {
        let reply = city.get("reader", &format!("/v1/vms?page_token={token}")).await;
        assert_eq!(reply.invalid(), ["page_token"], "{token}");
    }
    assert_eq!(city.get("reader", "/v1/vms?phase=flying").await.invalid(), ["phase"]);
    assert_eq!(city.get("reader", "/v1/flavors?phase=up").await.invalid(), ["phase"]);
    assert_eq!(city.get("reader", "/v1/flavors?project=default").await.invalid(), ["project"]);
    assert_eq!(city.get("reader", "/v1/vms?name=a%2Fb&limit=0").await.invalid(), ["limit", "name"]);
}

#[tokio::test]
async fn a_name_that_two_projects_have_asks_which() {
    let city = City::new().await;
    city.image("debian").await;
    for project in ["default", "other"] {
        let target = format!("/v1/images/{}?name=same&project={project}", uuid::Uuid::new_v4());
        let upload = city.by("admin", axum::http::Method::PUT, &target).header("content-length", "9");
        upload.body("a/b", "some disk").send().await.ok();
    }
    let problem = city.get("admin", "/v1/images/same").await.problem("ambiguous");
    assert!(problem["remedy"].as_str().expect("a remedy").contains("project"));
    let one = city.get("admin", "/v1/images/same?project=default%2Fother").await.ok();
    assert_eq!(one["project"]["name"], "other");
    assert_eq!(
        city.get("reader", "/v1/images/same").await.ok()["project"]["name"],
        "default",
        "sees one only"
    );
    let body = json!({ "name": "web", "flavor": "small", "image": "same" });
    assert_eq!(city.post("admin", "/v1/vms", body).await.invalid(), ["project"], "an admin has several");
    let department = city.post("admin", "/v1/departments", json!({ "name": "culture" })).await.ok();
    let department = department["id"].as_str().expect("an id").parse().expect("an id");
    let twin = CreateProject {
        id: ProjectId::from_u128(77),
        department,
        name: name("other"),
        quota: Quota::default(),
    };
    city.cluster.must(Command::CreateProject(twin));
    city.get("admin", "/v1/projects/other").await.problem("ambiguous");
    assert_eq!(city.get("admin", "/v1/projects/culture%2Fother").await.ok()["department"]["name"], "culture");
    assert_ne!(department, DEPARTMENT);
}

#[tokio::test]
async fn an_id_goes_before_a_name() {
    let city = City::new().await;
    let vm = city.vm("web").await;
    assert_eq!(city.get("reader", &format!("/v1/vms/{}", vm.to_uppercase())).await.ok()["id"], json!(vm));
}
