//! What hands hold: gdb with the helpers, gdb/MI, the Debug Adapter Protocol,
//! LLDB and gdb's TUI, each driven as a person or an editor drives it.
//!
//! Tools that no distribution brings along (pygdbmi, cdt-gdb-adapter) are in
//! [`support::frontends`], which `scripts/lab/frontends` fills.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::client::Client;
use crate::support::fixtures::fixture;
use crate::support::program::{self, Server, have, patient, remote_timeout};
use crate::support::terminal::Terminal;
use crate::support::{self, PATIENCE, not_here, skip};

/// The variable that every kernel has and everybody knows the value of.
const GLOBAL: &str = "init_task.comm";
const GLOBAL_VALUE: &str = "swapper/0";

/// A dump of a panic of each kernel there is.
fn dumps() -> Vec<PathBuf> {
    let mut seen = Vec::new();
    for path in support::files("z31.kdump") {
        let kernel = |p: &Path| p.ancestors().nth(2).map(Path::to_owned);
        if !seen.iter().any(|s: &PathBuf| kernel(s) == kernel(&path)) {
            seen.push(path);
        }
    }
    if seen.is_empty() {
        skip("no z31.kdump in the lab's folders");
    }
    seen
}

/// In seconds, for the clients that are not written in Rust.
fn patience() -> String {
    PATIENCE.as_secs().to_string()
}

fn support_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(name)
}

/// Both streams of a program that must end by itself.
fn run(command: &mut Command) -> (String, Output) {
    let mut timed = patient(command.get_program());
    timed.args(command.get_args());
    if let Some(dir) = command.get_current_dir() {
        timed.current_dir(dir);
    }
    for (name, value) in command.get_envs() {
        timed.env(name, value.unwrap_or_default());
    }
    let output = timed.stdin(Stdio::null()).output().unwrap();
    let text = [&output.stdout, &output.stderr].map(|t| String::from_utf8_lossy(t).into_owned()).concat();
    assert!(output.status.code() != Some(124), "did not end:\n{text}");
    (text, output)
}

#[track_caller]
fn has(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "no {wanted:?} in\n{text}");
    }
}

/// gdb as it is installed, and a current one where the tools have it.
fn gdbs() -> Vec<PathBuf> {
    let mut all = vec![PathBuf::from("gdb")];
    let current = support::frontends().join("venv/bin/gdb");
    if current.exists() {
        all.push(current);
    } else {
        not_here(&format!("only the installed gdb: no {}", current.display()));
    }
    all
}

