//! The real client and the real listeners, over loopback TLS and a unix socket.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use scp_api::{
    client::{Client, ClientError, Upload, Watched, collect},
    cluster::Cluster,
    server::{Options, listen},
    v1::{
        ConsoleLogQuery, DepartmentCreate, EventQuery, FlavorCreate, ImageUpload, JoinTokenCreate, ListQuery,
        PasswordSet, ProjectCreate, ProjectRole, QuotaSet, Resources, TokenRequest, UserCreate, UserUpdate,
        VmCreate,
    },
};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::oneshot,
};

use crate::city::{CHEAP, City, Fault, PASSWORD};

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("a certificate") }
    }

    fn server(&self) -> Arc<rustls::ServerConfig> {
        let mut params = CertificateParams::new(["some-node.scp".to_owned()]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("they belong together");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// A listening city; it stops when this is dropped.
struct Served {
    city: City,
    authority: Authority,
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Served {
    async fn new() -> Self {
        let city = City::new().await;
        let authority = Authority::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = listen::serve_tls(listener, authority.server(), city.router.clone(), async {
            drop(stopped.await)
        });
        tokio::spawn(serving);
        Self { city, authority, address, _stop: stop }
    }

    fn client(&self, user: &str) -> Client {
        self.client_at([self.address]).with_token(self.city.token(user))
    }

    fn client_at(&self, addresses: impl IntoIterator<Item = SocketAddr>) -> Client {
        let addresses = addresses.into_iter().map(|address| address.to_string());
        Client::https(addresses, &self.authority.issuer.pem()).expect("the authority is a certificate")
    }
}

/// A port that nobody listens on.
async fn dead_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address")
}

fn upload(name: &str, file: &std::path::Path) -> Upload {
    let about = ImageUpload { name: name.into(), project: Some("default".into()), ..ImageUpload::default() };
    Upload { id: Client::new_image_id(), about, file: file.to_owned() }
}

#[tokio::test]
async fn the_whole_road_through_the_client() {
    let served = Served::new().await;
    let login = TokenRequest { user: "admin".into(), password: PASSWORD.into(), lifetime_s: Some(600) };
    let token = served.client_at([served.address]).login(&login).await.expect("the password is right");
    let admin = served.client_at([served.address]).with_token(&token.token);
    assert_eq!(admin.whoami().await.expect("it is me").name, "admin");
    assert_eq!(admin.status().await.expect("a status").city, "porto");
    assert_eq!(admin.openapi().await.expect("a document")["info"]["title"], "Storm Cloud Platform");
    assert!(admin.metrics().await.expect("metrics").ends_with(b"# EOF\n"));

    admin
        .create_department(&DepartmentCreate { id: None, name: "culture".into() })
        .await
        .expect("a department");
    let project =
        ProjectCreate { id: None, name: "museum".into(), department: Some("culture".into()), quota: None };
    let project = admin.create_project(&project).await.expect("a project");
    let quota = admin.set_quota("culture/museum", &QuotaSet { vms: Some(2), ..QuotaSet::default() }).await;
    assert_eq!(quota.expect("a quota").quota.vms, 2);
    let user = UserCreate {
        id: None,
        name: "ana".into(),
        password: PASSWORD.into(),
        city_roles: vec![],
        grants: vec![],
    };
    admin.create_user(&user).await.expect("a user");
    admin.set_grant("ana", &project.id, ProjectRole::Member).await.expect("a grant");
    admin.remove_grant("ana", "culture/museum").await.expect("none");
    admin
        .update_user("ana", &UserUpdate { enabled: Some(false), ..UserUpdate::default() })
        .await
        .expect("disabled");
    let password = PasswordSet { password: "another long sentence".into(), current_password: None };
    admin.set_password("ana", &password).await.expect("a password");
    admin.delete_user("ana").await.expect("gone");
    admin.delete_project("museum").await.expect("gone");
    admin.delete_department("culture").await.expect("gone");

    let resources = Resources { vcpus: 1, memory_mib: 64, disk_mib: 64 };
    admin.create_flavor(&FlavorCreate { id: None, name: "tiny".into(), resources }).await.expect("a flavor");
    assert_eq!(
        collect(ListQuery { limit: Some(1), ..ListQuery::default() }, |query| admin.list_flavors(query))
            .await
            .expect("all")
            .len(),
        2
    );
    admin.cordon_node("n1").await.expect("cordoned");
    admin.uncordon_node("n1").await.expect("back");
    let token = admin.create_join_token(&JoinTokenCreate::default()).await.expect("a join token");
    admin.revoke_join_token(&token.id).await.expect("revoked");
}

#[tokio::test]
async fn a_vm_through_the_client_from_its_image_to_its_console() {
    let served = Served::new().await;
    let member = served.client("member");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("disk.raw");
    std::fs::write(&file, vec![7u8; 700_000]).expect("a file");
    let (report, reports) = std::sync::mpsc::channel();
    let progress = move |sent, total| report.send((sent, total)).expect("somebody listens");
    let image = member.upload_image(&upload("debian", &file), progress).await.expect("an image");
    assert_eq!(image.size_bytes, 700_000);
    let reports: Vec<(u64, u64)> = reports.iter().collect();
    assert!(
        reports.len() >= 3 && reports.is_sorted() && reports.last() == Some(&(700_000, 700_000)),
        "{reports:?}"
    );

    let vm = VmCreate {
        name: "web".into(),
        flavor: "small".into(),
        image: "debian".into(),
        ..VmCreate::default()
    };
    let vm = member.create_vm(&vm).await.expect("a VM");
    served.city.place(&vm.id);
    assert_eq!(
        member.get_vm("web", Some("default")).await.expect("it is there").node.expect("placed").name,
        "n1"
    );
    assert_eq!(member.vm_stats("web", None).await.expect("stats").cpu_time_ms, 12);
    assert_eq!(
        &member.console_log("web", &ConsoleLogQuery::default()).await.expect("a log")[..],
        b"<html>65536"
    );

    let mut console = member.console("web", None).await.expect("a console");
    assert_eq!(console.output.receive().await.expect("open").as_deref(), Some(&b"login: "[..]));
    console.input.send("root\n".as_bytes()).await.expect("open");
    assert_eq!(console.output.receive().await.expect("open").as_deref(), Some(&b"ROOT\n"[..]));
    console.input.send("exit\n".as_bytes()).await.expect("open");
    assert_eq!(console.output.receive().await.expect("closed in order"), None);
    let Err(ClientError::Problem(problem)) = served.client("reader").console("web", None).await else {
        panic!("a reader has no console");
    };
    assert_eq!(problem.code, "forbidden");
    member.delete_vm("web", None).await.expect("deleting");
}

#[tokio::test]
async fn a_watch_that_comes_too_late_pages_and_metrics_over_the_wire() {
    let served = Served::new().await;
    let reader = served.client("reader");
    // Nothing of this city's is that young: the sequence is another's.
    let mut watch = reader.watch(EventQuery { after: Some(999_999), ..EventQuery::default() });
    let Ok(Watched::Resync(resync)) = watch.next().await else { panic!("it is told to look again") };
    assert_eq!(resync.asked, 999_999);
    let vm = served.city.vm("web").await;
    let Ok(Watched::Event(event)) = watch.next().await else { panic!("it goes on by itself") };
    assert_eq!(event.subject.kind, "image", "what the VM starts from comes first: {vm}");
    served.city.vm("more").await;
    let one = ListQuery { limit: Some(1), ..ListQuery::default() };
    let first = reader.list_vms(one.clone()).await.expect("a page");
    let next = ListQuery { page_token: first.next_page_token.clone(), ..one.clone() };
    let second = reader.list_vms(next).await.expect("the next page");
    assert!(second.next_page_token.is_none() && second.items[0].id > first.items[0].id);
    let odd = ListQuery { page_token: Some("bm9uc2Vuc2U".into()), ..one };
    let error = reader.list_vms(odd).await.expect_err("no such page");
    let invalid = &error.problem().expect("the node says why").invalid;
    assert_eq!(invalid.iter().map(|it| &*it.field).collect::<Vec<_>>(), ["page_token"]);
    let nobody = served.client_at([served.address]).metrics().await.expect_err("no token");
    assert_eq!(nobody.code(), "unauthenticated");
    assert_eq!(reader.metrics().await.expect_err("not for readers").code(), "forbidden");
    assert!(served.client("operator").metrics().await.is_ok());
}

#[tokio::test]
async fn an_image_that_lies_is_told_through_the_client() {
    let served = Served::new().await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("disk.qcow2");
    std::fs::write(&file, b"lies, all lies").expect("a file");
    let error =
        served.client("member").upload_image(&upload("bad", &file), |_, _| {}).await.expect_err("it lies");
    assert_eq!(error.problem().and_then(|problem| problem.reason.as_deref()), Some("backing_file"));
    let missing = upload("none", &directory.path().join("none"));
    assert_eq!(
        served.client("member").upload_image(&missing, |_, _| {}).await.expect_err("no file").code(),
        "file_error"
    );
}

#[tokio::test]
async fn a_large_upload_that_is_refused_at_once_tells_why() {
    let served = Served::new().await;
    served.city.image("debian").await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("disk.raw");
    std::fs::File::create(&file).and_then(|file| file.set_len(32 << 20)).expect("a file");
    let error = served.client("member").upload_image(&upload("debian", &file), |_, _| {}).await;
    assert_eq!(error.expect_err("the name is taken").code(), "name_taken");
    let error = served.client("reader").upload_image(&upload("other", &file), |_, _| {}).await;
    assert_eq!(error.expect_err("a reader uploads nothing").code(), "forbidden");
    assert_eq!(served.city.cluster.images.lock().expect("no panic").len(), 1);
}

#[tokio::test]
async fn a_dead_node_is_passed_over_and_a_lost_answer_repeated_once() {
    let served = Served::new().await;
    let dead = dead_address().await;
    let client = served.client_at([dead, served.address]).with_token(served.city.token("admin"));
    client.whoami().await.expect("the second answers");
    served.city.cluster.fail_next(Fault::AnswerLost);
    let made = client.create_department(&DepartmentCreate { id: None, name: "culture".into() }).await;
    made.expect("it was made at the first try and told at the second");
    assert_eq!(served.city.cluster.snapshot().departments.len(), 2);
    served.city.cluster.fail_next(Fault::AnswerLost);
    client.delete_department("culture").await.expect("deleted at the first try, told at the second");
    served.city.cluster.fail_next(Fault::AnswerLost);
    let token =
        client.create_join_token(&JoinTokenCreate::default()).await.expect("a second one, in its place");
    let tokens = served.city.cluster.snapshot().join_tokens;
    assert_eq!(tokens.keys().map(ToString::to_string).collect::<Vec<_>>(), [token.id]);
}

#[tokio::test]
async fn nobody_there_is_an_error_that_says_who_was_tried() {
    let served = Served::new().await;
    let dead = dead_address().await;
    let client = served.client_at([dead]).with_deadline(Duration::from_millis(200));
    let error = client.status().await.expect_err("nobody listens");
    assert!(
        matches!(&error, ClientError::Unreachable { .. }) && error.to_string().contains(&dead.to_string()),
        "{error}"
    );
    served.city.cluster.set_quorum(false);
    let error =
        served.client("admin").with_deadline(Duration::from_millis(200)).list_vms(ListQuery::default()).await;
    assert_eq!(error.expect_err("no quorum").code(), "no_quorum");
    for part in ["", ".", ".."] {
        assert_eq!(
            served.client("admin").delete_vm(part, None).await.expect_err("no name").code(),
            "bad_configuration"
        );
    }
}

#[tokio::test]
async fn only_the_citys_own_authority_is_trusted() {
    let served = Served::new().await;
    let stranger = Authority::new();
    let client = Client::https([served.address.to_string()], &stranger.issuer.pem()).expect("a certificate");
    let error = client.with_deadline(Duration::from_millis(500)).status().await.expect_err("another city");
    assert!(matches!(&error, ClientError::Unreachable { .. }), "{error}");
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
    assert_eq!(
        Client::https(["x:1"], "no certificate").err().map(|error| error.code().to_owned()).as_deref(),
        Some("bad_configuration")
    );
    assert!(Client::https(Vec::<String>::new(), &stranger.issuer.pem()).is_err());
}

/// A node in a runtime of its own: it vanishes, with its connections, when it is killed.
struct Node {
    address: SocketAddr,
    runtime: tokio::runtime::Runtime,
}

impl Node {
    fn start(city: &City, authority: &Authority) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("it can");
        let address = listener.local_addr().expect("an address");
        let (router, tls) = (city.router.clone(), authority.server());
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("it is a listener");
            listen::serve_tls(listener, tls, router, std::future::pending()).await;
        });
        Self { address, runtime }
    }

    fn kill(self) {
        self.runtime.shutdown_background();
    }
}

