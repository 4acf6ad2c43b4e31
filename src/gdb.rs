//! `corestub gdb`: gdb, started and connected, with everything that was found.
//!
//! gdb gets a folder of its own, readable by this user only and gone at the
//! end: the socket, the helpers of `scripts/gdb` (part of this program, so that
//! they are there without a checkout), and links that lead gdb to the local
//! debug files by build-id. Distributions often install none for kernels, and
//! what gdb finds by itself need not cross the socket.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::cli::Gdb;
use crate::elf::BuildId;
use crate::error::{Error, Result};
use crate::rsp::{self, Endpoint, Listener};
use crate::snapshot::{Options, Snapshot};

/// gdb's side: what `source gdbinit` loads from a checkout.
const HELPERS: [(&str, &str); 8] = [
    ("gdbinit", include_str!("../gdbinit")),
    ("scripts/gdb/corestub/__init__.py", include_str!("../scripts/gdb/corestub/__init__.py")),
    ("scripts/gdb/corestub/connect.py", include_str!("../scripts/gdb/corestub/connect.py")),
    ("scripts/gdb/corestub/kernel.py", include_str!("../scripts/gdb/corestub/kernel.py")),
    ("scripts/gdb/corestub/printers.py", include_str!("../scripts/gdb/corestub/printers.py")),
    ("scripts/gdb/corestub/stub.py", include_str!("../scripts/gdb/corestub/stub.py")),
    ("scripts/gdb/corestub/unwinder.py", include_str!("../scripts/gdb/corestub/unwinder.py")),
    ("scripts/gdb/corestub/user.py", include_str!("../scripts/gdb/corestub/user.py")),
];

/// Serves the dump on a private socket and runs gdb on it until it ends. The
/// exit code is gdb's.
pub fn run(args: &Gdb, options: Options) -> Result<ExitCode> {
    let snapshot = Snapshot::open(&args.dumps, options)?;
    let folder = Folder::new()?;
    for (name, text) in HELPERS {
        folder.write(name, text)?;
    }
    for (build_id, file) in debug_files(&snapshot) {
        folder.link(&build_id, &file);
    }
    let socket = folder.path.join("gdb.sock");
    let listener = Listener::bind(&Endpoint::Unix(socket.clone()))?;
    let inferior = snapshot.inferior();
    std::thread::spawn(move || {
        if let Err(e) = listener.serve(inferior, &rsp::Options::default()) {
            tracing::error!("{e}");
        }
    });
    folder.write("start", &start(&folder.path, &socket, &args.input.debug_dirs))?;

    // Ctrl-C is gdb's: it must not end the server under it. A handler, unlike
    // an ignored signal, is not inherited by gdb.
    let handler = signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::new(AtomicBool::new(false)));
    handler.map_err(|e| Error::io("catch Ctrl-C for", &args.gdb, e))?;
    let status = Command::new(&args.gdb)
        .arg("-q")
        .arg("-x")
        .arg(folder.path.join("start"))
        .args(&args.gdb_args)
        .stdin(Stdio::inherit())
        .status()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::Missing {
                path: args.gdb.clone(),
                what: "there is no such program".to_owned(),
                hint: "install gdb with Python: apt install gdb, dnf install gdb; or name one with --gdb",
            },
            _ => Error::io("start", &args.gdb, e),
        })?;
    Ok(code(status))
}

/// gdb's exit code; as a shell has it if a signal ended gdb.
fn code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Commands that gdb reads before anything else of the user's.
fn start(folder: &Path, socket: &Path, debug_dirs: &[PathBuf]) -> String {
    let mut places = folder.display().to_string();
    for dir in debug_dirs {
        places = format!("{places}:{}", dir.display());
    }
    // `$_as_string` is one of the functions that gdb itself has in Python.
    format!(
        "set debug-file-directory {places}\n\
         set remotetimeout 60\n\
         set index-cache enabled on\n\
         if $_isvoid($_as_string)\n\
         echo This gdb has no Python: no helpers, everything else works.\\n\n\
         target extended-remote {socket}\n\
         monitor sys\n\
         else\n\
         source {folder}/gdbinit\n\
         vmcore {socket}\n\
         end\n",
        socket = socket.display(),
        folder = folder.display(),
    )
}

/// The local debug files that belong to the dump.
fn debug_files(snapshot: &Snapshot) -> Vec<(BuildId, PathBuf)> {
    let Snapshot::Kernel(kernel) = snapshot else { return Vec::new() };
    let found = kernel.debug_files();
    let vmlinux = found.vmlinux.iter().filter_map(|v| Some((v.build_id()?.clone(), v.path().to_owned())));
    let modules = kernel.modules().iter().zip(&found.modules);
    let modules = modules.filter_map(|(m, path)| Some((m.build_id.clone()?, path.clone()?)));
    vmlinux.chain(modules).collect()
}

/// A folder that goes with the program.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new() -> Result<Self> {
        let base = std::env::temp_dir();
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        // A name may be left from a program that was killed.
        for attempt in 0u32..1000 {
            let path = base.join(format!("corestub-{}-{attempt}", std::process::id()));
            match builder.create(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io("create", &path, e)),
            }
        }
        Err(Error::io("create a folder in", &base, io::ErrorKind::AlreadyExists.into()))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
        }
        fs::write(&path, text).map_err(|e| Error::io("write", &path, e))
    }

    /// Makes gdb find `file` by its build-id. Without the link it asks the
    /// server, so a failure costs time only.
    fn link(&self, build_id: &BuildId, file: &Path) {
        let link = self.path.join(build_id.path(".debug"));
        let target = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        let made = link.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| symlink(target, &link));
        if let Err(e) = made {
            tracing::warn!("cannot link {}: {e}", link.display());
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
