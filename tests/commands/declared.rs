//! The one declaration of each command: what is typed wrong is refused, and help,
//! completions, manual pages and the table in the docs show what there is.

use std::path::Path;
use std::process::{Command, Output};

use clap::Arg;
use corestub::commands::COMMANDS;

use crate::process::some_core;
use crate::support::client::Client;
use crate::support::program::{Server, corestub, output};

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// The names that a shell knows.
fn names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().map(|c| c.name()).filter(|n| *n != "help")
}

/// No command takes an option that it has not declared, not even one of the shell's.
#[test]
fn unknown_options_are_wrong_usage() {
    for name in names() {
        for option in ["-Z", "-V", "--nonsense"] {
            let (code, out, err) = run(corestub().args([name, option, "nowhere", "0"]));
            assert_eq!((code, out.as_str()), (Some(2), ""), "{name} {option}");
            assert!(err.starts_with("error: unexpected argument"), "{name} {option}: {err}");
        }
    }
}

#[test]
fn extra_words_are_wrong_usage() {
    for name in ["sys", "log", "runq", "triage", "maps"] {
        let (code, _, err) = run(corestub().args([name, "nowhere", "junk"]));
        assert_eq!(code, Some(2), "{name}");
        assert!(err.contains("unexpected argument 'junk'"), "{name}: {err}");
    }
    for args in [&["rd", "nowhere", "0", "1", "junk"][..], &["verify", "nowhere", "a", "junk"], &["ps"]] {
        assert_eq!(run(corestub().args(args)).0, Some(2), "{args:?}");
    }
}

/// Who types a dump alone learns what to put before it.
#[test]
fn a_file_in_the_place_of_a_command() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("vmcore");
    std::fs::write(&dump, "x").unwrap();
    let (code, _, err) = run(corestub().arg(&dump));
    assert_eq!(code, Some(2));
    assert!(err.contains(&format!("corestub triage {}", dump.display())), "{err}");
    let (code, _, err) = run(corestub().arg(dir.path().join("none")));
    assert_eq!(code, Some(2));
    assert!(!err.contains("triage"), "{err}");
}

#[test]
fn what_a_command_needs_is_asked_for() {
    for (args, wanted) in [
        (&["vtop", "nowhere"][..], "<ADDRESS|SYMBOL>"),
        (&["search", "nowhere", "-c"], "<VALUE|SYMBOL|TEXT>"),
        (&["rd", "nowhere"], "<ADDRESS|SYMBOL>"),
        (&["log", "nowhere", "-l", "loud"], "a level is 0-7"),
        (&["rd", "nowhere", "0", "many"], "many is not a number"),
        (&["rd", "nowhere", "0", "-p", "-u"], "cannot be used with"),
        (&["ps", "nowhere", "-S", "-p"], "cannot be used with"),
    ] {
        let (code, _, err) = run(corestub().args(args));
        assert_eq!(code, Some(2), "{args:?}");
        assert!(err.contains(wanted), "{args:?}: {err}");
    }
}