/// A client of these nodes, the first of which is asked first.
fn client_of(nodes: [&Node; 2], city: &City, (authority, user): (&Authority, &str)) -> Client {
    let addresses = nodes.map(|node| node.address.to_string());
    Client::https(addresses, &authority.issuer.pem()).expect("a certificate").with_token(city.token(user))
}

#[tokio::test]
async fn a_watch_goes_on_when_its_node_stops() {
    let (city, authority) = (City::new().await, Authority::new());
    let (first, second) = (Node::start(&city, &authority), Node::start(&city, &authority));
    let client = client_of([&first, &second], &city, (&authority, "member"));
    let vm = city.vm("web").await;
    let mut watch = client.watch(EventQuery { subject_kind: Some("vm".into()), ..EventQuery::default() });
    assert!(matches!(watch.next().await, Ok(Watched::Ready(_))));
    first.kill();
    // Happens while nobody watches; the second node tells it.
    city.by("member", axum::http::Method::POST, &format!("/v1/vms/{vm}/stop")).send().await.ok();
    let event = loop {
        match watch.next().await.expect("it goes on") {
            Watched::Event(event) => break event,
            Watched::Ready(_) => {}
            Watched::Resync(resync) => panic!("nothing was missed: {resync:?}"),
        }
    };
    assert_eq!(event.kind, "vm_power_set");
    second.kill();
}

