//! `corestub gdb`: gdb, started and connected, with everything that was found.
//!
//! gdb gets a folder of its own, readable by this user only and gone at the
//! end: the socket, and links that lead gdb to the local debug files by build-id.
//! Distributions often install none for kernels, and what gdb finds by itself
//! need not cross the socket.
//!
//! The helpers of `scripts/gdb` are those that a package has installed, else the
//! ones in this program, written into that folder: they are there without a
//! checkout and after a `cargo install`, too.

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::cli::Gdb;
use crate::elf::BuildId;
use crate::error::{Error, Result};
use crate::inferior::process::{ProcessInferior, Provided};
use crate::process::Process;
use crate::process::files::MappedFile;
use crate::rsp::{self, Endpoint, Listener};
use crate::sandbox;
use crate::session::Shown;
use crate::snapshot::{Options, Snapshot};

/// Where in gdb's folder a process's files are.
const ROOT: &str = "sysroot";

/// gdb's side: what `source gdbinit` loads from a checkout.
const HELPERS: [(&str, &str); 9] = [
    ("gdbinit", include_str!("../gdbinit")),
    ("scripts/gdb/corestub/__init__.py", include_str!("../scripts/gdb/corestub/__init__.py")),
    ("scripts/gdb/corestub/connect.py", include_str!("../scripts/gdb/corestub/connect.py")),
    ("scripts/gdb/corestub/kernel.py", include_str!("../scripts/gdb/corestub/kernel.py")),
    ("scripts/gdb/corestub/printers.py", include_str!("../scripts/gdb/corestub/printers.py")),
    ("scripts/gdb/corestub/process.py", include_str!("../scripts/gdb/corestub/process.py")),
    ("scripts/gdb/corestub/stub.py", include_str!("../scripts/gdb/corestub/stub.py")),
    ("scripts/gdb/corestub/unwinder.py", include_str!("../scripts/gdb/corestub/unwinder.py")),
    ("scripts/gdb/corestub/user.py", include_str!("../scripts/gdb/corestub/user.py")),
];

/// The gdbinit to source: the installed one, or the one that is written into `dir` now.
pub fn gdbinit(dir: Option<&Path>) -> Result<PathBuf> {
    match dir {
        Some(dir) => {
            let path = write_helpers(dir)?;
            fs::canonicalize(&path).map_err(|e| Error::io("find", &path, e))
        }
        None => installed().ok_or_else(|| Error::Missing {
            path: PathBuf::from("share/corestub/gdbinit"),
            what: "no package has installed it beside this program".to_owned(),
            hint: "corestub gdbinit DIR writes it and its helpers into a folder",
        }),
    }
}

/// The gdbinit of the package that this program is of: `PREFIX/share` beside
/// `PREFIX/bin`, wherever that is.
///
/// gdb will run it, so it must be of somebody who could have changed the program
/// as well: in /tmp/bin nobody else may put a /tmp/share beside it.
fn installed() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let bin = program.parent().filter(|dir| dir.ends_with("bin"))?;
    let gdbinit = fs::canonicalize(bin.parent()?.join("share/corestub/gdbinit")).ok()?;
    let owner = |path: &Path| fs::metadata(path).ok().map(|m| m.uid());
    let trusted = |path: &Path| owner(path).is_some_and(|uid| uid == 0 || Some(uid) == owner(&program));
    (trusted(&gdbinit) && trusted(gdbinit.parent()?)).then_some(gdbinit)
}

/// Writes gdb's side into a folder: the path of its gdbinit.
fn write_helpers(folder: &Path) -> Result<PathBuf> {
    for (name, text) in HELPERS {
        write(folder, name, text)?;
    }
    Ok(folder.join("gdbinit"))
}

fn write(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> Result<()> {
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
    }
    fs::write(&path, text).map_err(|e| Error::io("write", &path, e))
}