/// `-h` is a command's own where it has one: 16 bits for crash's `search`.
#[test]
fn search_has_its_own_h() {
    let (code, _, err) = run(corestub().args(["search", "nowhere", "-h", "0xdead"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("cannot open nowhere"), "{err}");
    assert!(output(corestub().args(["search", "--help"])).unwrap().contains("Values of 16 bits"));
}

#[test]
fn the_version_says_what_a_report_needs() {
    let long = output(corestub().arg("--version")).unwrap();
    for part in [env!("CARGO_PKG_VERSION"), "(commit ", "kdump-compressed", "cores: ", "kernels seen: "] {
        assert!(long.contains(part), "{part}: {long}");
    }
    let short = output(corestub().arg("-V")).unwrap();
    assert_eq!(short, format!("corestub {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn helpers_commands_are_in_no_list() {
    for args in [&["--help"][..], &["completions", "bash"], &["man"]] {
        let text = output(corestub().args(args)).unwrap();
        assert!(text.contains("triage"), "{args:?}");
        for hidden in ["orc-switch-rows", "orc__switch"] {
            // Completions are for those who type the rest of a name that they know.
            assert!(args[0] == "completions" || !text.contains(hidden), "{args:?}");
        }
    }
}

#[test]
fn every_command_and_option_is_completed() {
    for shell in ["bash", "zsh", "fish"] {
        let text = output(corestub().args(["completions", shell])).unwrap();
        for name in names() {
            assert!(text.contains(name), "{shell}: {name}");
        }
        for option in ["summary", "vmlinux", "debug-dir"] {
            assert!(text.contains(option), "{shell}: {option}");
        }
    }
    assert_eq!(run(corestub().args(["completions", "nonesuch"])).0, Some(2));
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    output(corestub().arg("man").arg(dir.path().join("man1"))).unwrap();
    let page = |name: &str| std::fs::read_to_string(dir.path().join("man1").join(name)).unwrap();
    for name in names().filter(|n| !n.starts_with("orc-")) {
        assert!(page("corestub.1").contains(&format!("corestub\\-{name}(1)")), "{name}");
        assert!(page(&format!("corestub-{name}.1")).contains(".SH OPTIONS"), "{name}");
    }
    assert!(page("corestub-bt.1").contains("identical stacks once"));
    assert!(!dir.path().join("man1/corestub-help-bt.1").exists());
    assert!(page("corestub-serve.1").contains("qemu"));
}

/// In `monitor`, where nobody wraps lines: two columns, 80 wide, no colours.
#[test]
fn help_in_monitor_stays_in_its_columns() {
    let Some(core) = some_core() else { return };
    let server = Server::start(&core, &[]).unwrap();
    let mut gdb = Client::connect(&server.address);
    let list = gdb.monitor("help");
    assert_eq!(gdb.monitor(""), list);
    let rows: Vec<&str> = list.lines().take_while(|l| !l.is_empty()).collect();
    assert!(rows.len() > 5, "{list}");
    // Names stand two to the right, and all summaries one below the other.
    let summary = rows[0].find("list the commands").unwrap();
    for row in &rows {
        let (name, text) = row.split_at(summary);
        assert!(name.starts_with("  ") && name.ends_with("  ") && !text.starts_with(' '), "{list}");
        assert!(row.chars().count() <= 80, "{list}");
    }
    assert!(!list.contains("orc-switch-rows") && !list.contains("vtop"), "{list}");
    for command in COMMANDS.iter() {
        let help = gdb.monitor(&format!("help {}", command.name()));
        assert_eq!(gdb.monitor(&format!("{} --help", command.name())), help);
        assert!(help.replace('\n', " ").starts_with(command.summary()), "{help}");
        assert!(help.contains("--json") && !help.contains('\x1b'), "{help}");
        let wide = help.lines().find(|l| l.chars().count() > 80);
        assert_eq!(wide, None, "{}", command.name());
    }
    // What has no meaning for a process is not offered for one.
    assert!(!gdb.monitor("help bt").contains("--summary"));
    let value: serde_json::Value = serde_json::from_str(&gdb.monitor("help --json")).unwrap();
    assert_eq!(value[0]["name"], "help");
}

#[test]
fn monitor_refuses_as_a_shell_does() {
    let Some(core) = some_core() else { return };
    let server = Server::start(&core, &[]).unwrap();
    let mut gdb = Client::connect(&server.address);
    for (line, wanted) in [
        ("ps -z", "ps: unexpected argument '-z' found\n"),
        ("maps junk", "maps: unexpected argument 'junk' found\n"),
        ("bt --summary", "bt: --summary is for vmcores only; this is a process core\n"),
        ("ps -k", "ps: -k is for vmcores only; this is a process core\n"),
        ("log", "log: for vmcores only; this is a process core\n"),
        ("nonesuch", "nonesuch: no command nonesuch; `help` lists them\n"),
        ("bt 'x", "a quote is missing in: bt 'x\n"),
        ("why", "why: no read has failed in this session; why ADDRESS asks for one\n"),
    ] {
        let said = gdb.monitor(line);
        assert!(said.starts_with(wanted), "{line}: {said}");
    }
    assert_eq!(gdb.monitor("'ps'"), gdb.monitor("ps"));
}

/// The table in docs/commands.md is what the declarations say.
#[test]
fn the_docs_list_every_command() {
    let mut table = "| command | | options |\n|---|---|---|\n".to_owned();
    for command in COMMANDS.iter().filter(|c| !c.is_hidden()) {
        let declared = command.declare(clap::Command::new(command.name()));
        let option = |a: &Arg| match (a.get_short(), a.get_long()) {
            (Some(short), _) => format!("`-{short}`"),
            (_, long) => format!("`--{}`", long.unwrap_or_default()),
        };
        let common = ["json", "help"];
        let shown =
            |a: &&Arg| !a.is_positional() && !a.is_hide_set() && !common.contains(&a.get_id().as_str());
        let options: Vec<String> = declared.get_arguments().filter(shown).map(option).collect();
        let (name, summary) = (command.name(), command.summary());
        table.push_str(&format!("| `{name}` | {summary} | {} |\n", options.join(" ")));
    }
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/commands.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    assert!(docs.contains(&table), "docs/commands.md is to have this table:\n\n{table}");
}