#[tokio::test]
async fn a_node_that_dies_between_the_write_and_its_answer_doubles_nothing() {
    let (city, authority) = (City::new().await, Authority::new());
    let (first, second) = (Node::start(&city, &authority), Node::start(&city, &authority));
    let client = client_of([&first, &second], &city, (&authority, "member"));
    city.image("debian").await;
    let vm = VmCreate {
        name: "web".into(),
        flavor: "small".into(),
        image: "debian".into(),
        ..VmCreate::default()
    };
    let before = city.cluster.proposals.load(std::sync::atomic::Ordering::Relaxed);
    city.cluster.fail_next(Fault::AppliedAndHang);
    let creating = tokio::spawn(async move { client.create_vm(&vm).await });
    let mut applied = Cluster::applied(&*city.cluster);
    while city.cluster.snapshot().vms.is_empty() {
        applied.changed().await.expect("the city goes on");
    }
    first.kill();
    let made = creating.await.expect("no panic").expect("the second node tells what the first did");
    let vms = city.cluster.snapshot().vms;
    assert_eq!(vms.keys().map(ToString::to_string).collect::<Vec<_>>(), [made.id]);
    assert_eq!(city.cluster.proposals.load(std::sync::atomic::Ordering::Relaxed), before + 2);
    second.kill();
}

