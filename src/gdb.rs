//! `corestub gdb`: gdb, started and connected, with everything that was found.

use std::process::{Command, Stdio};

use crate::cli::Gdb;
use crate::error::{Error, Result};
use crate::rsp::{self, Endpoint, Listener};
use crate::snapshot::{Options, Snapshot};

/// Serves the dump on a private socket and runs gdb on it until it ends.
pub fn run(args: &Gdb, options: Options) -> Result<()> {
    let inferior = Snapshot::open(&args.dumps, options)?.inferior();
    // A socket that only this user can reach, gone with the process.
    let dir = std::env::temp_dir().join(format!("corestub-{}", std::process::id()));
    let made = std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&dir);
    made.map_err(|e| Error::io("create", &dir, e))?;
    let socket = dir.join("gdb.sock");
    let listener = Listener::bind(&Endpoint::Unix(socket.clone()))?;
    std::thread::spawn(move || {
        let options = rsp::Options { once: false, no_ack: false, qemu_dialect: false };
        if let Err(e) = listener.serve(inferior, &options) {
            tracing::error!("{e}");
        }
    });
    // Ctrl-C is gdb's: it must not end the server under it.
    let status = Command::new(&args.gdb)
        .args(["-q", "-iex", "set index-cache enabled on"])
        .arg("-ex")
        .arg(format!("target remote {}", socket.display()))
        .args(&args.gdb_args)
        .stdin(Stdio::inherit())
        .status();
    let _ = std::fs::remove_dir_all(&dir);
    status.map_err(|e| Error::io("start", &args.gdb, e))?;
    Ok(())
}
