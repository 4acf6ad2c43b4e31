//! The kernel's own gdb scripts (`scripts/gdb` of the matching source) on a dump,
//! against what the guest itself said before it died.
//!
//! With vmlinux, and with nothing but the dump. `scripts/lab/lx-scripts` puts them into `~/.cache/corestub/lx/KVER`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::support::dumps::{self, Oracle, number};
use crate::support::program::patient;
use crate::support::{self, cache, skip};

/// Commands that give an answer on every dump with DWARF.
const WORKING: [&str; 15] = [
    "lx-version",
    "lx-cmdline",
    "lx-cpus",
    "lx-dmesg",
    "lx-ps",
    "lx-lsmod",
    "lx-mounts",
    "lx-iomem",
    "lx-ioports",
    "lx-device-list-bus",
    "lx-device-list-class",
    "lx-list-check modules",
    "output $lx_current().comm",
    "output $lx_task_by_pid(1).pid",
    "output $lx_module(\"labcrash\").name",
];

/// And the reason why these do not: part of what must be seen.
const REFUSED: [(&str, &str); 4] = [
    ("lx-clk-summary", "No clocks registered"),
    ("lx-genpd-summary", "No power domain"),
    ("lx-configdump /dev/null", "CONFIG_IKCONFIG"),
    ("lx-fdtdump", "CONFIG_OF"),
];

struct Guest {
    release: String,
    dump: PathBuf,
    vmlinux: PathBuf,
    scripts: PathBuf,
}

impl Guest {
    fn oracle(&self, name: &str) -> String {
        String::from_utf8_lossy(
            &std::fs::read(self.dump.with_file_name("oracle").join(name)).unwrap_or_default(),
        )
        .into_owned()
    }
}

fn guests() -> Vec<Guest> {
    let mut found: Vec<Guest> = Vec::new();
    for dump in support::files("z31.kdump") {
        let Some(kernel) = dump.ancestors().nth(2) else { continue };
        let (Some(release), Some(lab)) = (kernel.file_name().and_then(|n| n.to_str()), kernel.parent())
        else {
            continue;
        };
        let guest = Guest {
            release: release.to_owned(),
            vmlinux: lab.join(format!("root-{release}/usr/lib/debug/boot/vmlinux-{release}")),
            scripts: cache("lx").join(release),
            dump: dump.clone(),
        };
        let complete =
            guest.vmlinux.exists() && guest.scripts.join("scripts/gdb/linux/constants.py").exists();
        if complete
            && guest.dump.with_file_name("oracle").is_dir()
            && !found.iter().any(|g| g.release == release)
        {
            found.push(guest);
        }
    }
    if found.is_empty() {
        skip("no dump with its vmlinux and the kernel's scripts (scripts/lab/lx-scripts)");
    }
    found
}

fn run(guest: &Guest, vmlinux: Option<&Path>, commands: &[String]) -> Value {
    let support = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/lx.py");
    // 5.10's finds the others by the path that it is sourced by.
    let source = format!("source {}", guest.scripts.join("vmlinux-gdb.py").display());
    let mut program = patient(env!("CARGO_BIN_EXE_corestub"));
    program.arg("gdb");
    if let Some(vmlinux) = vmlinux {
        program.arg("--vmlinux").arg(vmlinux);
    }
    let output = program
        .arg(&guest.dump)
        .args(["--", "-nx", "-batch", "-ex", "set debuginfod enabled off", "-ex", &source, "-x"])
        .arg(support)
        .env("LX_COMMANDS", commands.join("\n"))
        // An index made for another file of the same build-id is fatal to gdb 13.
        .env("XDG_CACHE_HOME", guest.scripts.join("cache"))
        .current_dir(&guest.scripts)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|l| l.strip_prefix("LX "));
    let line = line.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str(line).unwrap()
}

#[test]
fn kernel_scripts_agree_with_the_guest() {
    for guest in guests() {
        agrees(&guest, Some(&guest.vmlinux));
    }
}

/// No vmlinux, no debug info: types and globals out of the dump.
#[test]
fn kernel_scripts_agree_with_the_guest_on_the_bare_dump() {
    for guest in guests() {
        agrees(&guest, None);
    }
}

