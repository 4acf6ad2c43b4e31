//! The command line: clap types and nothing else.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

/// Serve Linux kernel and process crash dumps to stock gdb
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// Say more on stderr (repeat: -v info, -vv debug, -vvv packets)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  corestub gdb vmcore                   start gdb on a vmcore, connected, with all that can be found
  corestub serve vmcore                 serve it; then in any gdb: target remote :1234
  corestub serve --vmlinux vmlinux -l 127.0.0.1:0 vmcore
  corestub ps vmcore                    any `monitor` command works from the shell, too
  corestub bt --all --json vmcore | jq ...";

/// The two verbs that clap derives; the commands of the table join them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a dump to gdb (`target remote :1234`)
    Serve(Serve),
    /// Start gdb on a dump, connected, with debug files and scripts found
    Gdb(Gdb),
}

/// What a dump needs beside itself.
#[derive(Debug, Clone, Default, Args)]
pub struct Input {
    /// Kernel image with symbols or DWARF (optional: the dump itself often suffices)
    #[arg(long, value_name = "PATH")]
    pub vmlinux: Option<PathBuf>,
    /// Where debug files are looked for, by build-id and by release (repeatable)
    #[arg(long = "debug-dir", value_name = "DIR", default_value = "/usr/lib/debug")]
    pub debug_dirs: Vec<PathBuf>,
    /// Where the files that a userspace core had mapped are looked for
    #[arg(long, value_name = "DIR")]
    pub sysroot: Option<PathBuf>,
    /// Text of VMCOREINFO, when the dump's own is missing or wrong
    #[arg(long, value_name = "FILE")]
    pub vmcoreinfo: Option<PathBuf>,
    /// How far KASLR moved the kernel, when VMCOREINFO does not say it
    #[arg(long, value_name = "N", value_parser = number)]
    pub kaslr_offset: Option<u64>,
    /// Physical base of the kernel, when VMCOREINFO does not say it; may be negative
    #[arg(long, value_name = "N", value_parser = signed, allow_hyphen_values = true)]
    pub phys_base: Option<i64>,
}

/// `corestub serve`
#[derive(Debug, Args)]
pub struct Serve {
    /// The dump; several files are the pieces of a split one
    #[arg(required = true, value_name = "DUMP")]
    pub dumps: Vec<PathBuf>,
    /// Where to listen; port 0 picks a free one and prints it
    #[arg(short, long, default_value = "127.0.0.1:1234", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Listen on a Unix socket instead
    #[arg(long, value_name = "PATH", conflicts_with = "stdio")]
    pub unix: Option<PathBuf>,
    /// Serve one client on stdin and stdout (gdb: target remote | corestub serve --stdio DUMP)
    #[arg(long)]
    pub stdio: bool,
    /// Exit when the first client leaves
    #[arg(long)]
    pub once: bool,
    /// Offer QStartNoAckMode: a little faster over slow links, but Ctrl-C in gdb may show wrong data
    #[arg(long)]
    pub no_ack: bool,
    /// Speak the words of QEMU's stub that gef, pwndbg and the kernel's lx- scripts look for
    #[arg(long)]
    pub qemu_dialect: bool,
    /// The dump's companions
    #[command(flatten)]
    pub input: Input,
}

/// `corestub gdb`
#[derive(Debug, Args)]
pub struct Gdb {
    /// The dump; several files are the pieces of a split one
    #[arg(required = true, value_name = "DUMP")]
    pub dumps: Vec<PathBuf>,
    /// Which gdb to start
    #[arg(long, value_name = "PROGRAM", default_value = "gdb")]
    pub gdb: PathBuf,
    /// The dump's companions
    #[command(flatten)]
    pub input: Input,
    /// Arguments for gdb
    #[arg(last = true, value_name = "GDB-ARGS")]
    pub gdb_args: Vec<String>,
}

// A command of the table, run once: `corestub COMMAND [OPTIONS] DUMP... [ARGS]`. No
// doc comment: clap would take it for the command's summary.
#[allow(missing_docs, reason = "see above")]
#[derive(Debug, Args)]
pub struct Once {
    /// JSON for machines
    #[arg(long)]
    pub json: bool,
    /// The dump's companions
    #[command(flatten)]
    pub input: Input,
    /// The dump (all pieces of a split one), then the command's own arguments
    #[arg(value_name = "DUMP... [ARGS]")]
    pub words: Vec<String>,
}

fn number(text: &str) -> Result<u64, String> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16));
    u64::from_str_radix(digits, radix).map_err(|e| e.to_string())
}

fn signed(text: &str) -> Result<i64, String> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |d| (true, d));
    let n = i64::try_from(number(digits)?).map_err(|e| e.to_string())?;
    Ok(if negative { -n } else { n })
}
