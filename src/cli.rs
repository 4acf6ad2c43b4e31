//! The command line: the program's own verbs, and the commands of the table as
//! they are run once, from a shell.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Args, CommandFactory, Parser, Subcommand};
use clap_lex::{ParsedArg, RawArgs};

use crate::commands::{self, COMMANDS};
use crate::dump;
use crate::number;

/// Serve Linux kernel and process crash dumps to stock gdb
#[derive(Debug, Parser)]
#[command(version, long_version = VERSION, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// Say more on stderr (repeat: -v info, -vv debug, -vvv packets)
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 950)]
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
  corestub bt vmcore --all --json | jq ...

A command's dump comes first: one file, or the pieces of a split dump one behind the other. Then
come the command's own arguments; `--` ends the dumps, for an argument that has the name of a
piece: corestub ps DUMP -- NAME. Options may stand anywhere.";

/// What a report of a fault is to hold.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("CORESTUB_COMMIT"),
    ")
vmcores:      kdump-compressed (zlib, lzo, snappy, zstd; flattened, split), ELF, QEMU
cores:        of x86-64 processes, also in .zst and .lz4
kernels seen: x86-64, Debian 6.1 and 6.12 in every test; 5.10 and 7.3 once"
);

/// The verbs that are no commands of the table.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a dump to gdb (`target remote :1234`)
    Serve(Serve),
    /// Start gdb on a dump, connected, with debug files and scripts found
    Gdb(Gdb),
    /// Print which gdbinit to source in a gdb of your own
    Gdbinit {
        /// Write it and its helpers into this folder first
        dir: Option<PathBuf>,
    },
    /// Write completions for a shell to stdout
    #[command(hide = true)]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder; without one, the first page to stdout
    #[command(hide = true)]
    Man {
        /// The folder
        dir: Option<PathBuf>,
    },
}

// What a dump needs beside itself. No doc comment: clap would take it for the summary of
// the command that these options are added to.
#[allow(missing_docs, reason = "see above")]
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "What a dump may lack")]
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
    #[arg(long, value_name = "N", value_parser = number::unsigned)]
    pub kaslr_offset: Option<u64>,
    /// Physical base of the kernel, when VMCOREINFO does not say it; may be negative
    #[arg(long, value_name = "N", value_parser = number::signed, allow_hyphen_values = true)]
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
    pub gdb_args: Vec<OsString>,
}

// What a command of the table is run on, once: `corestub COMMAND DUMP... [ARGS]`.
#[allow(missing_docs, reason = "see above")]
#[derive(Debug, Args)]
pub struct OnDump {
    /// The dump; files directly behind it that are dumps too are further pieces of it
    #[arg(value_name = "DUMP...")]
    pub dump: PathBuf,
    /// A further piece: see [`mark_pieces`]
    #[arg(long = PIECE, hide = true)]
    pub pieces: Vec<PathBuf>,
}

/// The option by which the pieces of a split dump reach the parser.
const PIECE: &str = "piece";

/// The whole command line, the commands of the table included.
#[must_use]
pub fn program() -> clap::Command {
    // clap has a `help` of its own.
    let commands = COMMANDS.iter().filter(|c| c.name() != "help");
    let on_dump = |c: &commands::Command| c.declare(OnDump::augment_args(clap::Command::new(c.name())));
    Cli::command().subcommands(commands.map(on_dump).map(Input::augment_args))
}

/// Tells the pieces of a split dump from the arguments behind them, which no
/// grammar can: `corestub rd part.1 part.2 jiffies`. A command's first word is its
/// dump; if that is a piece of a split one, the files directly behind it that are
/// pieces, too, are marked. Of no other dump there are more files than one.
#[must_use]
pub fn mark_pieces(program: &clap::Command, argv: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut argv: Vec<OsString> = argv.into_iter().collect();
    let is_piece = |word: &&OsString| dump::is_piece(Path::new(word));
    if let Some(dump) = first_word(program, &argv) {
        // Most often nothing behind it is a file, and the dump itself need not be looked at.
        let behind = argv.iter().skip(dump + 1).take_while(is_piece).count();
        let pieces = if behind > 0 && argv.get(dump).as_ref().is_some_and(is_piece) { behind } else { 0 };
        for at in (dump + 1..=dump + pieces).rev() {
            argv.insert(at, format!("--{PIECE}").into());
        }
    }
    argv
}

/// Where the first word of a command that takes pieces stands.
fn first_word(program: &clap::Command, argv: &[OsString]) -> Option<usize> {
    let raw = RawArgs::new(argv);
    let (mut cursor, mut at, mut command) = (raw.cursor(), 0, program);
    raw.next(&mut cursor);
    loop {
        let word = raw.next(&mut cursor)?;
        at += 1;
        if word.is_escape() {
            return None;
        } else if word.is_long() || word.is_short() {
            if takes_the_next(command, &word) {
                raw.next(&mut cursor);
                at += 1;
            }
        } else if let Some(named) = command.find_subcommand(word.to_value_os()) {
            command = named;
        } else {
            return command.get_arguments().any(|a| a.get_long() == Some(PIECE)).then_some(at);
        }
    }
}

/// Whether the word behind an option is its value.
fn takes_the_next(command: &clap::Command, option: &ParsedArg<'_>) -> bool {
    let takes_value =
        |is: &dyn Fn(&Arg) -> bool| command.get_arguments().any(|a| is(a) && a.get_action().takes_values());
    if let Some((Ok(long), value)) = option.to_long() {
        return value.is_none() && takes_value(&|a| a.get_long() == Some(long));
    }
    let Some(mut flags) = option.to_short() else { return false };
    while let Some(Ok(flag)) = flags.next_flag() {
        if takes_value(&|a| a.get_short() == Some(flag)) {
            // Else the value is the rest of the word.
            return flags.is_empty();
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declarations_are_sound() {
        program().debug_assert();
    }

    #[test]
    fn the_dump_is_the_first_word_that_is_no_options_value() {
        let program = program();
        let found = |line: &str| {
            let argv: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            first_word(&program, &argv).and_then(|at| argv.get(at).cloned())
        };
        let dump = Some("DUMP".into());
        assert_eq!(found("corestub ps DUMP 1"), dump);
        assert_eq!(found("corestub -vv bt --all --vmlinux V --phys-base=0 DUMP"), dump);
        assert_eq!(found("corestub search -ch -n 5 -n5 DUMP text"), dump);
        assert_eq!(found("corestub rd -16 -v DUMP"), dump);
        for none in ["corestub serve DUMP", "corestub ps -- DUMP", "corestub ps", "corestub", "corestub -l 1"]
        {
            assert_eq!(found(none), None, "{none}");
        }
    }
}