#[tokio::test]
async fn root_on_the_server_needs_no_token() {
    let city = City::with(Options { password_cost: CHEAP, ..Options::default() }).await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("scpd.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let (stop, stopped) = oneshot::channel::<()>();
    let serving =
        tokio::spawn(listen::serve_unix(listener, city.api.router_local(), async { drop(stopped.await) }));
    let client = Client::unix(&path).expect("a client");
    assert_eq!(client.whoami().await.expect("root").name, "root on this server");
    city.vm("web").await;
    assert_eq!(client.list_vms(ListQuery::default()).await.expect("all").items.len(), 1);
    client.stop_vm("web", None).await.expect("stopped");
    let file = directory.path().join("disk.raw");
    std::fs::File::create(&file).and_then(|file| file.set_len(32 << 20)).expect("a file");
    client.upload_image(&upload("alpine", &file), |_, _| {}).await.expect("an image");
    let taken = client.upload_image(&upload("debian", &file), |_, _| {}).await;
    assert_eq!(taken.expect_err("refused while the bytes still come").code(), "name_taken");
    let mut console = client.console("web", None).await.expect("a console");
    assert!(console.output.receive().await.expect("open").is_some());
    console.input.close().await.expect("closed");
    drop((console, client));
    stop.send(()).expect("it listens");
    tokio::time::timeout(Duration::from_secs(20), serving).await.expect("it stops").expect("in order");
}
