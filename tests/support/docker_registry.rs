//! Debian's `docker-registry`: CNCF Distribution, the reference implementation of the protocol.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::ca::Identity;
use super::server::{Server, eventually, get};
use super::tools::{find, text};

/// The user that [`Options::auth`] lets in.
pub const USER: &str = "puller";
/// The user's password: with a space and a colon, which Basic credentials must survive.
pub const PASSWORD: &str = "correct: horse";
/// `htpasswd -nbB puller 'correct: horse'`; the registry takes bcrypt only. The least cost there is.
const HTPASSWD: &str = "puller:$2y$04$UOr.oyC9DNWlc718LfuGBuqUB8OrMsegW1n03MkL1CTDGonq2ZrZi\n";

/// How a registry is to be started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Ask for Basic credentials: [`USER`], [`PASSWORD`].
    pub auth: bool,
    /// Serve https with this certificate.
    pub tls: Option<Identity>,
}

/// A running registry on 127.0.0.1 with a store of its own, empty at first.
#[derive(Debug)]
pub struct DockerRegistry {
    address: SocketAddr,
    options: Options,
    server: Server,
    // After the server: it ends before its directory goes.
    directory: TempDir,
}

impl DockerRegistry {
    /// Starts a registry over plain http, open to everybody.
    pub fn start() -> DockerRegistry {
        Self::start_with(Options::default())
    }

    /// Starts a registry.
    pub fn start_with(options: Options) -> DockerRegistry {
        let directory = TempDir::new().unwrap();
        let config = directory.path().join("config.yml");
        std::fs::write(directory.path().join("htpasswd"), HTPASSWD).unwrap();
        std::fs::write(&config, configuration(text(directory.path()), &options)).unwrap();

        let program = find("docker-registry").expect("see tool_or_skip");
        let output = directory.path().join("output");
        let mut server = Server::start(Command::new(program).arg("serve").arg(&config), &output);
        // It takes a free port itself and says which; by then it listens.
        let address = server.wait(|| listening_on(&std::fs::read_to_string(&output).ok()?));
        let address = address.unwrap_or_else(|status| panic!("{status}:\n{}", server.output()));
        DockerRegistry { address, options, server, directory }
    }

    /// `127.0.0.1:PORT`: the first part of a reference.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Requests answered so far, as lines `METHOD PATH STATUS`, in the order they were done.
    ///
    /// Over plain http, all that were done before this call; over https, what is logged by now.
    pub fn requests(&self) -> Vec<String> {
        if self.options.tls.is_none() {
            self.flush_log();
        }
        self.logged().into_iter().filter(|line| !line.contains("/flush-")).collect()
    }

    /// Asks for a path that nobody else asks for, and waits for it in the log.
    fn flush_log(&self) {
        let path = format!("/flush-{:016x}", fastrand::u64(..));
        get(TcpStream::connect(self.address).unwrap(), &path, "").expect("an answer");
        eventually(|| self.logged().iter().any(|line| line.contains(&path)).then_some(()))
            .expect("a request is logged once it is answered");
    }

    fn logged(&self) -> Vec<String> {
        self.server.output().lines().filter_map(request_of).collect()
    }

    /// Where the registry keeps its files, to look at or to spoil.
    pub fn storage(&self) -> PathBuf {
        self.directory.path().join("storage")
    }
}

fn configuration(directory: &str, options: &Options) -> String {
    let tls = options.tls.as_ref().map_or(String::new(), |identity| {
        format!(
            "  tls:\n    certificate: {}\n    key: {}\n",
            text(&identity.certificate),
            text(&identity.key)
        )
    });
    let auth = if options.auth {
        format!("auth:\n  htpasswd:\n    realm: test\n    path: {directory}/htpasswd\n")
    } else {
        String::new()
    };
    format!(
        "version: 0.1\n\
         log:\n  level: info\n  formatter: json\n\
         storage:\n  filesystem:\n    rootdirectory: {directory}/storage\n\
         http:\n  addr: 127.0.0.1:0\n  secret: only for tests\n{tls}{auth}"
    )
}

/// Finds `"msg":"listening on 127.0.0.1:40713"` (with `, tls` after it over https).
fn listening_on(output: &str) -> Option<SocketAddr> {
    let (_, rest) = output.split_once("listening on ")?;
    rest.split(['"', ',']).next()?.parse().ok()
}

/// From a line of the Apache combined log: `METHOD PATH STATUS`.
fn request_of(line: &str) -> Option<String> {
    // 127.0.0.1 - - [01/Jan/2026:00:00:00 +0000] "GET /v2/ HTTP/1.1" 200 2 "" "agent"
    let mut quoted = line.split('"');
    let (_client, request, outcome) = (quoted.next()?, quoted.next()?, quoted.next()?);
    let (method_and_path, _version) = request.rsplit_once(" HTTP/1.")?;
    Some(format!("{method_and_path} {}", outcome.split_whitespace().next()?))
}
