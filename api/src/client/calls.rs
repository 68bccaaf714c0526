//! One method a route. `vm`, `node`, … are ids or names; `project` says in which project a name is
//! looked up and is needed only where several have it.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use scp_model::{ImageId, RequestId};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{Client, ClientError, Result, send::Call};
use crate::{
    local::{LocalInit, LocalInitialised, LocalJoin, LocalJoined, LocalStatus},
    v1::{
        ConsoleLogQuery, Department, DepartmentCreate, EventList, EventQuery, Explanation, Flavor,
        FlavorCreate, GrantSet, Image, JoinToken, JoinTokenCreate, JoinTokenCreated, Keypair, KeypairCreate,
        List, ListQuery, Node, NodeRemoveQuery, OneQuery, Overcommit, PasswordSet, Project, ProjectCreate,
        ProjectRole, QuotaSet, QuotaUsage, Status, Token, TokenRequest, User, UserCreate, UserUpdate, Vm,
        VmCreate, VmStats, Whoami,
    },
};

/// Founding or joining a city: network checks, keys, the first election.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(120);

/// All pages of a list: `collect(ListQuery::default(), |query| client.list_vms(query)).await`.
pub async fn collect<T, F, Answer>(mut query: ListQuery, mut page: F) -> Result<Vec<T>>
where
    F: FnMut(ListQuery) -> Answer,
    Answer: Future<Output = Result<List<T>>>,
{
    let mut all = Vec::new();
    loop {
        let List { items, next_page_token } = page(query.clone()).await?;
        all.extend(items);
        match next_page_token {
            Some(token) => query.page_token = Some(token),
            None => return Ok(all),
        }
    }
}

fn within(project: Option<&str>) -> OneQuery {
    OneQuery { project: project.map(Into::into), consistency: None }
}

/// The id that was given, or a new one: made once a call, so that retries are the same request.
fn made(id: &Option<String>) -> Option<String> {
    Some(id.clone().unwrap_or_else(|| Uuid::now_v7().to_string()))
}

/// Access.
impl Client {
    /// Logs in. The token goes into [`Client::with_token`].
    pub async fn login(&self, request: &TokenRequest) -> Result<Token> {
        self.create(&["v1", "tokens"], request).await
    }

    pub async fn whoami(&self) -> Result<Whoami> {
        self.get(&["v1", "whoami"]).await
    }

    pub async fn status(&self) -> Result<Status> {
        self.get(&["v1", "status"]).await
    }

    /// Prometheus text.
    pub async fn metrics(&self) -> Result<Bytes> {
        self.bytes(Call::new(Method::GET, &["metrics"])).await
    }

    pub async fn openapi(&self) -> Result<serde_json::Value> {
        self.get(&["v1", "openapi.json"]).await
    }
}

/// What the city promises beyond what it has.
impl Client {
    pub async fn get_overcommit(&self) -> Result<Overcommit> {
        self.get(&["v1", "overcommit"]).await
    }

    /// Sets all three ratios.
    pub async fn set_overcommit(&self, overcommit: &Overcommit) -> Result<Overcommit> {
        self.json(Call::new(Method::PUT, &["v1", "overcommit"]).body(overcommit)).await
    }
}

/// Nodes and join tokens.
impl Client {
    pub async fn list_nodes(&self, query: ListQuery) -> Result<List<Node>> {
        self.list(&["v1", "nodes"], &query).await
    }

    pub async fn get_node(&self, node: &str) -> Result<Node> {
        self.get(&["v1", "nodes", node]).await
    }

    /// No new placements go there.
    pub async fn cordon_node(&self, node: &str) -> Result<Node> {
        self.act(&["v1", "nodes", node, "cordon"], None).await
    }

    /// New placements may go there again; ends a drain.
    pub async fn uncordon_node(&self, node: &str) -> Result<Node> {
        self.act(&["v1", "nodes", node, "uncordon"], None).await
    }

    /// Moves away what is there.
    pub async fn drain_node(&self, node: &str) -> Result<Node> {
        self.act(&["v1", "nodes", node, "drain"], None).await
    }

    pub async fn remove_node(&self, node: &str, force: bool) -> Result<()> {
        let query = NodeRemoveQuery { force, consistency: None };
        self.bytes(Call::new(Method::DELETE, &["v1", "nodes", node]).query(&query)).await.map(drop)
    }

    pub async fn list_join_tokens(&self, query: ListQuery) -> Result<List<JoinToken>> {
        self.list(&["v1", "join-tokens"], &query).await
    }

    /// The token's secret is told once and kept nowhere. When the answer that told it was lost, that
    /// token is revoked and another made in its place.
    pub async fn create_join_token(&self, request: &JoinTokenCreate) -> Result<JoinTokenCreated> {
        let request = JoinTokenCreate { id: made(&request.id), ..request.clone() };
        match self.create(&["v1", "join-tokens"], &request).await {
            Err(ClientError::Problem(problem)) if problem.code == "secret_told" => {}
            other => return other,
        }
        self.revoke_join_token(request.id.as_deref().unwrap_or_default()).await?;
        let request = JoinTokenCreate { id: made(&None), ..request };
        self.create(&["v1", "join-tokens"], &request).await
    }

