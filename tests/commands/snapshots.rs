//! The text of commands on the sample dumps, which never change.

use crate::support::program::{corestub, output};
use crate::support::{files, not_here};

/// What a command prints, with the dump's folder left out.
fn said(dump: &str, args: &[&str]) -> Option<String> {
    let Some(path) = files(dump).into_iter().next() else {
        not_here(&format!("{dump} is not in the lab's folders"));
        return None;
    };
    let (command, more) = args.split_first().unwrap();
    let text =
        output(corestub().arg(command).args(["--debug-dir", "/nonexistent"]).arg(&path).args(more)).unwrap();
    let folder = format!("{}/", path.parent().unwrap().display());
    // How often a search tells how far it is depends on the machine.
    let told = |l: &&str| !l.ends_with("% searched)\n");
    Some(text.split_inclusive('\n').filter(told).collect::<String>().replace(&folder, ""))
}

macro_rules! snapshots {
    ($($name:ident: $dump:literal, $args:expr;)*) => {
        $(
            #[test]
            fn $name() {
                if let Some(text) = said($dump, &$args) {
                    insta::assert_snapshot!(stringify!($name), text);
                }
            }
        )*
    };
}

snapshots! {
    sys_6_1: "k6.1-oops.kdump", ["sys"];
    sys_6_12: "k6.12-oops.kdump", ["sys"];
    sys_panic: "k6.1-scale.kdump", ["sys"];
    triage_6_1: "k6.1-oops.kdump", ["triage"];
    triage_6_12: "k6.12-oops.kdump", ["triage"];
    triage_panic: "k6.1-scale.kdump", ["triage"];
    triage_full: "k6.12-oops.kdump", ["triage", "--full"];
    bt_active: "k6.12-oops.kdump", ["bt", "-a"];
    bt_full: "k6.1-oops.kdump", ["bt", "-f", "291"];
    bt_summary: "k6.12-oops.kdump", ["bt", "--summary"];
    mod_6_12: "k6.12-oops.kdump", ["mod"];
    log_levels: "k6.1-oops.kdump", ["log", "-T", "-m", "-l", "err"];
    vtop_module: "k6.1-oops.kdump", ["vtop", "labcrash_banner", "linux_banner"];
    rd_words: "k6.1-oops.kdump", ["rd", "-s", "ffffd07800013ca0", "8"];
    rd_slabs: "k6.1-oops.kdump", ["rd", "-S", "ffffd0780061bc20", "16"];
    why_slab: "k6.1-oops.kdump", ["why", "ffff8d4361c50010"];
    task: "k6.1-oops.kdump", ["task", "1"];
    vm: "k6.1-oops.kdump", ["vm", "1"];
    mount: "k6.12-oops.kdump", ["mount"];
    sig: "k6.1-oops.kdump", ["sig", "1"];
    swap: "k6.12-oops.kdump", ["swap"];
    ps_states: "k6.1-oops.kdump", ["ps", "-S"];
    ps_parents: "k6.1-oops.kdump", ["ps", "-p", "288"];
    threads_blocked: "k6.1-oops.kdump", ["threads", "D"];
    search_text: "k6.1-oops.kdump", ["search", "-c", "LAB-MODULE-DATA"];
}
