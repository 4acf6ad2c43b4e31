//! The corestub program: parse, log, run, exit code.
#![allow(clippy::print_stderr, reason = "the one place that speaks to the person")]

use std::error::Error as _;
use std::fmt;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, FromArgMatches};
use corestub::bytes::packed::Unpack;
use corestub::cli::{self, Cli, Compare, Dialect, Input, OnDump, Report, Serve};
use corestub::commands::{self, Command, CommandError, Context};
use corestub::error::{Error, Result};
use corestub::gdb;
use corestub::rsp::{self, End, Listener};
use corestub::sandbox;
use corestub::session::Shown;
use corestub::snapshot::{Options, Snapshot};
use corestub::text::printable;
use tracing::{Event, Level, Subscriber, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Else the static program spends a quarter more time on all backtraces (docs/performance.md).
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let argv: Vec<_> = std::env::args_os().collect();
    let stdio = argv.iter().any(|word| word == "--stdio");
    let matches = cli::parse(argv).unwrap_or_else(|e| {
        let _ = e.print();
        if let Some(dump) = file_for_command(&e) {
            eprintln!(
                "\nA dump comes after the command:\n  corestub triage {dump}   what happened to a machine (`sys` and `bt`: to a \
                 process)\n  corestub gdb {dump}      a session of gdb\n  corestub serve {dump}    for a debugger that connects"
            );
        }
        if stdio && e.use_stderr() {
            await_first_packet();
        }
        std::process::exit(e.exit_code())
    });
    init_logging(matches.get_count("verbose"));
    if let Some((name, given)) = matches.subcommand()
        && let Some(command) = commands::find(name)
    {
        return once(command, given);
    }
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    let done = match cli.command {
        cli::Command::Serve(serve) => run_serve(&serve).map(|()| ExitCode::SUCCESS),
        cli::Command::Gdb(args) => gdb::run(&args, options(&args.input)),
        cli::Command::Compare(args) => Ok(run_compare(&args)),
        cli::Command::Report(args) => run_report(&args),
        cli::Command::List(args) => Ok(shown("list", |_, out| {
            commands::list(args.root.as_deref(), args.word.as_deref(), args.json, out)
        })),
        cli::Command::Gdbinit { dir } => gdb::gdbinit(dir.as_deref()).map(|path| {
            let mut out = io::stdout().lock();
            let _ = out.write_all(path.as_os_str().as_bytes()).and_then(|()| out.write_all(b"\n"));
            ExitCode::SUCCESS
        }),
        cli::Command::Completions { shell } => {
            clap_complete::generate(shell, &mut cli::program(), "corestub", &mut io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        cli::Command::Man { dir } => manual(dir.as_deref()).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|e| {
        let code = cannot_open(&e);
        if stdio {
            await_first_packet();
        }
        code
    })
}

/// The file that was named where a command belongs.
fn file_for_command(error: &clap::Error) -> Option<String> {
    match (error.kind(), error.get(ContextKind::InvalidSubcommand)) {
        (ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) if Path::new(word).is_file() => {
            Some(printable(word).into_owned())
        }
        _ => None,
    }
}

/// gdb shows what the command behind `target remote |` said on stderr when it reads
/// the reply to its first packet. Where that cannot be sent any more, it shows "Broken
/// pipe" alone (gdb 13 and 18).
fn await_first_packet() {
    /// gdb sends it at once, when it has a processor.
    const PATIENCE: Duration = Duration::from_secs(10);
    let input = io::stdin();
    if input.is_terminal() {
        return;
    }
    let (come, comes) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = input.lock().bytes().take_while(|byte| !matches!(byte, Ok(b'#') | Err(_))).count();
        let _ = come.send(());
    });
    let _ = comes.recv_timeout(PATIENCE);
}

/// A dump, or something that belongs to it, cannot be used.
fn cannot_open(error: &Error) -> ExitCode {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(c) = cause {
        text = format!("{text}: {c}");
        cause = c.source();
    }
    eprintln!("corestub: {}", printable(&text));
    ExitCode::from(1)
}

fn options(input: &Input) -> Options {
    let unpack = Unpack::default();
    Options {
        dump: corestub::dump::Options {
            unpack: Unpack { limit: input.unpack_limit.unwrap_or(unpack.limit), ..unpack },
            raw: input.raw,
        },
        kernel: corestub::linux::Options {
            vmlinux: input.vmlinux.clone(),
            debug_dirs: input.debug_dirs.clone(),
            vmcoreinfo: input.vmcoreinfo.clone(),
            kaslr_offset: input.kaslr_offset,
            phys_base: input.phys_base,
            cr3: input.cr3,
        },
        process: corestub::process::Options {
            sysroot: input.sysroot.clone(),
            debug_dirs: input.debug_dirs.clone(),
            search_dirs: input.search_dirs.clone(),
            given: corestub::process::proof::Given {
                exec: input.exec.clone(),
                libs: input.libs.clone(),
                trust_paths: input.trust_paths,
            },
        },
    }
}