/// Kernels of other Debians, whose scripts `scripts/lab/lx-scripts -s SUITE` fetches (nothing
/// else does), with -v their vmlinux, too: against drgn, as their guests are gone.
#[test]
fn kernel_scripts_agree_with_drgn_on_other_kernels() {
    for dump in dumps::all() {
        let name = dump.name();
        if !name.starts_with("k5.10-oops") && !name.starts_with("k7.3-oops") {
            continue;
        }
        let oracle = dump.oracle();
        let release = oracle.uname["release"].clone();
        let scripts = cache("lx").join(&release);
        if !scripts.join("scripts/gdb/linux/constants.py").exists() {
            continue;
        }
        let vmlinux = scripts.join("vmlinux");
        let guest = Guest { release, dump: dump.path.clone(), vmlinux, scripts };
        agrees_with_drgn(&guest, None, &oracle);
        if guest.vmlinux.exists() {
            agrees_with_drgn(&guest, Some(&guest.vmlinux), &oracle);
        }
    }
}

fn agrees_with_drgn(guest: &Guest, vmlinux: Option<&Path>, oracle: &Oracle) {
    let release = &guest.release;
    let mut commands: Vec<String> = WORKING.iter().map(|&c| c.to_owned()).collect();
    if release.starts_with("7.3.") {
        commands.extend(["lx-interruptlist", "lx-slabinfo", "lx-vmallocinfo"].map(str::to_owned));
    }
    commands.push("output *'printk.c'::prb".to_owned());
    let seen = run(guest, vmlinux, &commands);
    for command in &commands {
        let (ok, text) = (&seen[command]["ok"], seen[command]["text"].as_str().unwrap_or_default());
        assert!(*ok == true && !text.is_empty(), "{release} {command}: {text}");
    }
    let addresses = |command: &str| -> BTreeSet<u64> {
        let rows = seen[command]["text"].as_str().unwrap_or_default().lines().skip(1);
        rows.filter_map(|l| l.split_whitespace().next()).map(number).collect()
    };
    // The script starts at init_task and knows no other idle task.
    let tasks = oracle.tasks.iter().filter(|t| !t.idle || t.cpu == Some(0));
    let tasks: BTreeSet<u64> = tasks.map(|t| number(&t.task)).collect();
    assert_eq!(addresses("lx-ps"), tasks, "{release}");
    let modules: BTreeSet<u64> = oracle.modules.iter().map(|m| number(&m.base)).collect();
    assert_eq!(addresses("lx-lsmod"), modules, "{release}");
}