fn gdb(program: &Path, commands: &[&str]) -> String {
    let mut gdb = Command::new(program);
    gdb.args([
        "-nx",
        "-batch",
        "-iex",
        &remote_timeout(),
        "-ex",
        "set debuginfod enabled off",
        "-ex",
        "set width 0",
    ]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let text = run(&mut gdb).0;
    assert!(!text.contains("Python Exception") && !text.contains("Traceback"), "{text}");
    text
}

#[test]
fn helpers() {
    let source = format!("source {}", Path::new(env!("CARGO_MANIFEST_DIR")).join("gdbinit").display());
    for dump in dumps() {
        let server = Server::start(&dump, &[]).unwrap();
        let connect = format!("vmcore {}", server.address);
        for program in gdbs() {
            let text = gdb(
                &program,
                &[
                    &source,
                    &connect,
                    "printf \"one %s\\n\", $task_by_pid(1)->comm",
                    "printf \"idle %s\\n\", $task_by_pid(0)->comm",
                    "p $task_by_pid(4000000)",
                    "printf \"here %d there %d\\n\", $per_cpu(runqueues).cpu, $per_cpu(\"runqueues\", 1).cpu",
                    "printf \"pointer %d\\n\", $per_cpu_ptr(&runqueues, 1)->cpu",
                    "python import corestub.stub; gdb.set_convenience_variable('moved', corestub.stub.slide())",
                    "printf \"moved %d\\n\", $per_cpu_ptr((struct rq *)((long)&runqueues + $moved), 1)->cpu",
                    "p $per_cpu(runqueues, 100000)",
                    "p $per_cpu(init_task.pid, 1)",
                    "p $per_cpu(1)",
                    "p modules",
                    "p init_task.tasks",
                    "p init_pid_ns.idr.idr_rt",
                    "user-regs 1",
                    "user-regs 2",
                    "echo plain\\n",
                    "info registers",
                    "echo of user mode\\n",
                    "info registers user",
                    "echo of the system\\n",
                    "info registers rax system",
                    "info registers no_such_register",
                    "echo end\\n",
                    "help vmcore",
                    "help user-bt",
                    "help function per_cpu_ptr",
                    "info frame",
                ],
            );
            has(&text, &["Linux 6.", " tasks", "Next:\n  monitor triage", "one init", "idle swapper/0"]);
            has(&text, &["no task has pid 4000000", "pointer 1", "moved 1", "there is no CPU 100000"]);
            has(&text, &["not a per-CPU variable"]);
            has(&text, &["others (next 0x", "list_head, more than 64 others", "{[1] = 0x"]);
            has(&text, &["rip  ", "system call 1", "has no user mode", "Connect to corestub"]);
            has(&text, &["there 1", "alloc_percpu"]);
            let part = |from: &str, to: &str| {
                let part = text.split(from).nth(1).and_then(|t| t.split(to).next());
                part.unwrap_or_else(|| panic!("no {from:?} in {text}"))
            };
            let plain = part("plain\n", "of user mode\n");
            assert!(plain.contains("gs_base") && plain.lines().count() < 40, "{plain}");
            assert!(!plain.contains("user_rip") && !plain.contains("cr3"), "{plain}");
            let user = part("of user mode\n", "of the system\n");
            assert_eq!(user.lines().filter(|l| l.starts_with("user_r")).count(), 17, "{user}");
            has(part("of the system\n", "end\n"), &["rax ", "cr3 ", "task "]);
            has(&text, &["Invalid register `no_such_register'"]);
        }
    }
}

/// `vmcore` puts a vmlinux that was loaded by hand where it belongs.
#[test]
fn vmcore_relocates_what_was_loaded() {
    let source = format!("source {}", Path::new(env!("CARGO_MANIFEST_DIR")).join("gdbinit").display());
    for dump in dumps() {
        let Some(vmlinux) = vmlinux_of(&dump) else {
            skip(&format!("no vmlinux for {}", dump.display()));
            continue;
        };
        let server = Server::start(&dump, &[]).unwrap();
        let connect = format!("vmcore {}", server.address);
        let file = format!("file {}", vmlinux.display());
        let added = format!("add-symbol-file {}", vmlinux.display());
        for load in [&file, &added] {
            let text = gdb(
                Path::new("gdb"),
                &[
                    load,
                    &source,
                    &connect,
                    "printf \"banner %s\\n\", (char *)linux_banner",
                    "printf \"cpu %d\\n\", $per_cpu(runqueues, 1).cpu",
                    "info line vfs_write",
                    "bt",
                ],
            );
            has(&text, &["banner Linux version 6.", "cpu 1", "fs/read_write.c", "labcrash_level"]);
        }
    }
}

/// Who starts `gdb vmlinux` gets over the change to the IRQ stack, too: the
/// helpers' unwinder knows what vmlinux's own CFI does not.
#[test]
fn unwinder_leaves_the_irq_stack() {
    let source = format!("source {}", Path::new(env!("CARGO_MANIFEST_DIR")).join("gdbinit").display());
    let mut dumps = support::files("l17.kdump");
    dumps.retain(|d| d.parent().and_then(|p| p.file_name()).is_some_and(|n| n == "kdump-irqoops"));
    if dumps.is_empty() {
        not_here("no kdump-irqoops/l17.kdump in the lab's folders");
    }
    for dump in dumps {
        let Some(vmlinux) = vmlinux_of(&dump) else {
            skip(&format!("no vmlinux for {}", dump.display()));
            continue;
        };
        let server = Server::start(&dump, &[]).unwrap();
        let file = format!("file {}", vmlinux.display());
        let text =
            gdb(Path::new("gdb"), &[&file, &source, &format!("target remote {}", server.address), "bt"]);
        has(
            &text,
            &["labcrash_hrtimer_fn", "<signal handler called>", "do_idle ()", " in cpu_startup_entry "],
        );
        assert!(!text.contains("Backtrace stopped"), "{text}");
    }
}

/// The lab keeps the packages of a kernel beside its dumps.
fn vmlinux_of(dump: &Path) -> Option<PathBuf> {
    let kernel = dump.ancestors().nth(2)?;
    let release = kernel.file_name()?.to_str()?;
    let root = kernel.parent()?.join(format!("root-{release}"));
    Some(root.join(format!("usr/lib/debug/boot/vmlinux-{release}"))).filter(|p| p.exists())
}

#[test]
fn corestub_gdb_starts_it_all() {
    for dump in dumps() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corestub"));
        command.arg("gdb").arg(&dump).args(["--", "-nx", "-batch", "-ex", "bt", "-ex", "p init_task.comm"]);
        command.args(["-ex", "show debug-file-directory", "-ex", "quit 7"]);
        let (text, output) = run(&mut command);
        assert_eq!(output.status.code(), Some(7), "{text}");
        has(
            &text,
            &[
                "Linux 6.",
                "Next:\n  monitor triage",
                "  bt ",
                "  info threads",
                "labcrash_level1",
                "swapper/0",
            ],
        );
        let start = text.find("is searched for in \"").or_else(|| text.find("are searched for in \""));
        let folder = start.and_then(|at| text[at..].split('"').nth(1)).and_then(|d| d.split(':').next());
        if let Some(folder) = folder {
            assert!(!Path::new(folder).exists(), "{folder} is still there");
        }
    }
    let Some(dump) = dumps().into_iter().next() else { return };
    let mut command = Command::new(env!("CARGO_BIN_EXE_corestub"));
    command.args(["gdb", "--gdb", "/nonexistent/gdb"]).arg(dump);
    let (text, output) = run(&mut command);
    assert_eq!(output.status.code(), Some(1), "{text}");
    has(&text, &["/nonexistent/gdb", "install gdb"]);
}

