//! The command line: the program's own verbs, and the commands of the table as
//! they are run once, from a shell.

use std::ffi::OsString;
use std::net::{Ipv4Addr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_lex::{ParsedArg, RawArgs};

use crate::commands::{self, COMMANDS};
use crate::dump;
use crate::number;
use crate::rsp::{self, Endpoint};

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

A command's dump comes first (`-` is stdin): one file, or the pieces of a split dump one behind
the other. Then come the command's own arguments; `--` ends the dumps, for an argument that has
the name of a piece: corestub ps DUMP -- NAME. Options may stand anywhere.";

/// What a report of a fault is to hold.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("CORESTUB_COMMIT"),
    ")
vmcores:      kdump-compressed (zlib, lzo, snappy, zstd; flattened, split), ELF, QEMU (also migration
              streams, virsh save), LiME, AVML, VMware, raw
cores:        of x86-64 processes
compressed:   any of them in gzip, xz, bzip2, zstd or lz4
kernels seen: x86-64, Debian 5.10, 6.1, 6.12 and 7.3 in every test; 3.10, 4.18 and 4.19 once"
);

/// The verbs that are no commands of the table.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Serve a dump to gdb (`target remote :1234`)
    Serve(Serve),
    /// Start gdb on a dump, connected, with debug files and scripts found
    Gdb(Gdb),
    /// What several vmcores have in common: signature, culprit, register values, modules
    Compare(Compare),
    /// One page about a vmcore, to attach to a ticket: what happened, stacks, memory, log
    Report(Report),
    /// The cores and vmcores that this machine keeps: systemd-coredump's, ABRT's, apport's, kdump's
    List(List),
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
    /// The program of a userspace core: taken unless the core proves that it is another
    #[arg(long, value_name = "FILE")]
    pub exec: Option<PathBuf>,
    /// A library of a userspace core, by build-id or name; taken likewise (repeatable)
    #[arg(long = "lib", value_name = "FILE")]
    pub libs: Vec<PathBuf>,
    /// A folder with files of a userspace core, found by build-id, name and content (repeatable)
    #[arg(long = "search-dir", value_name = "DIR")]
    pub search_dirs: Vec<PathBuf>,
    /// Take files of a userspace core by their path where the core can prove nothing
    #[arg(long)]
    pub trust_paths: bool,
    /// Text of VMCOREINFO, when the dump's own is missing or wrong
    #[arg(long, value_name = "FILE")]
    pub vmcoreinfo: Option<PathBuf>,
    /// How far KASLR moved the kernel, when VMCOREINFO does not say it
    #[arg(long, value_name = "N", value_parser = number::unsigned)]
    pub kaslr_offset: Option<u64>,
    /// Physical base of the kernel, when VMCOREINFO does not say it; may be negative
    #[arg(long, value_name = "N", value_parser = number::signed, allow_hyphen_values = true)]
    pub phys_base: Option<i64>,
    /// Physical address of the kernel's page tables, when nothing in the dump tells it
    #[arg(long, value_name = "N", value_parser = number::unsigned)]
    pub cr3: Option<u64>,
    /// The file is memory as it is, from physical address BASE (0) on
    #[arg(long, value_name = "BASE", num_args = 0..=1, require_equals = true, default_missing_value = "0", value_parser = number::unsigned)]
    pub raw: Option<u64>,
    /// How much of a compressed dump may be unpacked into the cache, zeros not counted
    #[arg(long, value_name = "SIZE", default_value = "64G", value_parser = number::size)]
    pub unpack_limit: Option<u64>,
}

