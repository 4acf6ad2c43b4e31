//! Every command on every fixture, as golden files: what changes in any answer on a
//! real dump shows as a diff. Needs nothing but the repository.
//!
//! A golden file holds all that was said of one dump. `INSTA_UPDATE=always cargo test
//! --test main matrix` accepts what is said now; look at the diff before you commit it.
//! An answer `was left out of the dump by its filter` where there was one before means
//! that the code now reads pages that the fixture does not have: see
//! scripts/lab/record-fixtures.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::client::Client;
use crate::support::fixtures::{VMCORES, changed, fixture, folder, hex, physical};
use crate::support::kdump::Kdump;
use crate::support::program::{Gdb, Server, corestub, have_gdb, output, walk};

/// What is asked of a vmcore.
const VMCORE: &[&str] = &[
    "triage",
    "triage --full",
    "triage --json",
    "sys",
    "sys --json",
    "log -m",
    "log -T -c -n 12",
    "log -l err --json",
    "ps",
    "ps --json",
    "ps -k -G",
    "ps -A",
    "ps -S",
    "ps -S --json",
    "ps -p sleep",
    "ps -p sleep --json",
    "ps -a init",
    "ps -a init --json",
    "bt",
    "bt --json",
    "bt -a",
    "bt -a --json",
    "bt --all",
    "bt --summary",
    "bt -f 2",
    "bt -f 2 --json",
    "bt -l kthreadd",
    "bt 99999",
    "task",
    "task 2 --json",
    "threads",
    "threads D --json",
    "runq",
    "runq --json",
    "files 1",
    "files 1 --json",
    "files -a -R console",
    "vm 1",
    "mount",
    "swap --json",
    "sig 1",
    "sig -p --json",
    "dev -d",
    "dev -d --json",
    "irq",
    "irq -s",
    "irq --json",
    "timer",
    "timer --json",
    "timer -r",
    "mod",
    "mod --json",
    "mod -t",
    "mod -v labcrash",
    "sym init_task",
    "sym init_task --json",
    "sym -q labcrash",
    "sym -l labcrash",
    "sym no_such_symbol",
    "rd init_task 8",
    "rd -32 init_task 8",
    "rd -8 labcrash_banner 32",
    "rd -a labcrash_banner",
    "rd -s sys_call_table 4",
    "rd init_task 2 --json",
    "rd 0 1",
    "rd -p fee00000 1",
    "vtop init_task labcrash_banner",
    "vtop labcrash_banner --json",
    "vtop 0",
    "search -s labcrash_banner -l 1000 -c LAB-MODULE",
    "search -s labcrash_banner -l 1000 -c LAB-MODULE --json",
    "why 0",
    "why ffff888000000000 --json",
    "whatis init_task labcrash_banner 0072006900560338",
    "kmem init_task",
    "dis labcrash_level3",
    "dis -r labcrash_level3+5 --json",
    "struct task_struct.pid,comm init_task",
    "struct list_head -o",
    "walk module.list -H modules -s module.name,state",
    "walk module.list -H modules --json",
    "tree -t xarray init_pid_ns -p",
    "net",
    "ipcs",
    "locks",
    "orc-switch-rows",
    "maps",
    "verify",
];

/// What is asked of a vmcore that has lost something.
const DAMAGED: &[&str] = &[
    "sys",
    "triage",
    "log -n 5",
    "ps",
    "bt -a",
    "bt kthreadd",
    "bt --summary",
    "task 2",
    "runq",
    "files -a",
    "dev -d",
    "irq",
    "timer",
    "timer -r",
    "mod",
    "sym init_task",
    "vtop init_task",
];

/// What is asked of a vmcore whose kernel is not recognised.
const HARDLY: &[&str] = &[
    "sys",
    "ps --json",
    "log -n 5",
    "rd -p 1000 2",
    "search -p -n 1 -c swapper/1",
    "sym prb",
    "why ffffffff96000000",
    "vtop ffffffff96000000",
];

/// What is asked of a userspace core.
const PROCESS: &[&str] = &[
    "sys",
    "sys --json",
    "ps",
    "ps --json",
    "bt",
    "bt --json",
    "bt -a",
    "bt -a --json",
    "maps",
    "maps --json",
    "verify",
    "verify --json",
    "why 0",
    "why 0 --json",
    "log",
];

