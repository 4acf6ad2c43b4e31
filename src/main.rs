//! The corestub program: parse, log, run, exit code.
#![allow(clippy::print_stderr, reason = "the one place that speaks to the person")]

use std::error::Error as _;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches};
use corestub::cli::{Cli, Command, Input, Once, Serve};
use corestub::commands::{self, COMMANDS, CommandError, Request};
use corestub::error::Result;
use corestub::rsp::{self, Endpoint, Listener};
use corestub::snapshot::{Options, Snapshot};
use corestub::{gdb, words};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let mut program = Cli::command();
    // clap has a `help` of its own.
    for c in COMMANDS.iter().filter(|c| c.name != "help") {
        let usage = format!("corestub {} [OPTIONS] DUMP... {}", c.name, c.usage);
        let command = Once::augment_args(clap::Command::new(c.name));
        program = program.subcommand(command.about(c.summary).after_help(c.help).override_usage(usage));
    }
    program.build();
    let argv: Vec<OsString> = words::regroup(&program, std::env::args_os().collect());
    let matches = program.get_matches_from(argv);
    init_logging(matches.get_count("verbose"));

    let done = match matches.subcommand() {
        Some((name, sub)) if commands::find(name).is_some() => {
            let done =
                Once::from_arg_matches(sub).map_err(|e| e.exit()).and_then(|once: Once| command(name, &once));
            done.map(|()| ExitCode::SUCCESS)
        }
        _ => Cli::from_arg_matches(&matches).map_err(|e| e.exit()).and_then(|cli: Cli| match cli.command {
            Command::Serve(serve) => run_serve(&serve).map(|()| ExitCode::SUCCESS).map_err(Failure::Open),
            Command::Gdb(args) => gdb::run(&args, options(&args.input)).map_err(Failure::Open),
        }),
    };
    match done {
        Ok(code) => code,
        Err(Failure::Open(error)) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(c) = cause {
                text = format!("{text}: {c}");
                cause = c.source();
            }
            eprintln!("corestub: {text}");
            ExitCode::from(1)
        }
        // The reader of a pipe has seen enough.
        Err(Failure::Command(_, CommandError::Output(e))) if e.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(Failure::Command(name, error)) => {
            eprintln!("corestub {name}: {error}");
            ExitCode::from(1)
        }
    }
}

enum Failure {
    Open(corestub::error::Error),
    Command(String, CommandError),
}

fn options(input: &Input) -> Options {
    Options {
        kernel: corestub::linux::Options {
            vmlinux: input.vmlinux.clone(),
            debug_dirs: input.debug_dirs.clone(),
            vmcoreinfo: input.vmcoreinfo.clone(),
            kaslr_offset: input.kaslr_offset,
            phys_base: input.phys_base,
        },
        process: corestub::process::Options {
            sysroot: input.sysroot.clone(),
            debug_dirs: input.debug_dirs.clone(),
        },
    }
}

fn run_serve(args: &Serve) -> Result<()> {
    let endpoint = match &args.unix {
        Some(path) => Endpoint::Unix(path.clone()),
        None if args.stdio => Endpoint::Stdio,
        None => Endpoint::Tcp(args.listen),
    };
    let listener = Listener::bind(&endpoint)?;
    let inferior = Snapshot::open(&args.dumps, options(&args.input))?.inferior();
    if !args.stdio {
        // The one line on stdout: whoever started us waits for it.
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "listening on {}", listener.local()).and_then(|()| out.flush());
    }
    let options = rsp::Options { once: args.once, no_ack: args.no_ack, qemu_dialect: args.qemu_dialect };
    listener.serve(inferior, &options)
}

fn command(name: &str, once: &Once) -> Result<(), Failure> {
    let (dumps, args) = words::dumps_and_arguments(&once.words);
    let failed = |e| Failure::Command(name.to_owned(), e);
    if dumps.is_empty() {
        return Err(failed(CommandError::Failed(format!("which dump? try: corestub {name} DUMP"))));
    }
    let snapshot = Snapshot::open(&dumps, options(&once.input)).map_err(Failure::Open)?;
    let request = Request {
        args: &args,
        json: once.json,
        thread: None,
        task: None,
        last_fault: None,
        cancelled: &|| false,
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    commands::run(snapshot.subject(), name, &request, &mut out)
        .and_then(|()| out.flush().map_err(CommandError::Output))
        .map_err(failed)
}

fn init_logging(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(io::stderr).init();
}