    pub async fn revoke_join_token(&self, id: &str) -> Result<()> {
        self.delete(&["v1", "join-tokens", id], None).await
    }
}

/// Departments, projects, users.
impl Client {
    pub async fn list_departments(&self, query: ListQuery) -> Result<List<Department>> {
        self.list(&["v1", "departments"], &query).await
    }

    pub async fn get_department(&self, department: &str) -> Result<Department> {
        self.get(&["v1", "departments", department]).await
    }

    pub async fn create_department(&self, request: &DepartmentCreate) -> Result<Department> {
        let request = DepartmentCreate { id: made(&request.id), ..request.clone() };
        self.create(&["v1", "departments"], &request).await
    }

    pub async fn delete_department(&self, department: &str) -> Result<()> {
        self.delete(&["v1", "departments", department], None).await
    }

    pub async fn list_projects(&self, query: ListQuery) -> Result<List<Project>> {
        self.list(&["v1", "projects"], &query).await
    }

    pub async fn get_project(&self, project: &str) -> Result<Project> {
        self.get(&["v1", "projects", project]).await
    }

    pub async fn create_project(&self, request: &ProjectCreate) -> Result<Project> {
        let request = ProjectCreate { id: made(&request.id), ..request.clone() };
        self.create(&["v1", "projects"], &request).await
    }

    pub async fn delete_project(&self, project: &str) -> Result<()> {
        self.delete(&["v1", "projects", project], None).await
    }

    pub async fn get_quota(&self, project: &str) -> Result<QuotaUsage> {
        self.get(&["v1", "projects", project, "quota"]).await
    }

    /// Changes what is given and leaves the rest.
    pub async fn set_quota(&self, project: &str, quota: &QuotaSet) -> Result<QuotaUsage> {
        self.json(Call::new(Method::PUT, &["v1", "projects", project, "quota"]).body(quota)).await
    }

    pub async fn list_users(&self, query: ListQuery) -> Result<List<User>> {
        self.list(&["v1", "users"], &query).await
    }

    pub async fn get_user(&self, user: &str) -> Result<User> {
        self.get(&["v1", "users", user]).await
    }

    pub async fn create_user(&self, request: &UserCreate) -> Result<User> {
        let request = UserCreate { id: made(&request.id), ..request.clone() };
        self.create(&["v1", "users"], &request).await
    }

    pub async fn update_user(&self, user: &str, request: &UserUpdate) -> Result<User> {
        self.json(Call::new(Method::PATCH, &["v1", "users", user]).body(request)).await
    }

    pub async fn delete_user(&self, user: &str) -> Result<()> {
        self.delete(&["v1", "users", user], None).await
    }

    /// Every access token of the user ends with it.
    pub async fn set_password(&self, user: &str, request: &PasswordSet) -> Result<User> {
        self.json(Call::new(Method::PUT, &["v1", "users", user, "password"]).body(request)).await
    }

    pub async fn set_grant(&self, user: &str, project: &str, role: ProjectRole) -> Result<User> {
        let path = ["v1", "users", user, "grants", project];
        self.json(Call::new(Method::PUT, &path).body(&GrantSet { role })).await
    }

    pub async fn remove_grant(&self, user: &str, project: &str) -> Result<User> {
        self.json(Call::new(Method::DELETE, &["v1", "users", user, "grants", project])).await
    }
}

/// Keypairs, flavors, images.
impl Client {
    pub async fn list_keypairs(&self, query: ListQuery) -> Result<List<Keypair>> {
        self.list(&["v1", "keypairs"], &query).await
    }

    pub async fn get_keypair(&self, keypair: &str, project: Option<&str>) -> Result<Keypair> {
        self.get_within(&["v1", "keypairs", keypair], project).await
    }

    pub async fn create_keypair(&self, request: &KeypairCreate) -> Result<Keypair> {
        let request = KeypairCreate { id: made(&request.id), ..request.clone() };
        self.create(&["v1", "keypairs"], &request).await
    }

    pub async fn delete_keypair(&self, keypair: &str, project: Option<&str>) -> Result<()> {
        self.delete(&["v1", "keypairs", keypair], project).await
    }

    pub async fn list_flavors(&self, query: ListQuery) -> Result<List<Flavor>> {
        self.list(&["v1", "flavors"], &query).await
    }

    pub async fn get_flavor(&self, flavor: &str) -> Result<Flavor> {
        self.get(&["v1", "flavors", flavor]).await
    }

    pub async fn create_flavor(&self, request: &FlavorCreate) -> Result<Flavor> {
        let request = FlavorCreate { id: made(&request.id), ..request.clone() };
        self.create(&["v1", "flavors"], &request).await
    }

    pub async fn delete_flavor(&self, flavor: &str) -> Result<()> {
        self.delete(&["v1", "flavors", flavor], None).await
    }

