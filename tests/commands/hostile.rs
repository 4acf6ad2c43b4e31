//! Names that talk to the terminal, or play at rows: a task's in a vmcore, a
//! process's in its core. No command shows them as they are.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::shell::vmcore;
use crate::process::some_core;
use crate::support::dumps::number;
use crate::support::kdump::Kdump;
use crate::support::program::{corestub, output};

/// A colour, a row of its own, a title for the window, DEL, a C1: what fits into a name.
const NAME: &[u8; 16] = b"\x1b[1m\n> 1\x1b]\x7f\xc2\x9b\0\0\0";

fn said(args: &[&str]) -> String {
    // A failure is of no interest here; what it says is.
    let out = corestub().args(args).args(["--debug-dir", "/nonexistent"]).output().unwrap();
    String::from_utf8([out.stdout, out.stderr].concat()).unwrap()
}

fn assert_printable(args: &[&str], text: &str) {
    let bad = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
    assert_eq!(bad, None, "{args:?}: {text:?}");
}

/// A copy of a vmcore in which init has that name.
fn patched(dump: &Path, to: &Path) -> Option<()> {
    let said = |args: &[&str]| output(corestub().args(args).arg(dump).args(["--json"])).unwrap();
    let tasks: Vec<Value> = serde_json::from_str(&said(&["ps"])).unwrap();
    let init = tasks.iter().find(|t| t["pid"] == 1).unwrap();
    let walk = output(corestub().args(["vtop", "--json"]).arg(dump).arg(init["task"].as_str()?)).unwrap();
    let phys = number(serde_json::from_str::<Value>(&walk).unwrap()[0]["physical"].as_str()?);
    let mut name = [0; 16];
    name[..4].copy_from_slice(b"init");
    let mut file = Kdump::open(dump);
    for at in (phys & !0xfff..phys + 0x3000).step_by(0x1000) {
        let Some(mut page) = file.page(at) else { continue };
        let Some(found) = page.windows(16).position(|w| w == name) else { continue };
        page[found..found + 16].copy_from_slice(NAME);
        file.replace(at, &page);
        file.write(to);
        return Some(());
    }
    None
}

#[test]
fn no_command_shows_a_tasks_name_as_it_is() {
    let Some(dump) = vmcore() else { return };
    let dir = tempfile::tempdir().unwrap();
    let hostile = dir.path().join("hostile.kdump");
    patched(&dump, &hostile).expect("init's name is found");
    let hostile = hostile.to_str().unwrap();

    let of_init = |args: &[&str]| said(&[&args[..1], &[hostile], &args[1..]].concat());
    for args in [
        &["ps"][..],
        &["ps", "-p"],
        &["ps", "-a"],
        &["bt", "1"],
        &["bt", "--summary"],
        &["task", "1"],
        &["threads"],
        &["runq"],
        &["sys"],
        &["triage"],
        &["files", "1"],
        &["vm", "1"],
        &["mount"],
        &["swap"],
        &["sig", "1"],
        &["irq"],
        &["dev", "-d"],
        &["timer", "-r"],
        &["net"],
        &["net", "-s", "-a"],
        &["ipcs", "-M"],
        &["walk", "module.list", "-H", "modules", "-s", "module.name"],
        &["tree", "-t", "xarray", "init_pid_ns", "-p"],
        // A message that quotes what was typed.
        &["ps", "\x1b[31m\n\u{9b}"],
    ] {
        let text = of_init(args);
        assert_printable(args, &text);
        // The row stays one.
        assert!(!text.lines().any(|l| l.starts_with("> 1.")), "{args:?}: {text}");
        let args = [args, &["--json"]].concat();
        let text = of_init(&args);
        assert_printable(&args, &text);
    }
    for form in ["html", "markdown", "json"] {
        let args = ["report", "--format", form];
        assert_printable(&args, &of_init(&args));
    }
    assert!(of_init(&["ps", "1"]).contains(".[1m.> 1.].."));
    let rows: Value = serde_json::from_str(&of_init(&["ps", "-p", "1", "--json"])).unwrap();
    let name = rows[0]["comm"].as_str().unwrap();
    assert!(name == "\x1b[1m\n> 1\x1b]\x7f\u{9b}", "{name:?}");
}

/// A copy of a core whose process has another name.
fn renamed(core: &Path, to: &Path) -> PathBuf {
    let mut raw = std::fs::read(core).unwrap();
    // NT_PRPSINFO: five bytes of name, 136 of `struct elf_prpsinfo`.
    let note = [5, 0, 0, 0, 136, 0, 0, 0, 3, 0, 0, 0];
    let at = raw.windows(12).position(|w| w == note).unwrap() + 20;
    raw[at + 40..at + 56].copy_from_slice(NAME);
    std::fs::write(to, raw).unwrap();
    to.to_owned()
}

#[test]
fn no_command_shows_a_threads_name_as_it_is() {
    let Some(core) = some_core() else { return };
    let dir = tempfile::tempdir().unwrap();
    let core = renamed(&core, &dir.path().join("core"));
    let core = core.to_str().unwrap();
    for args in [["ps", core], ["bt", core], ["sys", core], ["maps", core], ["verify", core]] {
        let text = said(&args);
        assert_printable(&args, &text);
        assert!(!text.lines().any(|l| l.starts_with("> 1")), "{args:?}: {text}");
        let args = [args[0], args[1], "--json"];
        assert_printable(&args, &said(&args));
    }
    let rows: Value = serde_json::from_str(&said(&["ps", core, "--json"])).unwrap();
    assert!(rows[0]["comm"].as_str().unwrap().starts_with("\x1b[1m\n> 1"), "{rows}");
}