/// The three next things to type, for a process, too; and no way out asks a question.
#[test]
fn the_first_and_the_last_words() {
    let core = fixture("plain.core");
    let mut command = Command::new(env!("CARGO_BIN_EXE_corestub"));
    command.arg("gdb").arg(&core).args(["--", "-nx", "-batch"]);
    let text = run(&mut command).0;
    has(
        &text,
        &["(pid 26934), 1 thread\nSignal: SIGSEGV", "Next:\n  bt ", "  info threads", "  monitor sys"],
    );
    assert!(!text.contains("Linux"), "{text}");
    if !have(Path::new("tmux")) {
        return;
    }
    let corestub =
        format!("{} gdb {} -- -nx; echo it has ended; cat", env!("CARGO_BIN_EXE_corestub"), core.display());
    let terminal = Terminal::start(100, 24, &corestub);
    terminal.shown("(gdb)");
    terminal.line("quit");
    terminal.shown("it has ended");
}

/// Ctrl-C while gdb connects leaves it with the name of the image and without its
/// symbols. The next connection has them, with the helpers and without.
#[test]
fn a_second_connection_is_whole() {
    let source = format!("source {}", Path::new(env!("CARGO_MANIFEST_DIR")).join("gdbinit").display());
    for dump in dumps() {
        for program in gdbs() {
            let server = Server::start(&dump, &[]).unwrap();
            let connect = format!("target remote {}", server.address);
            let vmcore = format!("vmcore {}", server.address);
            let whole = |commands: &[&str]| {
                let text = gdb(&program, commands);
                let stack = text.rsplit("again\n").next().unwrap_or_default();
                has(stack, &["labcrash_level1", "vfs_write", "do_syscall_64"]);
            };
            let left = ["exec-file target:/kernel/vmlinux", "disconnect", "echo again\\n"];
            let begun = [connect.as_str(), "file"];
            whole(&[&[source.as_str()], &begun[..], &left, &[&connect, "bt"]].concat());
            whole(&[&[source.as_str()], &begun[..], &left, &[&vmcore, "bt"]].concat());
            // Without helpers it is the server that knows of a client that was interrupted.
            let mut half = Client::connect(&server.address);
            half.ask("qSupported:multiprocess+;qRelocInsn+;xmlRegisters=i386");
            half.ask("qXfer:exec-file:read::0,fff");
            drop(half);
            whole(&[&begun[..], &left, &[&connect, "bt"]].concat());
        }
    }
}

#[test]
fn mi_through_pygdbmi() {
    let python = support::frontends().join("venv/bin/python");
    if !have(&python) {
        return;
    }
    for dump in dumps() {
        let server = Server::start(&dump, &[]).unwrap();
        for program in gdbs() {
            let mut mi = Command::new(&python);
            mi.arg(support_file("mi.py")).arg(&program).arg(&server.address).arg(GLOBAL).arg(patience());
            let (text, _) = run(&mut mi);
            let seen: Value = serde_json::from_str(text.lines().last().unwrap_or_default())
                .unwrap_or_else(|e| panic!("{e}:\n{text}"));
            assert!(matches!(seen["connect"].as_str(), Some("connected" | "done")), "{text}");
            let threads = seen["threads"].as_array().unwrap();
            assert!(threads.len() > 50, "{} threads", threads.len());
            assert!(threads.iter().all(|t| t["name"].is_string() && t["core"].is_string()));
            has(&seen["frames"].to_string(), &["labcrash_level3", "labcrash_level1"]);
            has(&seen["value"].to_string(), &[GLOBAL_VALUE]);
            has(&seen["console"].to_string(), &["RELEASE"]);
            assert_eq!(seen["memory"][0]["contents"].as_str().unwrap().len(), 128);
            // Nothing runs, nothing is written, and it is said.
            for command in ["continue", "step"] {
                has(&seen[command].to_string(), &["dump"]);
                assert!(
                    seen[command]["result"] == "error"
                        || !seen[command]["stopped"].as_array().unwrap().is_empty()
                );
            }
            assert_eq!(seen["write"]["message"], "error", "{text}");
            assert_eq!(seen["value"], seen["valueAfter"]);
        }
    }
}

