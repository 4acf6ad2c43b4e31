//! gdb's side where it is installed: `corestub gdbinit`, and helpers that are found
//! from wherever gdbinit is sourced. The packages themselves: `scripts/package check`.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::fixtures::fixture;
use crate::support::program::{corestub, have_gdb, output, patient};
use crate::support::{not_here, skip};

/// The program in `PREFIX/bin`, as a package lays it; `PREFIX` goes with the value.
struct Prefix(TempDir);

impl Prefix {
    fn new() -> Self {
        let prefix = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::create_dir(prefix.path().join("bin")).unwrap();
        let program = prefix.path().join("bin/corestub");
        fs::hard_link(corestub().get_program(), program).unwrap();
        Self(prefix)
    }

    fn corestub(&self) -> Command {
        Command::new(self.0.path().join("bin/corestub"))
    }

    fn share(&self) -> PathBuf {
        self.0.path().join("share/corestub")
    }

    /// Lays gdb's side, which says so when gdb reads it.
    fn install(&self) -> PathBuf {
        let said = output(self.corestub().arg("gdbinit").arg(self.share())).unwrap();
        let gdbinit = self.share().join("gdbinit");
        assert_eq!(Path::new(said.trim_end()), gdbinit);
        let text = fs::read_to_string(&gdbinit).unwrap();
        fs::write(&gdbinit, format!("{text}echo the installed one\\n\n")).unwrap();
        gdbinit
    }

    fn gdb(&self) -> String {
        let mut gdb = patient(self.corestub().get_program());
        let dump = fixture("k6.12-zlib.kdump");
        output(gdb.arg("gdb").arg(dump).args(["--", "-nx", "-batch", "-ex", "help user-bt"])).unwrap()
    }
}

#[test]
fn gdbinit_is_named_where_a_package_installed_it() {
    let prefix = Prefix::new();
    let refused = output(prefix.corestub().arg("gdbinit")).unwrap_err();
    assert!(refused.contains("corestub gdbinit DIR"), "{refused}");
    let gdbinit = prefix.install();
    assert_eq!(output(prefix.corestub().arg("gdbinit")).unwrap(), format!("{}\n", gdbinit.display()));
}

#[test]
fn corestub_gdb_takes_the_installed_helpers_and_else_its_own() {
    if !have_gdb() {
        return skip("gdb is missing");
    }
    let prefix = Prefix::new();
    for installed in [false, true] {
        if installed {
            prefix.install();
        }
        let text = prefix.gdb();
        assert!(text.contains("user-bt [PID]"), "{text}");
        assert_eq!(text.contains("the installed one"), installed, "{text}");
    }
}

/// Else whoever may write to /tmp could lay a /tmp/share beside somebody's /tmp/bin.
#[test]
fn what_another_user_laid_beside_the_program_is_not_run() {
    let prefix = Prefix::new();
    let gdbinit = prefix.install();
    for theirs in [&gdbinit, gdbinit.parent().unwrap()] {
        if chown(theirs, Some(12345), None).is_err() {
            return not_here("only root can give a file away");
        }
        assert!(output(prefix.corestub().arg("gdbinit")).is_err(), "{}", theirs.display());
        chown(theirs, Some(0), None).unwrap();
    }
    output(prefix.corestub().arg("gdbinit")).unwrap();
}

#[test]
fn gdbinit_finds_its_helpers_from_anywhere_and_runs_no_others() {
    if !have_gdb() {
        return skip("gdb is missing");
    }
    let prefix = Prefix::new();
    let gdbinit = prefix.install();
    let elsewhere = TempDir::new().unwrap();
    // in a dump's folder anybody may have laid something
    let trap = elsewhere.path().join("scripts/gdb/corestub");
    fs::create_dir_all(&trap).unwrap();
    fs::write(trap.join("__init__.py"), "print('the trap')\ndef load(): pass\n").unwrap();
    let link = elsewhere.path().join("corestub.gdb");
    symlink(&gdbinit, &link).unwrap();
    let sourced = |file: &Path| {
        let mut gdb = patient("gdb");
        gdb.current_dir(elsewhere.path()).env_remove("CORESTUB_GDB").args(["-nx", "-batch", "-ex"]);
        gdb.arg(format!("source {}", file.display())).args(["-ex", "help user-bt"]);
        output(&mut gdb).unwrap_or_else(|said| said)
    };
    let alone = elsewhere.path().join("apart/gdbinit");
    fs::create_dir(alone.parent().unwrap()).unwrap();
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("gdbinit"), &alone).unwrap();
    for file in [&gdbinit, &link, &alone] {
        let text = sourced(file);
        assert!(!text.contains("the trap"), "{text}");
        let found = text.contains("the installed one") && text.contains("user-bt [PID]");
        assert!(found || file == &alone, "{text}");
    }
}
