//! What every command is given: the options, a place for output, and the way to a node.
//!
//! Which way, first match wins:
//! 1. `--socket PATH`: the server's own `scpd`, as the city's administrator;
//! 2. `--node ADDRESS`: that node, with the context's token and authority;
//! 3. the context's socket, where it has one (root on a server, after `init` or `join`);
//! 4. the context's nodes, with its token;
//! 5. no context, and the standard socket is there: as 1.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use scp_api::{
    client::{Client, ClientError, collect},
    local::SOCKET_PATH,
    v1::{self, Consistency},
};
use tokio::sync::OnceCell;

use crate::{
    args::Global,
    contexts::{self, Context, Store},
    error::{CliError, Exit, Result},
    local::Local,
    output::Out,
};

/// Port of a node's HTTPS when `--node` does not say.
pub const API_PORT: u16 = 8443;
/// Port of a node's mesh when `join` is given none.
pub const MESH_PORT: u16 = 7600;
/// A call is repeated at other nodes for this long: longer than any election, short enough for a person.
const DEADLINE: Duration = Duration::from_secs(10);

/// The way to a node.
enum Door {
    Socket(PathBuf),
    Https(Client),
}

pub struct App {
    pub global: Global,
    pub out: Out,
    client: OnceCell<Client>,
}

impl App {
    pub fn new(global: Global) -> Self {
        let out = Out { format: global.output, quiet: global.quiet, verbose: global.verbose };
        Self { global, out, client: OnceCell::new() }
    }

    pub fn store(&self) -> Result<Store> {
        Store::open(contexts::path()?)
    }

    /// The client, made at first use.
    pub async fn client(&self) -> Result<&Client> {
        self.client.get_or_try_init(|| self.connect()).await
    }

    /// The project to work in: the option's, else the context's.
    pub fn project(&self) -> Option<String> {
        if self.global.project.is_some() {
            return self.global.project.clone();
        }
        let store = self.store().ok()?;
        let (_, context) = store.find(self.global.context.as_deref()).ok()??;
        context.project.clone()
    }

    /// The project to look a name up in; an id needs none, and is found in every project.
    pub fn within(&self, name: &str) -> Option<String> {
        if uuid::Uuid::try_parse(name).is_ok() { None } else { self.project() }
    }

    /// A list of one project's things, or of all that may be seen.
    pub fn list_query(&self, all_projects: bool) -> v1::ListQuery {
        let project = if all_projects { None } else { self.project() };
        v1::ListQuery { project, ..v1::ListQuery::default() }
    }

    /// The socket of this server's `scpd`: the option's, else that of the context `init` or `join` made.
    pub fn socket(&self) -> PathBuf {
        let of_context = || {
            let store = self.store().ok()?;
            let (_, context) = store.find(self.global.context.as_deref()).ok()??;
            context.socket.clone()
        };
        self.global.socket.clone().or_else(of_context).unwrap_or_else(|| SOCKET_PATH.into())
    }

    pub fn local(&self) -> Result<Local> {
        Local::new(&self.socket())
    }

    async fn connect(&self) -> Result<Client> {
        let client = match self.door()? {
            Door::Socket(path) => self.over(&path).await?,
            Door::Https(client) => client,
        };
        let client = client.with_deadline(self.deadline());
        let consistency = if self.global.stale { Consistency::Stale } else { Consistency::Linearizable };
        Ok(client.with_consistency(consistency))
    }

    /// How long a call may take; whoever waits for less than that in all does not wait for it either.
    pub fn deadline(&self) -> Duration {
        DEADLINE.min(Duration::from_secs(self.global.timeout))
    }

    /// Says how old a stale answer is, once the command has given it.
    pub fn tell_age(&self) {
        if let Some(client) = self.client.get()
            && self.global.stale
        {
            let age = crate::output::duration_ms(client.last_age_ms());
            self.out.talk(format!("This is what one node knew {age} ago."));
        }
    }

    fn door(&self) -> Result<Door> {
        if let Some(socket) = &self.global.socket {
            return Ok(Door::Socket(socket.clone()));
        }
        let store = self.store()?;
        let context = store.find(self.global.context.as_deref())?;
        match (&self.global.node, context) {
            (Some(node), context) => self.https(&[address(node)], context, &store).map(Door::Https),
            (None, Some((_, Context { socket: Some(socket), .. }))) => Ok(Door::Socket(socket.clone())),
            (None, Some((name, it))) => self.https(&it.nodes, Some((name, it)), &store).map(Door::Https),
            (None, None) if Path::new(SOCKET_PATH).exists() => Ok(Door::Socket(SOCKET_PATH.into())),
            (None, None) => Err(CliError::new(Exit::Usage, "no_context", "scpctl knows no city yet")
                .because(format!("there is no context in {}", store.path.display()))
                .remedy(
                    "log in: scpctl login --node ADDRESS --ca FILE; on a new server begin one: scpctl init",
                )),
        }
    }

