//! The node's side of one stream.

use std::sync::Arc;

use scp_model::{
    Command, KeypairId, ProjectId, Proposal, RequestId,
    command::{CreateKeypair, DeleteKeypair},
};
use scp_state::State;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{
    ASKS_MAX, Answers, Ask, BATCHES_MAX, Batch, Failure, Hello, KeptKeypair, NewKeypair, Purpose, Said,
    frame, read_frame, watch, write_frame,
};
use crate::{
    cluster::{Cluster, Consistency, Snapshot},
    server::{
        Action, Code, Identity, Scope, authorize, public_key,
        token::{self, Unverified},
    },
    v1::Problem,
};

/// A node that knew itself up to date within this permits writes by what it knows: three of the rounds in
/// which it finds out.
pub const FRESH_MS_MAX: u64 = 3_000;
/// Who connects has this long to say who they are.
const HELLO_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Serves streams of users' programs.
pub struct Native {
    cluster: Arc<dyn Cluster>,
    /// For subscriptions.
    places: Arc<Semaphore>,
}

type Outcome = Result<Said, Failure>;

impl Native {
    pub fn new(cluster: Arc<dyn Cluster>) -> Self {
        Self { cluster, places: Arc::new(Semaphore::new(watch::NODE_SUBSCRIPTIONS_MAX)) }
    }

    /// Serves one stream until it ends.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Send + 'static) {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let hello = timeout(HELLO_TIMEOUT, read_frame(&mut reader)).await;
        let Ok(Ok(Some(Hello { token, purpose }))) = hello else { return };
        let token = match self.admit(&token).await {
            Ok(token) => token,
            Err(problem) => {
                let refused: Result<(), Failure> = Err(problem.into());
                let _ = write_frame(&mut writer, &refused).await;
                let _ = writer.shutdown().await;
                return;
            }
        };
        if write_frame(&mut writer, &Ok::<(), Failure>(())).await.is_err() {
            return;
        }
        let cluster = self.cluster.clone();
        match purpose {
            Purpose::Ask => serve_asks(Session { cluster, token }, reader, writer).await,
            Purpose::Watch => {
                let places = self.places.clone();
                watch::tell(watch::Watching { cluster, token, places }, reader, writer).await;
            }
        }
    }

    async fn admit(&self, text: &str) -> Result<Unverified, Problem> {
        let token = token::parse(text)?;
        let Snapshot { state, .. } = self.cluster.read(Consistency::Linearizable).await?;
        token.verify(&state, self.cluster.now())?;
        Ok(token)
    }
}

async fn serve_asks(session: Session, reader: impl AsyncRead + Unpin, writer: impl AsyncWrite + Unpin) {
    let (answers, answered) = mpsc::channel(BATCHES_MAX);
    let session = Arc::new(session);
    // One that ends takes the other with it, and with both the batches that are under way.
    tokio::select! {
        () = ask(session, reader, answers) => {}
        () = answer(writer, answered) => {}
    }
}

async fn ask(session: Arc<Session>, mut reader: impl AsyncRead + Unpin, answers: mpsc::Sender<Answers>) {
    let places = Arc::new(Semaphore::new(BATCHES_MAX));
    let mut batches = tokio::task::JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await.expect("this semaphore is never closed");
        while batches.try_join_next().is_some() {}
        let Ok(Some(Batch { number, asks })) = read_frame(&mut reader).await else { break };
        if asks.len() > ASKS_MAX {
            break;
        }
        let (session, answers) = (session.clone(), answers.clone());
        batches.spawn(async move {
            let outcomes = session.carry_out(asks).await;
            let answered = Answers { number, answers: outcomes, leader: session.cluster.leader() };
            // An error means that the program is gone.
            let _ = answers.send(answered).await;
            drop(place);
        });
    }
    // The program says no more; it may still wait for what it asked.
    while batches.join_next().await.is_some() {}
}

