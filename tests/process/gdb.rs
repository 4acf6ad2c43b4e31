//! What gdb shows through the stub, with no file given, is what it shows with
//! `gdb PROGRAM CORE`.

use super::*;
use crate::support::client::Client;
use crate::support::program::remote_timeout;

/// What is asked of both. Mappings that the core left out are not: there native
/// gdb shows zeros that the process may not have had.
const QUESTIONS: [&str; 13] = [
    "info registers",
    "info all-registers",
    "p $xmm0",
    "p $xmm15",
    "info sharedlibrary",
    "info auxv",
    "p $_siginfo",
    "thread apply all bt full",
    "info threads",
    "thread apply all -c p tls_number",
    "thread apply all -c p tls_text",
    "p pairs",
    "x/s anonymous",
];

/// Registers in the order of their names: that of gdb is the target description's, which
/// each version lays out anew for a core.
fn by_name(mut lines: Vec<String>) -> Vec<String> {
    let start = lines.iter().position(|l| l == "=== info all-registers").unwrap() + 1;
    let end = start + lines[start..].iter().position(|l| l.starts_with("===")).unwrap();
    lines[start..end].sort();
    lines
}

/// Whether the line is of a vector register, or another that not each processor has.
fn is_extended(line: &str) -> bool {
    let name = line.split(' ').next().unwrap_or_default();
    let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
    name == "pkru" || (name != kind && ["k", "xmm", "ymm", "zmm"].contains(&kind))
}

fn gdb(before: &[&str], questions: &[String], files: &[&Path]) -> String {
    let mut command = patient("gdb");
    command.args(["-nx", "-q", "-batch", "-iex", &remote_timeout()]);
    for setting in ["set debuginfod enabled off", "set width 0", "set height 0", "set auto-load off"] {
        command.args(["-iex", setting]);
    }
    for line in before.iter().copied().chain(questions.iter().map(String::as_str)) {
        command.args(["-ex", &format!("echo \\n=== {line}\\n"), "-ex", line]);
    }
    let out = command.args(files).output().unwrap();
    String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
}