fn run_serve(args: &Serve) -> Result<()> {
    let listener = Listener::bind(&args.endpoint().unwrap_or_else(|e| e.exit()))?;
    if listener.is_remote() {
        warn!(
            "{}: who reaches it reads the dump, without password or encryption",
            listener.local().display()
        );
    }
    let snapshot = Snapshot::open(&args.dumps, options(&args.input))?;
    if !args.no_sandbox {
        let mut needs = snapshot.needs();
        needs.remove_in = listener.made().and_then(Path::parent).map(Path::to_owned);
        sandbox::enter(&needs);
    }
    let shown = if args.qemu_dialect == Some(Dialect::Cpus) { Shown::Cpus } else { Shown::Tasks };
    // It begins to look for files.
    let inferior = snapshot.inferior(shown);
    let end = if args.stdio { End::unsignalled()? } else { End::by_signals()? };
    if !args.stdio {
        // The one line on stdout: whoever started us waits for it.
        let mut out = io::stdout().lock();
        let line = [b"listening on ", listener.local().as_bytes(), b"\n"].concat();
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
    let options = rsp::Options {
        once: args.once,
        no_ack: args.no_ack,
        qemu_dialect: args.qemu_dialect.is_some(),
        max_clients: args.max_clients,
        idle_timeout: Some(args.idle_timeout).filter(|time| !time.is_zero()),
    };
    listener.serve_until(&end, inferior, &options)
}

/// Compares dumps, each opened only while it is looked at.
fn run_compare(args: &Compare) -> ExitCode {
    let open = |dump: &Path| {
        let snapshot = Snapshot::open_partly(&[dump.to_owned()], options(&args.input))?;
        Ok(snapshot.kernel().cloned())
    };
    shown("compare", |context, out| commands::compare(&args.dumps, &open, args.json, context, out))
}

/// Writes the report of a dump.
fn run_report(args: &Report) -> Result<ExitCode> {
    let snapshot = Snapshot::open_partly(&args.dumps, options(&args.input))?;
    let (subject, to) = (snapshot.subject(), args.output.as_deref());
    Ok(shown("report", |context, out| commands::report(subject, args.format, args.redact, to, context, out)))
}

/// Runs a command of the table once.
fn once(command: &Command, given: &ArgMatches) -> ExitCode {
    let OnDump { dump, pieces } = OnDump::from_arg_matches(given).unwrap_or_else(|e| e.exit());
    let input = Input::from_arg_matches(given).unwrap_or_else(|e| e.exit());
    let dumps: Vec<_> = [dump].into_iter().chain(pieces).collect();
    let snapshot = match Snapshot::open_partly(&dumps, options(&input)) {
        Ok(snapshot) => snapshot,
        Err(e) => return cannot_open(&e),
    };
    shown(command.name(), |context, out| commands::run(snapshot.subject(), command, given, context, out))
}

/// What `run` writes, on stdout; what went wrong, on stderr.
fn shown(name: &str, run: impl FnOnce(Context<'_>, &mut dyn Write) -> commands::Result<()>) -> ExitCode {
    let tell = |text: &str| eprintln!("corestub {name}: {text}");
    let context =
        Context { thread: None, task: None, last_fault: None, cancelled: &|| false, progress: Some(&tell) };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = run(context, &mut out);
    let written = out.flush();
    match done.and(written.map_err(CommandError::Output)) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe has seen enough.
        Err(CommandError::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("corestub {name}: {error}");
            ExitCode::from(if matches!(error, CommandError::Usage(_)) { 2 } else { 1 })
        }
    }
}

/// Writes the manual pages; `help` needs none.
fn manual(dir: Option<&Path>) -> Result<()> {
    let program = cli::program().disable_help_subcommand(true);
    let written = match dir {
        Some(dir) => std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(program, dir)),
        None => clap_mangen::Man::new(program).render(&mut io::stdout().lock()),
    };
    written.map_err(|e| Error::io("write manual pages to", dir.unwrap_or(Path::new("stdout")), e))
}

/// What is logged: by `-v`, which a `RUST_LOG` in the environment does not weaken;
/// without it `RUST_LOG` may ask for something else than warnings.
fn init_logging(verbose: u8) {
    let filter = match verbose {
        // What takes minutes and fills the disk says so, and which core a name stands for.
        0 => EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| EnvFilter::new("warn,corestub::bytes::packed=info,corestub::stores=info")),
        1 => EnvFilter::new("info"),
        2 => EnvFilter::new("debug"),
        _ => EnvFilter::new("trace"),
    };
    tracing_subscriber::fmt().with_env_filter(filter).event_format(Plain).with_writer(io::stderr).init();
}

/// A line of the log in the form of an error: `corestub: warning: ...`. No time, no
/// colours, whatever the terminal can do.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let word = match *event.metadata().level() {
            Level::ERROR => "",
            Level::WARN => "warning: ",
            Level::INFO => "info: ",
            Level::DEBUG => "debug: ",
            Level::TRACE => "trace: ",
        };
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        // It may quote the dump.
        writeln!(to, "corestub: {word}{}", printable(&text))
    }
}