/// Serves the dump on a private socket and runs gdb on it until it ends. The
/// exit code is gdb's.
pub fn run(args: &Gdb, options: Options) -> Result<ExitCode> {
    let snapshot = Snapshot::open(&args.dumps, options)?;
    let folder = Folder::new()?;
    let gdbinit = installed().map_or_else(|| write_helpers(&folder.path), Ok)?;
    for (build_id, file) in debug_files(&snapshot) {
        folder.link(&build_id, &file);
    }
    let root = match &snapshot {
        Snapshot::Process(process) => Some(folder.root(process)),
        Snapshot::Kernel(_) => None,
    };
    let socket = folder.path.join("gdb.sock");
    let listener = Listener::bind(&Endpoint::Unix(socket.clone()))?;
    std::thread::spawn(move || {
        // This thread and its own only: the others start gdb, and clear up.
        sandbox::enter(&snapshot.needs());
        if let Err(e) = listener.serve(snapshot.inferior(Shown::Tasks), &rsp::Options::default()) {
            tracing::error!("{e}");
        }
    });
    write(
        &folder.path,
        "start",
        start(&folder.path, &gdbinit, &socket, &args.input.debug_dirs, root.as_deref()),
    )?;

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

/// Commands that gdb reads before anything else of the user's. A process has its files
/// below `root`, and what helps with kernels stays away.
fn start(
    folder: &Path,
    gdbinit: &Path,
    socket: &Path,
    debug_dirs: &[PathBuf],
    root: Option<&Path>,
) -> Vec<u8> {
    let places: Vec<&[u8]> = [folder]
        .into_iter()
        .chain(debug_dirs.iter().map(PathBuf::as_path))
        .map(|dir| dir.as_os_str().as_bytes())
        .collect();
    let (places, gdbinit, socket) =
        (places.join(&b':'), gdbinit.as_os_str().as_bytes(), socket.as_os_str().as_bytes());
    let of_process = |root: &Path| {
        [b"set sysroot ", root.as_os_str().as_bytes(), b"\nset $corestub_process = 1\n"].concat()
    };
    // `$_as_string` is one of the functions that gdb itself has in Python.
    [
        b"set debug-file-directory ".as_slice(),
        &places,
        b"\n",
        &root.map(of_process).unwrap_or_default(),
        b"set remotetimeout 60\nset index-cache enabled on\nif $_isvoid($_as_string)\n\
          echo This gdb has no Python: no helpers, everything else works.\\n\n\
          define hook-quit\nset confirm off\nend\ntarget extended-remote ",
        socket,
        b"\nmonitor sys\n\
          echo Next: monitor triage (of a kernel), bt, info threads. `monitor help` lists the rest.\\n\n\
          else\nsource ",
        gdbinit,
        b"\nvmcore ",
        socket,
        b"\nend\n",
    ]
    .concat()
}

/// The local debug files that belong to the dump.
fn debug_files(snapshot: &Snapshot) -> Vec<(BuildId, PathBuf)> {
    let kernel = match snapshot {
        Snapshot::Kernel(kernel) => kernel,
        Snapshot::Process(process) => {
            let of =
                |f: &Arc<MappedFile>| Some((f.build_id()?.clone(), process.debug_file_of(f)?.path.clone()));
            return process.files().iter().filter_map(of).collect();
        }
    };
    let found = kernel.debug_files();
    let vmlinux = found.vmlinux.iter().filter_map(|v| Some((v.build_id()?.clone(), v.path().to_owned())));
    let modules = kernel.modules().iter().zip(&found.modules);
    let modules = modules.filter_map(|(m, path)| Some((m.build_id.clone()?, path.clone()?)));
    vmlinux.chain(modules).collect()
}

/// Whether two paths lead to one file.
fn same_file(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    id(one).is_some_and(|one| Some(one) == id(other))
}

/// Where a file of this name lies below `root`. The folders that the name goes into and out
/// of again are made, since the system walks through them (`$ORIGIN/../lib`); a hostile one
/// does not lead out of `root`.
fn lay_way(root: &Path, name: &Path) -> Option<PathBuf> {
    let (mut way, mut depth) = (root.to_owned(), 0usize);
    for part in name.strip_prefix("/").ok()?.components() {
        match part {
            Component::Normal(part) => way.push(part),
            Component::ParentDir => {
                fs::create_dir_all(&way).ok()?;
                depth = depth.checked_sub(1)?;
                way.pop();
                continue;
            }
            _ => return None,
        }
        depth += 1;
    }
    (depth > 0).then_some(way)
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

    /// Where gdb finds the files of a process under their names without a packet, and
    /// with them what belongs to them: it loads `NAME-gdb.py` for local files only.
    ///
    /// That is the root they were found below, where each lies there under its name:
    /// libstdc++'s script looks for its modules from the library's place. Else it is a
    /// folder of links to the files that are proven; what is missing is a skeleton.
    fn root(&self, process: &Arc<Process>) -> PathBuf {
        let files = ProcessInferior::new(Arc::clone(process)).files();
        let own = process.places().sysroot.clone().unwrap_or_else(|| "/".into());
        let here = |name: &str| {
            files.get(name).is_some_and(|provided| match provided {
                Provided::Here(path) => {
                    let named = Path::new(name).strip_prefix("/").map(|relative| own.join(relative));
                    named.is_ok_and(|named| same_file(&named, path))
                }
                Provided::Made(_) => false,
            })
        };
        // What gdb will ask for: the program, and what is in the linker's list.
        let program = process.program().map(|image| image.name.as_str());
        let objects = process.link_map().iter().map(|o| o.name.as_str()).filter(|name| name.starts_with('/'));
        if program.is_some() && program.into_iter().chain(objects).all(here) {
            return own;
        }
        self.lay_root(files)
    }

    fn lay_root(&self, files: HashMap<String, Provided>) -> PathBuf {
        let root = self.path.join(ROOT);
        for (name, provided) in files {
            let Some(link) = lay_way(&root, Path::new(&name)) else { continue };
            let lay = || {
                link.parent().map_or(Ok(()), fs::create_dir_all)?;
                match provided {
                    Provided::Here(path) => symlink(fs::canonicalize(&path).unwrap_or(path), &link),
                    Provided::Made(sparse) => sparse.write(&fs::File::create_new(&link)?),
                }
            };
            match lay() {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    tracing::warn!("cannot lay {}: {e}", link.display());
                }
                _ => {}
            }
        }
        root
    }

    /// Makes gdb find `file` by its build-id. Without the link it asks the
    /// server, so a failure costs time only.
    fn link(&self, build_id: &BuildId, file: &Path) {
        let link = self.path.join(build_id.path(".debug"));
        let target = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        let made = link.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| symlink(target, &link));
        match made {
            // Two mapped files have one build-id: a program that read its own debug file.
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                tracing::warn!("cannot link {}: {e}", link.display());
            }
            _ => {}
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