/// Leaves out what is told in other words: how threads and files are named.
fn normal(output: &str, first: &str) -> Vec<String> {
    let start = output.find(&format!("=== {first}")).unwrap_or_else(|| panic!("{output}"));
    let mut lines = Vec::new();
    // What comes with the connection itself; the rest of stderr follows stdout. What
    // gdb warns of is of the file and the machine, not of the process: on some
    // processors native gdb finds an unexpected size in every core's .reg-xstate.
    let noise = ["detached]", "File transfers from remote targets can be slow", "warning: "];
    let told = |l: &&str| !l.is_empty() && !noise.iter().any(|n| l.contains(n));
    for line in output[start..].lines().filter(told) {
        let mut line = line.replace("target:/", "/");
        // `Thread 0x7f.. (LWP 12)`, `LWP 12`, `Thread 11.12 "name" (SIGFPE)` are thread 12.
        if let Some(at) = line.find("LWP ") {
            let id: String = line[at + 4..].chars().take_while(char::is_ascii_digit).collect();
            let from = line.find("Thread 0x").unwrap_or(at);
            let end = at + 4 + id.len();
            let closed = usize::from(from < at && line[end..].starts_with(')'));
            line = format!("{}Thread {id}{}", &line[..from], &line[end + closed..]);
        } else if let Some(at) = line.rfind("Thread ").filter(|&at| line[at + 7..].contains('.')) {
            let rest = &line[at + 7..];
            let process = rest.chars().take_while(char::is_ascii_digit).count();
            if rest[process..].starts_with('.') {
                let id: String = rest[process + 1..].chars().take_while(char::is_ascii_digit).collect();
                let mut rest = rest[process + 1 + id.len()..].to_owned();
                for mark in [" \"", " (SIG"] {
                    if rest.starts_with(mark) {
                        let close = if mark == " \"" { '"' } else { ')' };
                        let end = rest[2..].find(close).map_or(0, |i| i + 3);
                        rest = rest[end..].to_owned();
                    }
                }
                line = format!("{}Thread {id}{rest}", &line[..at]);
            }
        }
        // The columns of `info threads` depend on the names' width.
        lines.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    lines
}

/// `x/64xb` at the start, in the middle and at the end of all that can be read.
fn memory_questions(core: &Path) -> Vec<String> {
    let mut questions = Vec::new();
    for map in json(&["maps", text(core)]).as_array().unwrap() {
        let (start, end) = (number(&map["start"]), number(&map["end"]));
        let held = map["in_core"].as_u64().unwrap() + map["from_file"].as_u64().unwrap();
        if held == end - start {
            questions.push(format!("x/64xb {start:#x}"));
            questions.push(format!("x/8xb {:#x}", (start + (end - start) / 2) & !7));
            questions.push(format!("x/8xb {:#x}", end - 8));
        }
    }
    assert!(questions.len() > 20);
    questions
}

fn same_as_native(program: &str, filter: &str) {
    let Some(p) = programs() else { return };
    let core = p.core(program, filter);
    let questions: Vec<String> =
        QUESTIONS.iter().map(|&q| q.to_owned()).chain(memory_questions(&core)).collect();
    let native = gdb(&[], &questions, &[&p.path(program), &core]);
    let server = Server::start(&[], &core);
    let remote = gdb(&[&format!("target remote {}", server.address)], &questions, &[]);
    let (native, remote) = (normal(&native, QUESTIONS[0]), normal(&remote, QUESTIONS[0]));
    let (native, remote) = (by_name(native), by_name(remote));
    // A gdb that does not know the layout of .reg-xstate shows none that came after AVX,
    // or even SSE; and of xmm0, ymm0, zmm0 each shows only the widest.
    let of_both = |lines: &[String], others: &[String]| -> Vec<String> {
        let name = |line: &str| line.split(' ').next().map(str::to_owned);
        let there = |line: &&String| !is_extended(line) || others.iter().any(|o| name(o) == name(line));
        lines.iter().filter(there).cloned().collect()
    };
    let (native, remote) = (of_both(&native, &remote), of_both(&remote, &native));
    assert!(native.iter().filter(|l| l.contains(" descend (")).count() >= 3, "{native:#?}");
    for (n, r) in native.iter().zip(&remote) {
        assert_eq!(n, r, "{program} {filter}");
    }
    assert_eq!(native.len(), remote.len());
}

#[test]
fn a_pie_program_and_a_loaded_library_look_the_same() {
    same_as_native("dies", DEFAULT);
}

#[test]
fn a_core_with_text_looks_the_same() {
    same_as_native("dies", WITH_TEXT);
}

#[test]
fn a_program_at_fixed_addresses_looks_the_same() {
    same_as_native("dies-nopie", DEFAULT);
}

#[test]
fn a_static_program_looks_the_same() {
    same_as_native("dies-static", DEFAULT);
}

fn frames(output: &str) -> Vec<String> {
    let lines =
        output.lines().filter(|l| l.starts_with('#') || l.starts_with("Thread ") || l.starts_with('$'));
    lines.map(str::to_owned).collect()
}

#[test]
fn a_core_that_gdb_generates_from_the_stub_has_the_same_stacks() {
    let Some(p) = programs() else { return };
    let again = p.path("again.core");
    let generate = format!("generate-core-file {}", again.display());
    let questions = ["thread apply all bt full", "p $_siginfo.si_signo", "p pairs"].map(str::to_owned);
    let first = {
        let server = Server::start(&[], &p.core("dies", DEFAULT));
        gdb(&[&format!("target remote {}", server.address), &generate], &questions, &[])
    };
    let server = Server::start(&[], &again);
    let second = gdb(&[&format!("target remote {}", server.address)], &questions, &[]);
    assert!(frames(&first).len() > 20, "{first}");
    assert_eq!(frames(&first), frames(&second));
    // And gdb itself takes it.
    let native = gdb(&[], &questions, &[&p.path("dies"), &again]);
    assert!(native.contains("descend (die="), "{native}");
}

#[test]
fn info_proc_is_answered() {
    let Some(p) = programs() else { return };
    let server = Server::start(&[], &p.core("dies", DEFAULT));
    let questions =
        ["info proc", "info proc mappings", "info proc stat", "info proc status"].map(str::to_owned);
    let out = gdb(&[&format!("target remote {}", server.address)], &questions, &[]);
    let program = p.path("dies");
    assert!(out.contains(&format!("exe = '{}'", program.display())), "{out}");
    assert!(out.contains(&format!("{} 0x33", program.display())), "the command line in full: {out}");
    assert!(out.contains("r-xp"), "{out}");
    assert!(out.contains("Parent process:"), "{out}");
    assert!(out.contains("Threads:\t4"), "{out}");
}

#[test]
fn only_announced_files_are_served() {
    let Some(p) = programs() else { return };
    let server = Server::start(&[], &p.core("dies", DEFAULT));
    let (stolen, library) = (p.path("stolen"), p.path("libdoom.so"));
    let mut questions: Vec<String> =
        ["/etc/passwd", "/proc/self/environ", "/proc/1/maps", "../../etc/passwd"]
            .iter()
            .map(|f| format!("remote get {f} {}", stolen.display()))
            .collect();
    questions.push(format!("remote get {} {}", library.display(), p.path("copy").display()));
    let out = gdb(&[&format!("target remote {}", server.address)], &questions, &[]);
    assert!(!stolen.exists(), "{out}");
    assert_eq!(fs::read(p.path("copy")).unwrap(), fs::read(library).unwrap(), "{out}");
}

/// Of a whole list gdb need not walk the linker's own, a dozen packets for each library.
/// Of a broken one it is to say where it ends.
#[test]
fn libraries_come_in_one_list_if_it_is_whole() {
    let Some(p) = programs() else { return };
    let core = p.core("dies", DEFAULT);
    let server = Server::start(&[], &core);
    let mut client = Client::connect(&server.address);
    assert!(client.ask("qSupported").contains(";qXfer:libraries-svr4:read+"));
    let list = client.document("libraries-svr4:read:");
    let library = format!("<library name=\"{}\" lm=\"0x", text(&p.path("libdoom.so")));
    assert!(list.contains(&library) && list.contains(" lmid=\"0x"), "{list}");
    let main = list.split("main-lm=\"0x").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let next = u64::from_str_radix(main, 16).unwrap() + 24;
    let broken = p.path("broken.core");
    patch(&core, &broken, next, &0xdead_0000_u64.to_le_bytes());
    let server = Server::start(&[], &broken);
    assert!(!Client::connect(&server.address).ask("qSupported").contains("libraries-svr4"));
}