// `corestub serve`
#[allow(missing_docs, reason = "see `Input`")]
#[derive(Debug, Args)]
pub struct Serve {
    /// The dump; several files are the pieces of a split one
    #[arg(required = true, value_name = "DUMP")]
    pub dumps: Vec<PathBuf>,
    /// Where to listen, as gdb says it (`:1234`, `localhost:1234`, `1234`); port 0 picks a free one and
    /// prints it, `fd://` takes the socket that systemd passes
    #[arg(short, long, default_value = "127.0.0.1:1234", value_name = "ADDR:PORT", value_parser = listen_at)]
    pub listen: Endpoint,
    /// Listen where other machines connect, too: who reaches it reads the dump, and nothing is encrypted
    #[arg(long)]
    pub allow_remote: bool,
    /// Listen on a Unix socket instead; only its owner may use it
    #[arg(long, value_name = "PATH", conflicts_with = "stdio")]
    pub unix: Option<PathBuf>,
    /// Serve one client on stdin and stdout (gdb: target remote | corestub serve --stdio DUMP)
    #[arg(long)]
    pub stdio: bool,
    /// Exit when the first client leaves
    #[arg(long)]
    pub once: bool,
    /// Clients that are served at the same time
    #[arg(long, value_name = "N", default_value_t = rsp::Options::MAX_CLIENTS, value_parser = clients)]
    pub max_clients: usize,
    /// Drop a client that asks nothing for so long: 90, 15m, 2h (0: never)
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration)]
    pub idle_timeout: Duration,
    /// Do without the sandbox: once all is open, the server only reads what it may need and answers
    #[arg(long)]
    pub no_sandbox: bool,
    /// Offer QStartNoAckMode: a little faster over slow links, but Ctrl-C in gdb may show wrong data
    #[arg(long)]
    pub no_ack: bool,
    /// Answer as QEMU's stub does, for gef and pwndbg: CPUs are the threads, or all tasks (`=all`)
    #[arg(long, value_name = "THREADS", num_args = 0..=1, require_equals = true, default_missing_value = "cpus")]
    pub qemu_dialect: Option<Dialect>,
    /// The dump's companions
    #[command(flatten)]
    pub input: Input,
}

impl Serve {
    /// Where to listen; an error for where it must not without more words.
    pub fn endpoint(&self) -> Result<Endpoint, clap::Error> {
        if let Some(path) = &self.unix {
            return Ok(Endpoint::Unix(path.clone()));
        }
        if self.stdio {
            return Ok(Endpoint::Stdio);
        }
        match self.listen {
            Endpoint::Tcp(address) if !self.allow_remote && !rsp::is_local(address.ip()) => {
                let why = format!(
                    "other machines reach {address}, and there is neither password nor encryption: \
                     give --allow-remote, too, or use ssh (docs/serving.md)"
                );
                Err(Cli::command().error(ErrorKind::MissingRequiredArgument, why))
            }
            _ => Ok(self.listen.clone()),
        }
    }
}

/// The forms of `target remote`: a port alone is one of this machine.
fn listen_at(text: &str) -> Result<Endpoint, String> {
    if text == "fd://" {
        return Ok(Endpoint::Passed);
    }
    let place = text.strip_prefix("tcp:").unwrap_or(text);
    if let Ok(address) = place.parse() {
        return Ok(Endpoint::Tcp(address));
    }
    let (host, port) = place.rsplit_once(':').unwrap_or(("", place));
    let port: u16 = port.parse().map_err(|_| "wanted: ADDR:PORT, :PORT, PORT or fd://".to_owned())?;
    if host.is_empty() || host == "localhost" {
        return Ok(Endpoint::Tcp((Ipv4Addr::LOCALHOST, port).into()));
    }
    let mut addresses = (host, port).to_socket_addrs().map_err(|e| format!("{host}: {e}"))?;
    addresses.next().map(Endpoint::Tcp).ok_or_else(|| format!("{host} has no address"))
}

fn clients(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=10_000).contains(n)).ok_or_else(|| "wanted: 1 to 10000".to_owned())
}

/// Seconds, or minutes or hours by their letter.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(number) if text.ends_with('m') => (number, 60),
        Some(number) if text.ends_with('h') => (number, 3600),
        Some(number) => (number, 1),
        None => (text, 1),
    };
    let number: u32 = number.parse().map_err(|_| "wanted: seconds, or as 15m, 2h".to_owned())?;
    Ok(Duration::from_secs(u64::from(number) * unit))
}

/// Which threads QEMU's dialect shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dialect {
    /// What the CPUs were running
    Cpus,
    /// Every task
    All,
}

// `corestub gdb`
#[allow(missing_docs, reason = "see `Input`")]
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

// `corestub compare`
#[allow(missing_docs, reason = "see `Input`")]
#[derive(Debug, Args)]
pub struct Compare {
    /// The dumps, each a whole one
    #[arg(required = true, value_name = "DUMP", num_args = 2..)]
    pub dumps: Vec<PathBuf>,
    /// JSON for machines
    #[arg(long)]
    pub json: bool,
    /// The dumps' companions
    #[command(flatten)]
    pub input: Input,
}