    pub async fn list_images(&self, query: ListQuery) -> Result<List<Image>> {
        self.list(&["v1", "images"], &query).await
    }

    pub async fn get_image(&self, image: &str, project: Option<&str>) -> Result<Image> {
        self.get_within(&["v1", "images", image], project).await
    }

    pub async fn delete_image(&self, image: &str, project: Option<&str>) -> Result<()> {
        self.delete(&["v1", "images", image], project).await
    }
}

/// VMs. For consoles see [`Client::console`], for uploads [`Client::upload_image`].
impl Client {
    pub async fn list_vms(&self, query: ListQuery) -> Result<List<Vm>> {
        self.list(&["v1", "vms"], &query).await
    }

    pub async fn get_vm(&self, vm: &str, project: Option<&str>) -> Result<Vm> {
        self.get_within(&["v1", "vms", vm], project).await
    }

    pub async fn create_vm(&self, request: &VmCreate) -> Result<Vm> {
        let request = VmCreate { id: made(&request.id), ..request.clone() };
        self.create(&["v1", "vms"], &request).await
    }

    pub async fn start_vm(&self, vm: &str, project: Option<&str>) -> Result<Vm> {
        self.act(&["v1", "vms", vm, "start"], project).await
    }

    pub async fn stop_vm(&self, vm: &str, project: Option<&str>) -> Result<Vm> {
        self.act(&["v1", "vms", vm, "stop"], project).await
    }

    pub async fn reboot_vm(&self, vm: &str, project: Option<&str>) -> Result<Vm> {
        self.act(&["v1", "vms", vm, "reboot"], project).await
    }

    /// Begins the deletion; it is done when [`Client::get_vm`] does not find the VM any more.
    pub async fn delete_vm(&self, vm: &str, project: Option<&str>) -> Result<()> {
        self.delete(&["v1", "vms", vm], project).await
    }

    pub async fn explain_vm(&self, vm: &str, project: Option<&str>) -> Result<Explanation> {
        self.get_within(&["v1", "vms", vm, "explain"], project).await
    }

    pub async fn vm_stats(&self, vm: &str, project: Option<&str>) -> Result<VmStats> {
        self.get_within(&["v1", "vms", vm, "stats"], project).await
    }

    /// The end of the console log, as the guest wrote it.
    pub async fn console_log(&self, vm: &str, query: &ConsoleLogQuery) -> Result<Bytes> {
        self.bytes(Call::new(Method::GET, &["v1", "vms", vm, "console-log"]).query(query)).await
    }

    pub async fn list_events(&self, query: &EventQuery) -> Result<EventList> {
        self.json(Call::new(Method::GET, &["v1", "events"]).query(query)).await
    }
}

/// What only the local socket serves.
impl Client {
    pub async fn local_status(&self) -> Result<LocalStatus> {
        self.get(&["local", "status"]).await
    }

    pub async fn local_init(&self, request: &LocalInit) -> Result<LocalInitialised> {
        self.local(&["local", "init"], request).await
    }

    pub async fn local_join(&self, request: &LocalJoin) -> Result<LocalJoined> {
        self.local(&["local", "join"], request).await
    }

    pub async fn local_leave(&self) -> Result<()> {
        self.local::<serde_json::Value>(&["local", "leave"], &serde_json::json!({})).await.map(drop)
    }

    async fn local<T: DeserializeOwned>(&self, path: &[&str], request: &impl Serialize) -> Result<T> {
        let mut call = Call::new(Method::POST, path).body(request);
        call.attempt_timeout = LOCAL_TIMEOUT;
        self.clone().with_deadline(LOCAL_TIMEOUT).json(call).await
    }
}

/// The verbs that the routes have in common.
impl Client {
    async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T> {
        self.json(Call::new(Method::GET, path)).await
    }

    async fn get_within<T: DeserializeOwned>(&self, path: &[&str], project: Option<&str>) -> Result<T> {
        self.json(Call::new(Method::GET, path).query(&within(project))).await
    }

    async fn list<T: DeserializeOwned>(&self, path: &[&str], query: &ListQuery) -> Result<List<T>> {
        self.json(Call::new(Method::GET, path).query(query)).await
    }

    async fn create<T: DeserializeOwned>(&self, path: &[&str], request: &impl Serialize) -> Result<T> {
        self.json(Call::new(Method::POST, path).body(request)).await
    }

    async fn act<T: DeserializeOwned>(&self, path: &[&str], project: Option<&str>) -> Result<T> {
        self.json(Call::new(Method::POST, path).query(&within(project))).await
    }

    async fn delete(&self, path: &[&str], project: Option<&str>) -> Result<()> {
        self.bytes(Call::new(Method::DELETE, path).query(&within(project))).await.map(drop)
    }

    /// An id for something new, to be given in its creation.
    pub fn new_image_id() -> ImageId {
        ImageId(Uuid::now_v7())
    }

    /// An idempotency key, for [`Client::with_request`].
    pub fn new_request_id() -> RequestId {
        RequestId(Uuid::now_v7())
    }
}