#[test]
fn dap_through_cdt_gdb_adapter() {
    let adapter = support::frontends().join("node_modules/cdt-gdb-adapter/dist/debugTargetAdapter.js");
    if !have(&adapter) || !have(Path::new("node")) {
        return;
    }
    for dump in dumps() {
        let server = Server::start(&dump, &[]).unwrap();
        let mut dap = Command::new("node");
        dap.arg(support_file("dap.js")).arg(&adapter).args([
            "gdb",
            "127.0.0.1",
            server.port(),
            "init_task.comm[0]",
            &patience(),
        ]);
        let (text, output) = run(&mut dap);
        assert!(output.status.success(), "{text}");
        let line = text.lines().find(|l| l.starts_with('{')).unwrap_or_default();
        let seen: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}:\n{text}"));
        assert!(seen["threads"].as_array().unwrap().len() > 50, "{text}");
        assert!(!seen["stack"].as_array().unwrap().is_empty(), "{text}");
        has(&seen["scopes"].to_string(), &["Local", "Registers"]);
        has(&seen["variables"]["Registers"].to_string(), &["rip"]);
        has(&seen["evaluated"].to_string(), &["115 's'"]);
        assert_eq!(seen["memory"], 64, "{text}");
        has(&seen["repl"].to_string(), &["RELEASE"]);
        // Refused politely: said, and still there.
        has(&format!("{}{}{}", seen["repl"], seen["afterContinue"], seen["continueError"]), &["dump"]);
        assert_eq!(seen["evaluated"], seen["evaluatedAfter"]);
    }
}

/// LLDB fetches the images by itself once a platform is connected. Types come along.
#[test]
fn lldb() {
    let Some(program) = program::lldb() else { return };
    for dump in dumps() {
        let server = Server::start(&dump, &[]).unwrap();
        // LLDB waits a few seconds for an answer; the images are made at the first use.
        let path: String = "/whole/vmlinux".bytes().map(|b| format!("{b:02x}")).collect();
        let opened = Client::connect(&server.address).ask(&format!("vFile:open:{path},0,0"));
        assert!(opened.starts_with("F0"), "{opened}");
        // It keeps there what it fetches.
        let home = tempfile::tempdir().unwrap();
        let mut lldb = Command::new(&program);
        lldb.args(["--no-lldbinit", "--batch", "--no-use-colors"]).env("HOME", home.path());
        for command in [
            &format!("settings set plugin.process.gdb-remote.packet-timeout {}", patience()),
            "platform select remote-linux",
            &format!("platform connect connect://{}", server.address),
            &format!("gdb-remote 127.0.0.1:{}", server.port()),
            "image list",
            "thread list",
            "bt",
            "register read rip rsp",
            "memory read --format x --size 8 --count 2 $sp",
            "memory read --format s --count 1 `&linux_banner`",
            "p init_task.comm",
            "p sizeof(struct zram)",
            "process plugin packet monitor sys",
            "thread select 20",
            "bt",
            "continue",
            "register read rip",
        ] {
            lldb.args(["-o", command]);
        }
        let text = run(&mut lldb).0;
        assert!(text.matches("thread #").count() > 50, "{text}");
        has(&text, &["rip = 0x", "rsp = 0x", "\"Linux version ", "RELEASE", GLOBAL_VALUE]);
        has(
            &text,
            &["/vmlinux", "/labcrash.ko", "/zram.ko", "(lldb) p sizeof(struct zram)\n(unsigned long)"],
        );
        let at = |name: &str| text.find(name).unwrap_or_else(|| panic!("no {name} in\n{text}"));
        let stack =
            ["labcrash_level1 + ", "`vfs_write", "`ksys_write", "`do_syscall_64", "`entry_SYSCALL_64_after"];
        assert!(stack.map(at).is_sorted(), "{text}");
        has(&text[at("thread select 20")..], &["`__schedule(", "`schedule + ", "`kthread("]);
        assert!(text.matches("     rip = 0x").count() == 2, "lost after continue: {text}");
    }
}