async fn answer(mut writer: impl AsyncWrite + Unpin, mut answered: mpsc::Receiver<Answers>) {
    while let Some(answers) = answered.recv().await {
        let Ok(bytes) = frame(&answers) else { break };
        if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
}

struct Session {
    cluster: Arc<dyn Cluster>,
    token: Unverified,
}

/// What a batch is permitted by.
struct View {
    state: Arc<State>,
    identity: Identity,
    linearizable: bool,
}

/// An ask that is decided, or how it goes on.
enum Next {
    Done(Outcome),
    Propose(Proposal),
}

impl Session {
    /// One answer for each, in order.
    async fn carry_out(&self, asks: Vec<Ask>) -> Vec<Outcome> {
        let count = asks.len();
        let reads = asks.iter().any(|ask| matches!(ask, Ask::ShowKeypair { .. }));
        match self.view(reads).await {
            Ok(view) => self.with_view(&view, asks).await,
            Err(problem) => vec![Err(problem.into()); count],
        }
    }

    async fn with_view(&self, view: &View, asks: Vec<Ask>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(asks.len());
        let mut proposals = Vec::new();
        let mut places = Vec::new();
        let mut denied = None;
        for ask in asks {
            let mut next = self.next(view, &ask);
            if !view.linearizable && matches!(next, Next::Done(Err(_))) {
                // What this node knows may be behind what another has answered already.
                if denied.is_none() {
                    denied = Some(self.view(true).await);
                }
                if let Some(Ok(view)) = &denied {
                    next = self.next(view, &ask);
                }
            }
            match next {
                Next::Done(outcome) => outcomes.push(outcome),
                Next::Propose(proposal) => {
                    places.push(outcomes.len());
                    proposals.push(proposal);
                    outcomes.push(Ok(Said::Written { index: 0 }));
                }
            }
        }
        if !proposals.is_empty() {
            let answers = self.cluster.propose_many(proposals).await;
            for (place, answer) in places.into_iter().zip(answers) {
                outcomes[place] = written(answer);
            }
        }
        outcomes
    }

    /// The state to look at, and who asks as of it.
    async fn view(&self, linearizable: bool) -> Result<View, Problem> {
        let mut linearizable = linearizable;
        let consistency = if linearizable { Consistency::Linearizable } else { Consistency::Stale };
        let mut snapshot = self.cluster.read(consistency).await?;
        if snapshot.age_ms > FRESH_MS_MAX {
            snapshot = self.cluster.read(Consistency::Linearizable).await?;
            linearizable = true;
        }
        let state = snapshot.state;
        let user = self.token.check(&state, self.cluster.now())?;
        let identity =
            Identity::User { id: user.id, city_roles: user.city_roles.clone(), grants: user.grants.clone() };
        Ok(View { state, identity, linearizable })
    }

    fn next(&self, view: &View, ask: &Ask) -> Next {
        let proposal = match ask {
            Ask::ShowKeypair { id } => return Next::Done(show(view, *id)),
            Ask::CreateKeypair { request, keypair } => {
                create(view, keypair).map(|command| (*request, Command::CreateKeypair(command)))
            }
            Ask::DeleteKeypair { request, id } => delete(view, *request, *id),
        };
        match proposal {
            Ok((request, command)) => Next::Propose(Proposal {
                request: scoped(request, &view.identity),
                actor: view.identity.actor(),
                time: self.cluster.now(),
                command,
            }),
            Err(problem) => Next::Done(Err(problem.into())),
        }
    }
}

fn written(answer: Result<scp_model::Answer, crate::cluster::ClusterError>) -> Outcome {
    let answer = answer.map_err(Problem::from)?;
    answer.result.map_err(Problem::from)?;
    Ok(Said::Written { index: answer.index })
}

/// A request id counts for its user only: nobody is answered by another's request.
fn scoped(request: RequestId, identity: &Identity) -> RequestId {
    let user = identity.user().map(|user| user.0).unwrap_or_default();
    RequestId(crate::server::derived(request.0, &[b"native request", user.as_bytes()]))
}

fn may(view: &View, action: Action, project: ProjectId) -> Result<(), Problem> {
    authorize(&view.identity, action, Scope::Project(project)).map_err(|denial| {
        Problem::new(Code::Forbidden, format!("you may not do this: {denial}"))
            .remedy(format!("Ask an administrator for {}.", denial.needs))
    })
}

fn not_found(id: KeypairId) -> Problem {
    Problem::not_found("keypair", &id.to_string())
}

fn show(view: &View, id: KeypairId) -> Outcome {
    let found = view.state.keypairs.get(&id);
    // What somebody may not see does not exist for them.
    let keypair = found.filter(|it| may(view, Action::KeypairRead, it.project).is_ok());
    let keypair = keypair.ok_or_else(|| not_found(id))?;
    Ok(Said::Keypair(Box::new(KeptKeypair {
        id,
        project: keypair.project,
        name: keypair.name.clone(),
        public_key: keypair.public_key.to_string(),
        fingerprint: keypair.fingerprint.to_string(),
        created_at: keypair.created_at,
    })))
}

fn create(view: &View, keypair: &NewKeypair) -> Result<CreateKeypair, Problem> {
    let NewKeypair { id, project, name, public_key: line } = keypair;
    may(view, Action::KeypairManage, *project)?;
    let (public_key, fingerprint) =
        public_key(line).map_err(|why| Problem::invalid_field("public_key", why))?;
    Ok(CreateKeypair { id: *id, project: *project, name: name.clone(), public_key, fingerprint })
}

fn delete(view: &View, request: RequestId, id: KeypairId) -> Result<(RequestId, Command), Problem> {
    let command = Command::DeleteKeypair(DeleteKeypair { id });
    let found = view.state.keypairs.get(&id);
    let Some(keypair) = found.filter(|it| may(view, Action::KeypairRead, it.project).is_ok()) else {
        // A repeated deletion finds nothing to delete: the state has its answer, or says that it is gone.
        let carried_out = view.state.requests.answers.contains_key(&scoped(request, &view.identity));
        return if carried_out { Ok((request, command)) } else { Err(not_found(id)) };
    };
    may(view, Action::KeypairManage, keypair.project)?;
    Ok((request, command))
}
