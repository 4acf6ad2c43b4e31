//! Tells the program which commit it is built from, for `--version`.

use std::process::Command;

/// What git says, if there is a git and this is its checkout.
fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).output().ok().filter(|out| out.status.success())?;
    String::from_utf8(out.stdout).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// What cargo wrote into a published crate. Whose checkout that is unpacked in says nothing.
fn published() -> Option<String> {
    let record = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, sha1) = record.split_once("\"sha1\"")?;
    sha1.split('"').nth(1)?.get(..12).map(str::to_owned)
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if let Some(commit) = published() {
        println!("cargo::rustc-env=CORESTUB_COMMIT={commit}");
        return;
    }
    // A debug build would be made anew for each commit.
    let release = std::env::var("PROFILE").as_deref() == Ok("release");
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|_| release) {
        println!("cargo::rerun-if-changed={log}");
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).filter(|_| release);
    println!("cargo::rustc-env=CORESTUB_COMMIT={}", commit.as_deref().unwrap_or("not recorded"));
}
