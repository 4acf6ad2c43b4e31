//! Editors on a vmcore: gdb's own Debug Adapter Protocol, as nvim-dap and VS Code speak it,
//! and cgdb, Emacs and Neovim in a terminal.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::fixtures::fixture;
use crate::support::program::{Server, have, patient, remote_timeout};
use crate::support::terminal::Terminal;
use crate::support::{self, PATIENCE, not_here};

/// A dump in which labcrash's functions are on the stack.
fn dump() -> PathBuf {
    support::files("z31.kdump").into_iter().next().unwrap_or_else(|| fixture("k6.1-zstd.kdump"))
}

/// The gdbs that speak DAP: 14 and later.
fn gdbs() -> Vec<PathBuf> {
    let mut all = vec![PathBuf::from("gdb"), support::frontends().join("venv/bin/gdb")];
    all.retain(|gdb| {
        let said = Command::new(gdb).arg("--version").stdin(Stdio::null()).output();
        let said = said.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
        let version = said.lines().next().and_then(|l| l.rsplit(' ').next()?.split('.').next()?.parse().ok());
        version.is_some_and(|version: u32| version >= 14)
    });
    if all.is_empty() {
        not_here("no gdb that speaks DAP (14 and later; scripts/lab/frontends has one)");
    }
    all
}

#[test]
fn gdbs_own_dap() {
    let server = Server::start(&dump(), &[]).unwrap();
    for gdb in gdbs() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/gdb_dap.py");
        let mut dap = patient("python3");
        dap.arg(script).arg(&gdb).args([&server.address, "init_task.comm", &PATIENCE.as_secs().to_string()]);
        let out = dap.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        let seen: Value = serde_json::from_str(text.trim())
            .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&out.stderr)));
        let names: Vec<&str> =
            seen["threads"].as_array().unwrap().iter().filter_map(|t| t["name"].as_str()).collect();
        assert!(names.len() > 50 && names.contains(&"kthreadd"), "{names:?}");
        let frames = seen["stack"].to_string();
        for wanted in ["labcrash_level3", "labcrash_level1", "vfs_write"] {
            assert!(frames.contains(wanted), "no {wanted} in {frames}");
        }
        assert_eq!(seen["stack"][0]["instructionPointerReference"], seen["code"][0]["address"]);
        assert!(seen["registers"]["rip"].as_str().unwrap().contains("labcrash_level3"), "{seen}");
        assert!(seen["value"].as_str().unwrap().contains("swapper/0"), "{seen}");
        assert!(seen["memory"]["data"].as_str().unwrap().len() >= 16, "{seen}");
        assert!(seen["repl"].to_string().contains("RELEASE"), "{seen}");
        // Nothing runs: it is said, and all is still there.
        assert!(seen["console"].as_str().unwrap().contains("post-mortem dump"), "{seen}");
        assert_eq!(seen["after"]["result"], seen["value"], "{seen}");
        assert!(seen["stackAfter"].to_string().contains("labcrash_level3"), "{seen}");
    }
}

/// A terminal front end over `gdb`, to which `gdb_starts` brings it.
fn drive(command: &str, gdb_starts: impl Fn(&Terminal), code: Option<&str>) {
    let server = Server::start(&dump(), &[]).unwrap();
    let home = tempfile::tempdir().unwrap();
    let terminal = Terminal::start(100, 40, &format!("HOME={} {command}", home.path().display()));
    terminal.shown("(gdb)");
    gdb_starts(&terminal);
    for line in ["set pagination off", "set debuginfod enabled off", &remote_timeout()] {
        terminal.line(line);
    }
    terminal.line(&format!("target remote {}", server.address));
    terminal.shown("in labcrash_level3 ()");
    terminal.line("bt 3");
    terminal.shown("in labcrash_level1 ()");
    if let Some(code) = code {
        terminal.shown(code);
    }
    terminal.line("stepi");
    terminal.shown("post-mortem dump");
    terminal.line("printf \"%s is alive\\n\", init_task.comm");
    terminal.shown("swapper/0 is alive");
}

#[test]
fn cgdb() {
    if have(Path::new("tmux")) && have(Path::new("cgdb")) {
        // Its upper window has the code of the selected frame.
        drive("cgdb -- -nx -q", |_| (), Some("Dump of assembler code for function labcrash_level3:"));
    }
}

#[test]
fn emacs() {
    if have(Path::new("tmux")) && have(Path::new("emacs")) {
        // GUD over MI, which is what `M-x gdb` starts; from 29 on Emacs asks about debuginfod,
        // and with a newer gdb insists on non-stop.
        let quiet = "(setq gdb-debuginfod-enable-setting nil gdb-non-stop-setting nil)";
        drive(&format!("emacs -nw -Q --eval '{quiet}' --eval '(gdb \"gdb -i=mi -nx -q\")'"), |_| (), None);
    }
}

#[test]
fn neovim() {
    if have(Path::new("tmux")) && have(Path::new("nvim")) {
        // Termdebug's gdb is a terminal within, in which keys go to gdb after `i`.
        let termdebug = "nvim -u NONE --cmd \"let g:termdebugger='gdb'\" -c 'packadd termdebug' -c Termdebug";
        let enter = |terminal: &Terminal| {
            terminal.shown("New UI allocated");
            terminal.keys(&["i"]);
            terminal.shown("TERMINAL");
        };
        drive(termdebug, enter, None);
    }
}