// `corestub report`
#[allow(missing_docs, reason = "see `Input`")]
#[derive(Debug, Args)]
#[command(after_help = REPORT)]
pub struct Report {
    /// The dump; several files are the pieces of a split one
    #[arg(required = true, value_name = "DUMP")]
    pub dumps: Vec<PathBuf>,
    /// The file to write; without it, stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// As what
    #[arg(long, value_enum, default_value_t = commands::Format::Html)]
    pub format: commands::Format,
    /// Mask the names of the host, of tasks and of files, command lines and addresses
    #[arg(long)]
    pub redact: bool,
    /// The dump's companions
    #[command(flatten)]
    pub input: Input,
}

// `corestub list`
#[allow(missing_docs, reason = "see `Input`")]
#[derive(Debug, Args)]
#[command(after_help = LIST)]
pub struct List {
    /// Only those of a process of this name, or of this pid
    #[arg(value_name = "NAME|PID")]
    pub word: Option<String>,
    /// A disk of another machine, mounted here
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// JSON for machines
    #[arg(long)]
    pub json: bool,
}

const LIST: &str = "\
The newest comes first. A name or a pid stands for the newest core of it in every command, where no file has
that name: corestub gdb node, corestub bt 1234. CORESTUB_ROOT in the environment is a --root for all of them.";

const REPORT: &str = "\
The page is one file without scripts that asks no network for anything. Memory of user processes is not
in it; the log is, and with it whatever somebody wrote there. What --redact masks has the same stand-in
wherever it comes up; look through the page before you hand it on all the same.

Example: corestub report vmcore -o report.html --redact";

// What a command of the table is run on, once: `corestub COMMAND DUMP... [ARGS]`.
#[allow(missing_docs, reason = "see above")]
#[derive(Debug, Args)]
pub struct OnDump {
    /// The dump; files directly behind it that are dumps too are further pieces of it
    #[arg(value_name = "DUMP...")]
    pub dump: PathBuf,
    /// A further piece: see `mark_pieces`
    #[arg(long = PIECE, hide = true)]
    pub pieces: Vec<PathBuf>,
}

/// The option by which the pieces of a split dump reach the parser.
const PIECE: &str = "piece";

/// The whole command line, the commands of the table included. Each command's own part is
/// declared when it is wanted: all forty take as long as a short command's work.
#[must_use]
pub fn program() -> clap::Command {
    // clap has a `help` of its own.
    let commands = COMMANDS.iter().filter(|c| c.name() != "help");
    let declared = |c: &commands::Command| match clap::Command::new(c.name()) {
        // The program's own option is left out only where the command's is there first.
        named if c.is_verbose() => on_dump(named),
        named => named.defer(on_dump),
    };
    Cli::command().subcommands(commands.map(declared))
}

/// Declares a command of the table.
fn on_dump(named: clap::Command) -> clap::Command {
    match commands::find(named.get_name()) {
        Some(command) => Input::augment_args(command.declare(OnDump::augment_args(named))),
        None => named,
    }
}

/// What was typed; an error is told with the whole program declared.
pub fn parse(argv: Vec<OsString>) -> Result<ArgMatches, clap::Error> {
    let argv = mark_pieces(argv);
    program().try_get_matches_from(&argv).or_else(|_| {
        let mut whole = program();
        whole.build();
        whole.try_get_matches_from(argv)
    })
}

/// Tells the pieces of a split dump from the arguments behind them, which no
/// grammar can: `corestub rd part.1 part.2 jiffies`. A command's first word is its
/// dump; if that is a piece of a split one, the files directly behind it that are
/// pieces, too, are marked. Of no other dump there are more files than one.
fn mark_pieces(mut argv: Vec<OsString>) -> Vec<OsString> {
    // Most often there are no two files, and nothing need be declared or opened.
    let files = |pair: &[OsString]| pair.iter().all(|word| Path::new(word).is_file());
    if !argv.windows(2).any(files) {
        return argv;
    }
    let is_piece = |word: &&OsString| dump::is_piece(Path::new(word));
    if let Some(dump) = first_word(program(), &argv)
        && argv.get(dump).as_ref().is_some_and(is_piece)
    {
        let behind = argv.iter().skip(dump + 1).take_while(is_piece).count();
        for at in (dump + 1..=dump + behind).rev() {
            argv.insert(at, format!("--{PIECE}").into());
        }
    }
    argv
}

