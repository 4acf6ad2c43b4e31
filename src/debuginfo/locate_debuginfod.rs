//! Asks debuginfod, by the program that elfutils have for it: it has a cache of its
//! own, and knows of proxies and certificates.

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Kind;
use crate::elf::BuildId;

/// How long `debuginfod-find` may take: a vmlinux is half a gigabyte.
const TIMEOUT: Duration = Duration::from_secs(600);
/// How often its progress is told.
const PROGRESS: Duration = Duration::from_secs(5);

/// `debuginfod-find`.
pub(super) struct Debuginfod {
    program: PathBuf,
    timeout: Duration,
    /// It did not answer once, and is not asked again: a core may have a thousand files.
    silent: AtomicBool,
}

impl Debuginfod {
    /// The client, if the environment asks for one.
    pub(super) fn of_environment() -> Option<Self> {
        let asked = std::env::var_os("DEBUGINFOD_URLS").is_some_and(|urls| !urls.is_empty());
        asked.then(|| Self::new("debuginfod-find", TIMEOUT))
    }

    /// Where `debuginfod-find` keeps what it fetched (debuginfod-client-config(7)).
    pub(super) fn cache_dir() -> Option<PathBuf> {
        let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = named("HOME");
        let old = home.as_ref().map(|home| home.join(".debuginfod_client_cache"));
        named("DEBUGINFOD_CACHE_PATH").or_else(|| old.filter(|old| old.is_dir())).or_else(|| {
            let cache = named("XDG_CACHE_HOME").or_else(|| Some(home?.join(".cache")))?;
            Some(cache.join("debuginfod_client"))
        })
    }

    pub(super) fn new(program: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self { program: program.into(), timeout, silent: AtomicBool::new(false) }
    }

    /// Runs `debuginfod-find KIND ID`; it keeps its own cache, and prints the path.
    pub(super) fn find(&self, kind: Kind, what: &str, id: &BuildId) -> Result<PathBuf, String> {
        let (kind, noun) = match kind {
            Kind::Debug => ("debuginfo", "debug file"),
            Kind::Executable => ("executable", "executable"),
        };
        if self.silent.load(Ordering::Relaxed) {
            return Err("debuginfod is not asked again: it did not answer before".to_owned());
        }
        let began = Instant::now();
        let mut child = Command::new(&self.program)
            .args([kind, &id.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => {
                    "debuginfod is not asked: debuginfod-find is not installed".to_owned()
                }
                _ => format!("{} does not start: {error}", self.program.display()),
            })?;
        let mut told = began;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if began.elapsed() > self.timeout => {
                    let _ = child.kill();
                    let _ = child.wait();
                    self.silent.store(true, Ordering::Relaxed);
                    return Err(format!("debuginfod did not answer within {} s", self.timeout.as_secs()));
                }
                Ok(None) => {}
                Err(error) => return Err(format!("debuginfod-find: {error}")),
            }
            if told.elapsed() > PROGRESS {
                told = Instant::now();
                tracing::info!("fetching {what} by debuginfod ({} s)", began.elapsed().as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if !status.success() {
            return Err(format!("debuginfod has no {noun} for {id}"));
        }
        let mut path = String::new();
        if let Some(out) = child.stdout.take() {
            out.take(8192).read_to_string(&mut path).map_err(|error| format!("debuginfod-find: {error}"))?;
        }
        match path.trim() {
            path if path.starts_with('/') => Ok(path.into()),
            other => Err(format!("debuginfod-find printed {other:?} instead of a path")),
        }
    }
}