/// What the dump says to each command line: text, complaints and exit code.
fn said(dump: &Path, options: &[&str], lines: &[&str]) -> String {
    let (folder, name) = (dump.parent().unwrap(), dump.file_name().unwrap());
    let mut all = String::new();
    for line in lines {
        let (command, words) = line.split_once(' ').unwrap_or((line, ""));
        let mut corestub = corestub();
        corestub.current_dir(folder).arg(command).args(options).arg(name).args(words.split_whitespace());
        // nothing of this machine: no debug files, no caches
        corestub.env_remove("DEBUGINFOD_URLS").env("XDG_CACHE_HOME", "/nonexistent");
        let out = corestub.stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        writeln!(all, "$ {line}\n{}", text(&out.stdout).trim_end()).unwrap();
        // Progress is told by the clock.
        let stderr = text(&out.stderr);
        let told: Vec<&str> = stderr.lines().filter(|l| !l.ends_with("% of memory searched")).collect();
        if !told.is_empty() {
            writeln!(all, "stderr: {}", told.join("\n").trim_end()).unwrap();
        }
        match out.status.code() {
            Some(0) => all.push('\n'),
            code => writeln!(all, "exit: {code:?}\n").unwrap(),
        }
    }
    all
}

/// What a debugger is told when it connects.
fn served(dump: &Path, options: &[&str]) -> String {
    let server = Server::start(dump, options).unwrap();
    let mut client = Client::connect(&server.address);
    let mut all = String::new();
    for packet in ["?", "qC", "qOffsets", "g"] {
        writeln!(all, "> {packet}\n{}\n", client.ask(packet)).unwrap();
    }
    for document in ["exec-file:read:", "libraries:read:", "threads:read:", "osdata:read:"] {
        writeln!(all, "> {document}\n{}\n", client.document(document)).unwrap();
    }
    all
}