/// Where the first word of a command that takes pieces stands.
fn first_word(mut command: clap::Command, argv: &[OsString]) -> Option<usize> {
    let raw = RawArgs::new(argv);
    let (mut cursor, mut at) = (raw.cursor(), 0);
    raw.next(&mut cursor);
    loop {
        let word = raw.next(&mut cursor)?;
        at += 1;
        if word.is_escape() {
            return None;
        } else if word.is_long() || word.is_short() {
            if takes_the_next(&command, &word) {
                raw.next(&mut cursor);
                at += 1;
            }
        } else if let Some(named) = command.find_subcommand_mut(word.to_value_os()) {
            named.build();
            command = std::mem::take(named);
        } else {
            return command.get_arguments().any(|a| a.get_long() == Some(PIECE)).then_some(at);
        }
    }
}

/// Whether the word behind an option is its value.
fn takes_the_next(command: &clap::Command, option: &ParsedArg<'_>) -> bool {
    let takes_value = |is: &dyn Fn(&Arg) -> bool| {
        command.get_arguments().any(|a| is(a) && a.get_action().takes_values() && !a.is_require_equals_set())
    };
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
        let mut program = program();
        program.build();
        program.debug_assert();
    }

    #[test]
    fn a_place_is_named_as_gdb_names_it() {
        let local = |port: u16| Ok(Endpoint::Tcp((Ipv4Addr::LOCALHOST, port).into()));
        for text in ["127.0.0.1:1234", ":1234", "localhost:1234", "1234", "tcp:localhost:1234", "tcp::1234"] {
            assert_eq!(listen_at(text), local(1234), "{text}");
        }
        assert_eq!(listen_at("[::1]:0"), Ok(Endpoint::Tcp("[::1]:0".parse().unwrap())));
        assert_eq!(listen_at("fd://"), Ok(Endpoint::Passed));
        for text in ["", ":", "localhost", "127.0.0.1", "1234:x", ":65536", "fd://x"] {
            assert!(listen_at(text).is_err(), "{text}");
        }
    }

    #[test]
    fn other_machines_need_a_word_more() {
        let serve = |words: &[&str]| {
            let argv = ["corestub", "serve", "DUMP"].iter().chain(words);
            match Cli::try_parse_from(argv).unwrap().command {
                Command::Serve(serve) => serve.endpoint().map_err(|e| e.to_string()),
                _ => unreachable!(),
            }
        };
        for remote in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1"] {
            assert!(serve(&["-l", remote]).unwrap_err().contains("--allow-remote"), "{remote}");
            assert!(serve(&["-l", remote, "--allow-remote"]).is_ok(), "{remote}");
        }
        for local in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "fd://"] {
            assert!(serve(&["-l", local]).is_ok(), "{local}");
        }
        assert_eq!(serve(&["--unix", "x"]), Ok(Endpoint::Unix("x".into())));
    }

    #[test]
    fn times_have_units() {
        for (text, seconds) in [("0", 0), ("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "m", "-1", "1d", "1.5h", "99999999999"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_dump_is_the_first_word_that_is_no_options_value() {
        let found = |line: &str| {
            let argv: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            first_word(program(), &argv).and_then(|at| argv.get(at).cloned())
        };
        let dump = Some("DUMP".into());
        assert_eq!(found("corestub ps DUMP 1"), dump);
        assert_eq!(found("corestub -vv bt --all --vmlinux V --phys-base=0 DUMP"), dump);
        assert_eq!(found("corestub search -ch -n 5 -n5 DUMP text"), dump);
        assert_eq!(found("corestub rd -16 -v DUMP"), dump);
        assert_eq!(found("corestub ps --raw DUMP"), dump);
        for none in ["corestub serve DUMP", "corestub ps -- DUMP", "corestub ps", "corestub", "corestub -l 1"]
        {
            assert_eq!(found(none), None, "{none}");
        }
    }
}