fn agrees(guest: &Guest, vmlinux: Option<&Path>) {
    let mut commands: Vec<String> = WORKING.iter().map(|&c| c.to_owned()).collect();
    commands.extend(REFUSED.iter().map(|(c, _)| (*c).to_owned()));
    // Its argument is a name up to some release, a variable after.
    commands.push("output $lx_per_cpu(\"runqueues\", 1).cpu".to_owned());
    commands.push("output $lx_per_cpu(runqueues, 1).cpu".to_owned());
    commands.push("lx-timerlist".to_owned());
    // At the end: it drops all symbols and loads them again.
    commands.extend(["lx-symbols", "bt", "lx-version", "lx-lsmod"].map(str::to_owned));
    let seen = run(guest, vmlinux, &commands);
    let text = |c: &str| {
        assert!(seen[c]["ok"].as_bool().unwrap_or(false), "{} {c}: {}", guest.release, seen[c]["text"]);
        seen[c]["text"].as_str().unwrap_or_default()
    };
    WORKING.iter().for_each(|c| assert!(!text(c).is_empty(), "{c} says nothing"));
    for (command, why) in REFUSED {
        assert!(
            seen[command]["text"].as_str().unwrap_or_default().contains(why),
            "{command}: {}",
            seen[command]
        );
    }
    let release = guest.release.as_str();
    assert!(text("lx-version").starts_with(&format!("Linux version {release} ")), "{release}");
    assert_eq!(text("lx-cmdline").trim(), guest.oracle("cmdline").trim());

    let cpus = guest.oracle("cpuinfo").lines().filter(|l| l.starts_with("processor")).count();
    let online: Vec<String> = (0..cpus).map(|n| n.to_string()).collect();
    assert!(
        text("lx-cpus").contains(&format!("Online CPUs   : [{}]", online.join(", "))),
        "{}",
        text("lx-cpus")
    );

    // The log of the dump goes on after the guest's own copy.
    // The script rounds microseconds where the kernel cuts them: texts are compared.
    let said = |l: &str| l.split_once("] ").map_or(l, |(_, text)| text).trim_end().to_owned();
    let log: BTreeSet<String> = text("lx-dmesg").lines().map(said).collect();
    let oracle = guest.oracle("dmesg");
    let lost: Vec<&str> = oracle.lines().filter(|l| !log.contains(&said(l))).collect();
    assert!(oracle.lines().count() > 200, "{release}");
    assert!(
        lost.is_empty(),
        "{release}: {} lines of dmesg are missing, first {:?}",
        lost.len(),
        lost.first()
    );
    assert!(text("lx-dmesg").contains("Kernel panic") || text("lx-dmesg").contains("BUG: "), "{release}");

    let modules = |t: &str, name: usize, size: usize, at: usize| -> BTreeSet<(String, String, u64)> {
        let row = |l: &str| {
            let words: Vec<&str> = l.split_whitespace().collect();
            let at = u64::from_str_radix(words.get(at)?.strip_prefix("0x")?, 16).ok()?;
            Some(((*words.get(name)?).to_owned(), (*words.get(size)?).to_owned(), at))
        };
        t.lines().filter_map(row).collect()
    };
    let found = modules(text("lx-lsmod"), 1, 2, 0);
    let said = modules(&guest.oracle("modules"), 0, 1, 5);
    assert!(said.len() > 5, "{release}");
    assert_eq!(
        found.iter().map(|m| (&m.0, m.2)).collect::<BTreeSet<_>>(),
        said.iter().map(|m| (&m.0, m.2)).collect::<BTreeSet<_>>(),
        "{release}"
    );
    // 6.12's script shows the size of the text alone.
    if release.starts_with("6.1.") {
        assert_eq!(found, said, "{release}");
    }

    let iomem =
        |t: &str| t.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect::<Vec<_>>();
    assert_eq!(iomem(text("lx-iomem")), iomem(&guest.oracle("iomem")), "{release}");

    let pids = |t: &str, column: usize| -> BTreeSet<u32> {
        t.lines().filter_map(|l| l.split_whitespace().nth(column)?.parse().ok()).collect()
    };
    let (found, said) = (pids(text("lx-ps"), 1), pids(&guest.oracle("ps"), 0));
    // `ps` itself and the shell's children are gone by then.
    let gone: Vec<_> = said.difference(&found).collect();
    assert!(said.len() > 50 && gone.len() <= 4, "{release}: gone {gone:?}");

    for place in [" / rootfs ", " /proc proc ", " /sys sysfs ", " /dev devtmpfs "] {
        assert!(text("lx-mounts").contains(place), "{place}: {}", text("lx-mounts"));
    }
    assert!(text("output $lx_current().comm").contains("init"));
    assert_eq!(text("output $lx_task_by_pid(1).pid"), "1");
    let per_cpu = ["output $lx_per_cpu(\"runqueues\", 1).cpu", "output $lx_per_cpu(runqueues, 1).cpu"];
    assert!(per_cpu.iter().any(|c| seen[c]["ok"] == true && seen[c]["text"] == "1"), "{release}");
    // 6.1's script does not know 6.1's timerqueue_head any more.
    assert!(seen["lx-timerlist"]["ok"] == true || release.starts_with("6.1."), "{release}");

    // lx-symbols leaves the kernel where KASLR put it, and the modules known.
    assert!(text("bt").contains("labcrash_level1"), "{release}: {}", text("bt"));
    assert!(text("bt").contains("vfs_write"), "{release}: {}", text("bt"));
}
