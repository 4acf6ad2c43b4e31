//! `corestub gdb CORE`: what a person sees who types nothing else.

use super::kinds::{Ends, die, plain_cores, pythons, stack, symbols, without_list};
use super::*;

/// What gdb shows of `core`, and then of these commands.
fn session(core: &Path, commands: &[&str], args: &[&str]) -> String {
    let mut command = patient(env!("CARGO_BIN_EXE_corestub"));
    command.arg("gdb").args(args).arg(core).args(["--", "-nx", "-batch"]);
    for line in commands {
        command.args(["-ex", &format!("echo \\n=== {line}\\n"), "-ex", line]);
    }
    let out = command.output().unwrap();
    String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
}

#[test]
fn the_greeting_is_of_a_process_and_kernel_helpers_stay_away() {
    let Some(ends) = Ends::compiled("gcc", &["ends.c"]) else { return };
    let shown = session(&ends.core("assert", DEFAULT), &["help user-bt", "bt"], &[]);
    for wanted in
        ["/ends assert (pid ", "Signal: SIGABRT (aborted)", "Message: ", "Assertion `argc == 99", "in main ("]
    {
        assert!(shown.contains(wanted), "no {wanted}: {shown}");
    }
    assert!(shown.contains("Undefined command: \"user-bt\""), "{shown}");
    let report = session(&ends.core("report", DEFAULT), &[], &[]);
    assert!(
        report.contains(
            "It was handling SIGSEGV (segmentation fault), SEGV_MAPERR (no mapping there) at 0x8, at add in /"
        ),
        "{report}"
    );
    assert!(!shown.contains("Linux of an unknown release") && !shown.contains("triage"), "{shown}");
}

#[test]
fn the_greeting_warns_of_code_that_is_zeros() {
    let Some(ends) = Ends::compiled("gcc", &["ends.c"]) else { return };
    let core = ends.core("divide", WITH_TEXT);
    let zeroed = ends.dir.path().join("zeroed");
    patch(&core, &zeroed, number(&json(&["sys", text(&core)])["pc"]) & !0xfff, &[0; 4096]);
    let shown = session(&zeroed, &["bt"], &[]);
    assert!(shown.contains("warning: the page of the pc reads as ZEROS in the core"), "{shown}");
}

#[test]
fn a_programs_missing_file_does_not_cost_the_libraries() {
    let Some(ends) = Ends::compiled("gcc", &["ends.c"]) else { return };
    let (core, whole) = (ends.core("assert", DEFAULT), ends.core("assert", WITH_TEXT));
    fs::rename(ends.program(), ends.dir.path().join("away")).unwrap();
    let shown = session(&core, &["bt"], &[]);
    assert!(shown.contains("abort (") && shown.contains("raise ("), "{shown}");
    // With the read-only pages in the core, also what the linker knows of the program.
    let shown = session(&whole, &["bt", "info symbol handler", "info files"], &[]);
    assert!(shown.contains("in __libc_start_main") || shown.contains("in __libc_start_call_main"), "{shown}");
    // A gdb of one's own gets the same through the connection.
    let server = Server::start(&[], &core);
    let mut gdb = patient("gdb");
    gdb.args(["-nx", "-q", "-batch", "-ex", &format!("target remote {}", server.address), "-ex", "bt"]);
    let out = gdb.output().unwrap();
    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(shown.contains("abort ("), "{shown}{}", String::from_utf8_lossy(&out.stderr));
}