    async fn over(&self, socket: &Path) -> Result<Client> {
        self.out.detail(format!("asking scpd on {}", socket.display()));
        // At once, and with its own remedy, rather than after every repetition that a network deserves.
        Local::new(socket)?.knock().await?;
        Ok(Client::unix(socket)?)
    }

    fn https(&self, nodes: &[String], context: Option<(&str, &Context)>, store: &Store) -> Result<Client> {
        let ca = context.and_then(|(_, it)| it.ca.as_deref()).ok_or_else(|| {
            CliError::new(Exit::Usage, "no_authority", "the city's certificate authority is not known here")
                .because(format!("no context in {} has it, so no node can be trusted", store.path.display()))
                .remedy("on a server of the city: scpctl context show --ca > city.pem; then here: scpctl login --node ADDRESS --ca city.pem")
        })?;
        self.out.detail(format!("asking {}", nodes.join(", ")));
        let client = Client::https(nodes.iter().cloned(), ca)?;
        let Some((name, context)) = context else { return Ok(client) };
        match &context.token {
            Some(token) => {
                self.check_expiry(name, context)?;
                Ok(client.with_token(token))
            }
            None => {
                Err(CliError::new(Exit::Denied, "not_logged_in", format!("you are not logged in to {name}"))
                    .remedy(format!("scpctl login --context {name}")))
            }
        }
    }

    /// An expired token is told before it is sent.
    fn check_expiry(&self, name: &str, context: &Context) -> Result<()> {
        let Some(text) = &context.token_expires_at else { return Ok(()) };
        let Ok(expires) = text.parse::<v1::Time>() else { return Ok(()) };
        if expires.0.0 > now_ms() {
            return Ok(());
        }
        let user = context.user.as_deref().unwrap_or("your user");
        Err(CliError::new(
            Exit::Denied,
            "token_expired",
            format!("the token of {user} in {name} has expired"),
        )
        .because(format!("it was good until {text}"))
        .remedy(format!("scpctl login --context {name}")))
    }

    /// A moving sign that something is under way; a plain line where nobody watches.
    pub fn spinner(&self, text: impl Into<String>) -> indicatif::ProgressBar {
        let text = text.into();
        if !self.out.animated() {
            self.out.talk(format!("{text} …"));
            return indicatif::ProgressBar::hidden();
        }
        let spinner = indicatif::ProgressBar::new_spinner().with_message(text);
        spinner.enable_steady_tick(Duration::from_millis(100));
        spinner
    }

    /// All pages of a list, by name: what people look for.
    pub async fn all<T, Answer>(
        &self,
        query: v1::ListQuery,
        page: impl FnMut(v1::ListQuery) -> Answer,
        name: impl Fn(&T) -> &str,
    ) -> Result<Vec<T>>
    where
        Answer: Future<Output = std::result::Result<v1::List<T>, ClientError>>,
    {
        let mut items = collect(query, page).await?;
        items.sort_by(|a, b| name(a).cmp(name(b)));
        Ok(items)
    }

    /// This server's context, written by `init` and `join`, becomes the current one. What was done stays
    /// done when it cannot be written: that is a warning.
    pub fn remember(&self, city: &str, context: Context) {
        let name = self.global.context.as_deref().unwrap_or(city);
        let socket = self.socket();
        match self.store().and_then(|mut store| store.put(name, context)) {
            Ok(()) => self.out.detail(format!("the context {name} is the current one")),
            Err(error) => self.out.talk(format!(
                "warning: no context could be written: {}. Until it is: scpctl --socket {}",
                error.what,
                socket.display()
            )),
        }
    }

    /// After `leave`: the context that `init` or `join` made here is of no use any more.
    pub fn forget_local_context(&self, city: &str) -> Result<()> {
        let mut store = self.store()?;
        let mine = store.contexts.contexts.get(city).is_some_and(|it| it.socket.is_some());
        if mine { store.remove(city) } else { Ok(()) }
    }
}

/// `host:port` of a node's HTTPS.
pub fn address(text: &str) -> String {
    with_port(text.trim_start_matches("https://").trim_end_matches('/'), API_PORT)
}

/// `host:port`, with that port where none is given. A bare IPv6 address gets its brackets.
pub fn with_port(text: &str, port: u16) -> String {
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return format!("[{text}]:{port}");
    }
    let has_port = text.rsplit_once(':').is_some_and(|(host, given)| {
        given.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
    });
    if has_port { text.to_owned() } else { format!("{text}:{port}") }
}

/// The wall clock: only to tell how long ago something was, and whether a token has expired.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_the_usual_port() {
        for (given, expected) in [
            ("10.0.0.1", "10.0.0.1:8443"),
            ("10.0.0.1:9000", "10.0.0.1:9000"),
            ("n1.lisboa.pt", "n1.lisboa.pt:8443"),
            ("https://n1.lisboa.pt/", "n1.lisboa.pt:8443"),
            ("2001:db8::1", "[2001:db8::1]:8443"),
            ("[2001:db8::1]", "[2001:db8::1]:8443"),
            ("[2001:db8::1]:9000", "[2001:db8::1]:9000"),
        ] {
            assert_eq!(address(given), expected);
        }
    }
}