/// Compares with the golden file of that name.
fn golden(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("fixtures/golden");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    // the fixture is smaller than the dump it was cut from
    settings.add_filter(r"ends at 0x[0-9a-f]+", "ends at [END]");
    settings.add_filter(&regex_of(&folder()), "[FIXTURES]");
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn regex_of(path: &Path) -> String {
    let plain = |c: char| c.is_alphanumeric() || c == '/' || c == '_';
    let text = path.display().to_string();
    text.chars().map(|c| if plain(c) { c.to_string() } else { format!(r"\{c}") }).collect()
}

fn vmcore(name: &str) {
    let dump = fixture(name);
    let options = ["--debug-dir", "/nonexistent"];
    golden(name, &(said(&dump, &options, VMCORE) + &served(&dump, &options)));
}

#[test]
fn kdump_with_zstd_of_6_1() {
    vmcore("k6.1-zstd.kdump");
}

#[test]
fn kdump_with_zlib_of_6_12() {
    vmcore("k6.12-zlib.kdump");
}

#[test]
fn makedumpfiles_elf_of_6_1() {
    vmcore("k6.1-makedumpfile.elf");
}

#[test]
fn qemus_elf_of_6_12() {
    vmcore("k6.12-qemu.elf");
}

fn process(name: &str) {
    let core = fixture(name);
    let root = folder().join("root");
    let options = ["--sysroot", root.to_str().unwrap(), "--debug-dir", "/nonexistent"];
    golden(name, &(said(&core, &options, PROCESS) + &served(&core, &options)));
}

#[test]
fn core_of_a_plain_program() {
    process("plain.core");
}

#[test]
fn core_of_a_program_with_threads() {
    process("threads.core");
}

/// What a damaged dump still says.
fn damaged(how: &str, lines: &[&str], damage: impl FnOnce(&mut Kdump, &Path)) {
    let sound = fixture("k6.1-zstd.kdump");
    let dump = changed(&sound, how, |kdump| damage(kdump, &sound));
    golden(how, &said(&dump, &["--debug-dir", "/nonexistent"], lines));
}

/// Loses the page of kernel memory at `address`.
fn lose(kdump: &mut Kdump, sound: &Path, address: u64) {
    kdump.lose(physical(sound, address));
}

/// The address of a symbol.
fn symbol(dump: &Path, name: &str) -> u64 {
    let text = output(corestub().args(["sym", "--json"]).arg(dump).arg(name)).unwrap();
    hex(&json(&text)[0]["address"])
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn an_early_page_of_kallsyms_is_lost() {
    damaged("lost-kallsyms-early", DAMAGED, |kdump, sound| {
        lose(kdump, sound, kdump.in_vmcoreinfo("kallsyms_names") + 0x8_0000);
    });
}

#[test]
fn a_late_page_of_kallsyms_is_lost() {
    damaged("lost-kallsyms-late", DAMAGED, |kdump, sound| {
        lose(kdump, sound, kdump.in_vmcoreinfo("kallsyms_names") + 0x11_0000);
    });
}

/// With the names go the run queues, or which CPU panicked: the task says that it was running, its stack which
/// note is its own, and the log who it was.
#[test]
fn who_panicked_is_known_without_the_names_that_tell() {
    for (how, page) in [("lost-run-queues", 0), ("lost-cpus", 50), ("lost-panic-cpu", 61)] {
        damaged(how, &["triage", "bt"], |kdump, sound| {
            lose(kdump, sound, kdump.in_vmcoreinfo("kallsyms_offsets") + page * 0x1000);
        });
    }
}

/// The modules lead to their list, and their names, rules and types are known again.
#[test]
fn the_name_of_the_list_of_modules_is_lost() {
    damaged("lost-module-list", &["mod", "bt"], |kdump, sound| {
        lose(kdump, sound, kdump.in_vmcoreinfo("kallsyms_offsets") + 63 * 0x1000);
    });
}

/// No name can be decoded: tasks and unwind rules are found by content.
#[test]
fn the_tokens_of_kallsyms_are_lost() {
    damaged("lost-kallsyms-tokens", &["sys", "ps", "bt --all"], |kdump, sound| {
        lose(kdump, sound, kdump.in_vmcoreinfo("kallsyms_token_table"));
    });
    let text = fs::read_to_string(folder().join("golden/lost-kallsyms-tokens.snap")).unwrap();
    assert!(text.contains("UNWIND: ORC in the dump (") && text.contains("kthreadd"));
}

#[test]
fn a_page_of_btf_is_lost() {
    damaged("lost-btf", DAMAGED, |kdump, sound| {
        lose(kdump, sound, symbol(sound, "__start_BTF") + 0x10_0000);
    });
}

/// Its rows are in the order of the code: the page with those of schedule().
#[test]
fn a_page_of_orc_is_lost() {
    damaged("lost-orc", DAMAGED, |kdump, sound| {
        let wanted = symbol(sound, "schedule");
        let (start, stop) = (symbol(sound, "__start_orc_unwind_ip"), symbol(sound, "__stop_orc_unwind_ip"));
        let mut pages = (start >> 12) + 1..stop >> 12;
        while pages.end - pages.start > 1 {
            let middle = (pages.start + pages.end) / 2;
            let page = kdump.page(physical(sound, middle << 12)).unwrap();
            let row =
                (middle << 12).wrapping_add_signed(i32::from_le_bytes(page[..4].try_into().unwrap()).into());
            pages = if row <= wanted { middle..pages.end } else { pages.start..middle };
        }
        lose(kdump, sound, pages.start << 12);
    });
    // A stack that goes through it says so. (The fixture has no code to guess by.)
    let text = fs::read_to_string(folder().join("golden/lost-orc.snap")).unwrap();
    assert!(text.contains("from frame 1 on it is a guess, as rules of ORC are lost"));
}

/// Its first page, with the rules of the code that kernel threads begin in: their stacks end there all the
/// same, and nothing is said to be a guess.
#[test]
fn the_first_page_of_orc_is_lost() {
    let sound = fixture("k6.1-zstd.kdump");
    let dump = changed(&sound, "lost-orc-first", |kdump| {
        lose(kdump, &sound, symbol(&sound, "__start_orc_unwind_ip"));
    });
    let stacks = |dump: &Path| {
        let rows = json(&output(corestub().args(["bt", "--all", "--json"]).arg(dump)).unwrap());
        let places = |row: &Value| -> Vec<_> {
            row["frames"].as_array().unwrap().iter().map(|f| (f["pc"].clone(), f["symbol"].clone())).collect()
        };
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| (row["task"].clone(), places(row), row["incomplete"].clone())).collect::<Vec<_>>()
    };
    let (lost, whole) = (stacks(&dump), stacks(&sound));
    let begins = lost.iter().filter(|(_, frames, _)| frames.last().is_some_and(|f| f.1 == "ret_from_fork"));
    assert!(begins.count() > 20);
    for (lost, whole) in lost.iter().zip(&whole) {
        assert_eq!(lost, whole);
    }
    assert_eq!(lost.len(), whole.len());
}

/// A descriptor that leads to the page of another: what it had is lost, and no more.
#[test]
fn a_page_of_another_in_btf_or_orc_costs_that_page() {
    let sound = fixture("k6.1-zstd.kdump");
    let ps = |dump: &Path| output(corestub().arg("ps").arg(dump)).unwrap();
    let whole = ps(&sound);
    for (table, offset, row) in
        [("__start_BTF", 0x10_0000, "TYPES: BTF"), ("__start_orc_unwind_ip", 0x8000, "UNWIND: ORC")]
    {
        let dump = changed(&sound, &format!("foreign{table}"), |kdump| {
            let other = kdump.page(physical(&sound, symbol(&sound, "linux_banner"))).unwrap();
            kdump.replace(physical(&sound, symbol(&sound, table) + offset), &other);
        });
        let sys = output(corestub().arg("sys").arg(&dump)).unwrap();
        let told = sys.lines().find(|line| line.contains(row)).unwrap_or_else(|| panic!("{sys}"));
        assert!(told.contains("in the place of 1 of its pages stand others"), "{told}");
        assert_eq!(ps(&dump), whole, "{table}");
    }
}

/// What waited there is not known; that is not the same as nothing.
#[test]
fn a_run_queue_is_lost() {
    damaged("lost-runqueue", &["runq"], |kdump, sound| {
        let queues = json(&output(corestub().args(["runq", "--json"]).arg(sound)).unwrap());
        let queue = hex(&queues[1]["runqueue"]);
        lose(kdump, sound, queue);
        lose(kdump, sound, queue + 0x1000);
    });
    let text = fs::read_to_string(folder().join("golden/lost-runqueue.snap")).unwrap();
    assert!(text.contains("RT PRIO_ARRAY: (not known)") && text.contains("CFS RB_ROOT: (not known)"));
}

/// Neither the pid map nor the list of tasks is whole: memory is searched for tasks.
#[test]
fn the_lists_of_tasks_are_lost() {
    let lines = [DAMAGED, &["ps --json 20"]].concat();
    damaged("lost-lists", &lines, |kdump, sound| {
        lose(kdump, sound, symbol(sound, "init_pid_ns"));
        for pid in ["15", "2", "41"] {
            lose(kdump, sound, task(sound, pid));
        }
    });
    let text = fs::read_to_string(folder().join("golden/lost-lists.snap")).unwrap();
    assert!(text.contains("\"found_by\": \"search of memory\""));
}

/// One table maps the first 512 GiB of all memory, another all stacks.
#[test]
fn page_tables_are_lost() {
    let lines = [DAMAGED, &["vtop init_task"]].concat();
    damaged("lost-tables", &lines, |kdump, sound| {
        let stack =
            hex(&json(&output(corestub().args(["bt", "--json"]).arg(sound).arg("2")).unwrap())[0]["frames"]
                [0]["sp"]);
        for address in [task(sound, "2"), stack] {
            let text =
                output(corestub().args(["vtop", "--json"]).arg(sound).arg(format!("{address:x}"))).unwrap();
            kdump.lose(hex(&json(&text)[0]["levels"][1]["entry"]) & !0xfff);
        }
    });
}

#[test]
fn a_task_in_the_list_is_lost() {
    damaged("lost-task", DAMAGED, |kdump, sound| lose(kdump, sound, task(sound, "15")));
}

/// The page tables of the kernel are behind the first tasks.
#[test]
fn a_kdump_ends_early() {
    damaged("truncated-early", HARDLY, |kdump, sound| {
        kdump.end_before(physical(sound, task(sound, "kthreadd")));
    });
}

#[test]
fn a_kdump_ends_late() {
    damaged("truncated-late", DAMAGED, |kdump, sound| {
        kdump.end_before(physical(sound, last_task(sound)));
    });
}

/// The `task_struct` of a process.
fn task(dump: &Path, which: &str) -> u64 {
    let text = output(corestub().args(["ps", "--json"]).arg(dump).arg(which)).unwrap();
    hex(&json(&text)[0]["task"])
}

/// The `task_struct` that is the last one in physical memory: only `init_task` is
/// not where all memory is mapped in its order.
fn last_task(dump: &Path) -> u64 {
    let tasks = json(&output(corestub().args(["ps", "--json"]).arg(dump)).unwrap());
    let all = tasks.as_array().unwrap().iter().map(|t| hex(&t["task"]));
    all.filter(|task| task >> 31 != 0xffff_ffff_8000_0000 >> 31).max().unwrap()
}

#[test]
fn a_flattened_kdump_answers_as_the_plain_one() {
    let plain = fixture("k6.1-zstd.kdump");
    let flat = changed(&plain, "flattened", Kdump::flatten);
    for line in ["ps --json", "bt --all --json"] {
        assert!(said(&plain, &[], &[line]) == said(&flat, &[], &[line]), "{line}");
    }
    assert!(said(&flat, &[], &["sys"]).contains("(zstd), flattened"));
}

/// Bare gdb walks every stack as `bt` does.
#[test]
fn gdb_walks_every_stack() {
    if !have_gdb() {
        return;
    }
    for name in VMCORES {
        let dump = fixture(name);
        let stacks = json(&output(corestub().args(["bt", "--all", "--json"]).arg(&dump)).unwrap());
        let server = Server::start(&dump, &["--debug-dir", "/nonexistent"]).unwrap();
        let walked = walk(&server, None).unwrap();
        assert_eq!(walked.len(), stacks.as_array().unwrap().len(), "{name}");
        for stack in stacks.as_array().unwrap() {
            let comm = stack["comm"].as_str().unwrap();
            let pcs: Vec<u64> = stack["frames"].as_array().unwrap().iter().map(|f| hex(&f["pc"])).collect();
            let found = walked.iter().any(|w| {
                let theirs: Vec<u64> = w.frames.iter().map_while(|f| f.0).collect();
                w.name.as_deref() == Some(comm) && theirs == pcs
            });
            assert!(found, "{name}: gdb has no stack of {comm} with {pcs:x?}");
        }
    }
}

/// Bare gdb has the program, and with it the names, from the server.
#[test]
fn gdb_names_the_functions_of_a_core() {
    if !have_gdb() {
        return;
    }
    let root = folder().join("root");
    for (name, functions) in [
        ("plain.core", &["number_of", "sum", "main"][..]),
        ("threads.core", &["divide", "die", "descend", "main"]),
    ] {
        let server = Server::start(&fixture(name), &["--sysroot", root.to_str().unwrap()]).unwrap();
        let text = Gdb::new(None).connect(&server).ex("bt").run().unwrap();
        let mut rest = text.as_str();
        for function in functions {
            let at = rest
                .find(&format!("{function} ("))
                .unwrap_or_else(|| panic!("{name}: no {function} in its place in\n{text}"));
            rest = &rest[at..];
        }
    }
}

/// No command is left out of the matrix.
#[test]
fn the_matrix_has_every_command() {
    let help = output(corestub().arg("--help")).unwrap();
    let listed = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    for line in listed.filter(|l| l.starts_with("  ") && !l.starts_with("   ")) {
        let command = line.split_whitespace().next().unwrap();
        let asked = |lines: &[&str]| lines.iter().any(|l| l.split(' ').next() == Some(command));
        let verb = ["serve", "gdb", "gdbinit", "compare", "report", "list", "help"].contains(&command);
        assert!(verb || asked(VMCORE) || asked(PROCESS), "{command} is not in the matrix");
    }
}

/// The fixtures stay small.
#[test]
fn the_fixtures_are_small() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")];
    let mut bytes = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.metadata().unwrap() {
                meta if meta.is_dir() => folders.push(entry.path()),
                meta => bytes += meta.len(),
            }
        }
    }
    assert!(bytes < 25_000_000, "{bytes} bytes in tests/fixtures");
}