/// gdb's text windows in a terminal of 80 by 24: paging, layouts, an interrupt.
#[test]
fn tui_in_tmux() {
    if !have(Path::new("tmux")) {
        return;
    }
    let Some(dump) = dumps().into_iter().next() else { return };
    let server = Server::start(&dump, &[]).unwrap();
    let connect = format!("target remote {}", server.address);
    let settings = ["set pagination off", "set debuginfod enabled off", &remote_timeout(), &connect];
    let command = settings.iter().fold("gdb -nx -q".to_owned(), |all, one| format!("{all} -ex '{one}'"));
    let terminal = Terminal::start(80, 24, &command);
    let shown = |wanted: &str| terminal.shown(wanted);
    let keys = |text: &str| terminal.line(text);
    shown("(gdb)");
    keys("layout asm");
    shown("labcrash_level3");
    keys("layout regs");
    // gdb 13 fills the window at the next change only.
    keys("tui reg general");
    shown("rax ");
    keys("frame function labcrash_level1");
    shown("in labcrash_level1 ()");
    keys("stepi");
    shown("dump");
    keys("tui disable");
    keys("printf \"%s is alive\\n\", init_task.comm");
    shown("swapper/0 is alive");
    keys("set pagination on");
    keys("info threads");
    // gdb's pager, and out of it.
    shown("--Type <RET>");
    keys("q");
    keys("printf \"%d again\\n\", 6 * 7");
    shown("42 again");
}

/// The words that gef and pwndbg look for.
#[test]
fn qemu_dialect() {
    let Some(dump) = dumps().into_iter().next() else { return };
    let phys = {
        let server = Server::start(&dump, &[]).unwrap();
        let connect = format!("target remote {}", server.address);
        let ask = ["python gdb.execute('monitor gva2gpa %#x' % int(gdb.parse_and_eval('&init_task')))"];
        let text = gdb(Path::new("gdb"), &[&connect, ask[0]]);
        let line = text.lines().find_map(|l| l.strip_prefix("gpa: ")).unwrap_or_else(|| panic!("{text}"));
        u64::from_str_radix(line.trim_start_matches("0x"), 16).unwrap()
    };
    let commands = [
        "maintenance packet qqemu.sstepbits",
        "maintenance packet qOffsets",
        "monitor info version",
        "monitor info registers",
        "monitor info mtree -f",
        "monitor info mem",
        &format!("monitor xp/2gx {phys:#x}"),
        &format!("monitor xp /2gx {phys:#x}"),
        "monitor gva2gpa &",
        "monitor gpa2hva 0x1000",
        "maintenance packet Qqemu.PhyMemMode:1",
        "maintenance packet qqemu.PhyMemMode",
        &format!("x/2gx {phys:#x}"),
        "maintenance packet Qqemu.PhyMemMode:0",
        &format!("x/2gx {phys:#x}"),
    ];
    for (options, qemu) in [(&["--qemu-dialect"][..], true), (&[], false)] {
        let server = Server::start(&dump, options).unwrap();
        let connect = format!("target remote {}", server.address);
        let mut all = vec![connect.as_str()];
        all.extend(commands);
        let text = gdb(Path::new("gdb"), &all);
        assert_eq!(text.contains("received: \"ENABLE="), qemu, "{text}");
        assert_eq!(text.contains("received: \"TextSeg="), !qemu, "{text}");
        has(&text, &["corestub 0", "RAX=", "RIP=", "CR3=", "(prio 0, ram)"]);
        let mem: Vec<Vec<u64>> = text
            .lines()
            .filter(|l| [" -rw", " -r-", " ur-", " urw"].iter().any(|rights| l.ends_with(rights)))
            .map(|l| l.split(['-', ' ']).take(3).map(|n| u64::from_str_radix(n, 16).unwrap()).collect())
            .collect();
        assert!(mem.len() > 100 && mem.iter().all(|m| m[0] + m[2] == m[1]), "{text}");
        assert!(mem.windows(2).all(|w| w[0][1] <= w[1][0]));
        has(
            &text,
            &["received: \"OK\"", "received: \"1\"", "a dump has no host addresses", "& is not a number"],
        );
        // What xp prints is what gdb reads physically, and not virtually.
        let xp: Vec<&str> = text.lines().filter(|l| l.starts_with(&format!("{phys:016x}: 0x"))).collect();
        assert!(xp.len() == 2 && xp[0] == xp[1], "{text}");
        let x = text.lines().find(|l| l.starts_with(&format!("{phys:#x}")) && l.contains(":\t0x")).unwrap();
        let words = |l: &str| l.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(xp[0]), words(x));
        has(&text, &[&format!("Cannot access memory at address {phys:#x}")]);
    }
}