/// The linker's names go into folders and out of them again, in which no file of the process
/// lies; so may the program's, where no list of files has its plain one.
#[test]
fn files_that_are_named_by_a_detour_are_found() {
    if !plain_cores() || !Command::new("gcc").arg("--version").output().is_ok_and(|o| o.status.success()) {
        return crate::support::skip("gcc is not here, or cores are not plain files");
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for folder in ["bin/plug", "lib"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    fs::write(at("boom.c"), "__attribute__((noinline)) int boom(int *p) { return *p; }\n").unwrap();
    fs::write(at("main.c"), "int boom(int *);\nint main(void) { return boom(0) + 1; }\n").unwrap();
    let (library, program) = (at("lib/libboom.so"), at("bin/app"));
    // The second is taken as it is, from the folder that the program runs in.
    for name in ["libboom.so", "../lib/libboom.so"] {
        compile(&library, &["-shared", "-fPIC", &format!("-Wl,-soname,{name}"), text(&at("boom.c"))]);
        compile(&program, &[text(&at("main.c")), text(&library), "-Wl,-rpath,$ORIGIN/plug/../../lib"]);
        let core = die(dir.path(), WITH_TEXT, &[text(&at("bin/plug/../app"))]);
        let bare = without_list(&core, &at("bare"));
        assert_eq!(json(&["sys", text(&bare)])["executable"], text(&program));
        fs::rename(&program, at("away")).unwrap();
        for core in if name.starts_with('.') { vec![core] } else { vec![core, bare] } {
            assert_eq!(symbols(&stack(&[text(&core)]))[0], "boom");
            let shown = session(&core, &["bt", "info sharedlibrary"], &[]);
            assert!(
                shown.contains("boom (p=0x0)") && !shown.contains("No such file or directory"),
                "{shown}"
            );
            assert!(shown.contains("/lib/libboom.so") && !shown.contains(" No  "), "{shown}");
        }
    }
}

/// Rust's backtrace maps the program's debug file, which has the program's build-id.
#[test]
fn a_debug_file_that_the_process_itself_read_is_no_matter() {
    if !plain_cores() || !Command::new("gcc").arg("--version").output().is_ok_and(|o| o.status.success()) {
        return crate::support::skip("gcc is not here, or cores are not plain files");
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let code = "#include <fcntl.h>\n#include <sys/mman.h>\nint main(int c, char **v) {\n\
                char *own = mmap(0, 4096, PROT_READ, MAP_PRIVATE, open(v[1], O_RDONLY), 0);\n\
                return *own + *(volatile int *)0; }\n";
    fs::write(at("reads.c"), code).unwrap();
    compile(
        &at("reads"),
        &[text(&at("reads.c")), "-Wl,--build-id=0x1234567890abcdef1234567890abcdef12345678"],
    );
    let debug = at("debug/.build-id/12/34567890abcdef1234567890abcdef12345678.debug");
    fs::create_dir_all(debug.parent().unwrap()).unwrap();
    let (program, kept) = (at("reads"), debug.clone());
    let split = Command::new("objcopy").arg("--only-keep-debug").args([&program, &kept]).status();
    assert!(split.unwrap().success());
    assert!(Command::new("strip").arg(&program).status().unwrap().success());
    let core = die(dir.path(), DEFAULT, &[text(&program), text(&debug)]);
    let shown = session(&core, &["bt"], &["--debug-dir", text(&at("debug"))]);
    assert!(shown.contains("main (c=") && !shown.contains("cannot link"), "{shown}");
}

#[test]
fn scripts_of_proven_files_are_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let (source, program) = (dir.path().join("maps.cc"), dir.path().join("maps"));
    let code = "#include <map>\n#include <string>\nstd::map<std::string, int> ages{{\"ann\", 5}, {\"bob\", 7}};\n\
                int main() { *(volatile int *)0 = ages.size(); }\n";
    fs::write(&source, code).unwrap();
    let Ok(out) = Command::new("g++").args(["-g", "-O0", "-o"]).arg(&program).arg(&source).output() else {
        return crate::support::skip("g++ is not here");
    };
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    if !plain_cores() {
        return;
    }
    let core = die(dir.path(), DEFAULT, &[text(&program)]);
    let ask = "info auto-load python-scripts";
    let native = Command::new("gdb")
        .args(["-nx", "-batch", "-ex", ask, "-ex", "p ages"])
        .arg(&program)
        .arg(&core)
        .output();
    let native = String::from_utf8_lossy(&native.unwrap().stdout).into_owned();
    if !native.contains("std::map with 2 elements") {
        return crate::support::skip("gdb has no printers for libstdc++ here");
    }
    let shown = session(&core, &[ask, "p ages"], &[]);
    assert!(shown.contains("= std::map with 2 elements = {[\"ann\"] = 5, [\"bob\"] = 7}"), "{shown}");
}

#[test]
fn a_python_stack_is_shown_with_nothing_typed() {
    if !plain_cores() {
        return;
    }
    // The system's, and a new one: they differ in all that is read.
    let (mut chosen, mut new): (Vec<_>, Vec<_>) = pythons().into_iter().partition(|p| p.starts_with("/usr"));
    new.retain(|p| text(p).contains("/3.12.") || text(p).contains("/3.13."));
    chosen.extend(new.into_iter().max());
    if chosen.is_empty() {
        return crate::support::skip("/usr/bin/python3 is not here");
    }
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("dies.py");
    fs::write(&source, "import ctypes\ndef inner():\n    ctypes.string_at(0)\ninner()\n").unwrap();
    for python in chosen {
        let core = die(dir.path(), DEFAULT, &[text(&python), text(&source)]);
        let shown = session(&core, &["py-bt"], &[]);
        let greeting = shown.split("=== py-bt").next().unwrap();
        let line = format!("File \"{}\", line 3, in inner", source.display());
        assert!(greeting.contains("most recent call first") && greeting.contains(&line), "{shown}");
        let typed = shown.split("=== py-bt").nth(1).unwrap();
        assert!(typed.contains(&line), "{shown}");
    }
}
