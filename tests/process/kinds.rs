//! Kinds of programs and cores that tell less than usual: without build-ids, headers,
//! a list of files, unwind tables; Python, Go, C++. Each is made here.

use super::*;

/// A folder with `ends.c` compiled in some way, and the cores of it.
pub(super) struct Ends {
    pub(super) dir: tempfile::TempDir,
}

impl Ends {
    /// Nothing where there is no such compiler, or the kernel hands cores to a program.
    pub(super) fn compiled(compiler: &str, args: &[&str]) -> Option<Self> {
        if !plain_cores() {
            return None;
        }
        let ends = Self { dir: tempfile::tempdir().unwrap() };
        let support = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support");
        let mut command = Command::new(compiler);
        command.current_dir(support).args(["-g", "-O1", "-w", "-o"]).arg(ends.program());
        let Ok(out) = command.args(args).output() else {
            crate::support::skip(&format!("{compiler} is not here"));
            return None;
        };
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Some(ends)
    }

    pub(super) fn program(&self) -> PathBuf {
        self.dir.path().join("ends")
    }

    pub(super) fn core(&self, way: &str, filter: &str) -> PathBuf {
        die(self.dir.path(), filter, &[text(&self.program()), way])
    }
}

/// Whether the kernel writes plain files.
pub(super) fn plain_cores() -> bool {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let plain = pattern.trim() == "core";
    if !plain {
        crate::support::skip("the kernel's core_pattern is not `core`");
    }
    plain
}

/// Runs a command to its death in `dir`, with that coredump_filter: its core.
pub(super) fn die(dir: &Path, filter: &str, command: &[&str]) -> PathBuf {
    let run = tempfile::tempdir_in(dir).unwrap().keep();
    let script = format!(
        "ulimit -c unlimited; ulimit -s 1024; echo {filter} > /proc/self/coredump_filter; exec \"$@\""
    );
    let mut shell = Command::new("bash");
    shell.args(["-c", &script, "bash"]).args(command).current_dir(&run);
    let out = shell.output().unwrap();
    let core = fs::read_dir(&run).unwrap().flatten().map(|e| e.path()).find(|p| text(p).contains("/core"));
    core.unwrap_or_else(|| panic!("{command:?} left no core: {}", String::from_utf8_lossy(&out.stderr)))
}

pub(super) fn symbols(stack: &Value) -> Vec<String> {
    let frames = stack["frames"].as_array().unwrap();
    frames.iter().map(|f| f["symbol"].as_str().unwrap_or("??").to_owned()).collect()
}

/// The stack of the thread that died.
pub(super) fn stack(args: &[&str]) -> Value {
    json(&[&["bt"], args].concat())[0].clone()
}

pub(super) fn mapping_of<'v>(maps: &'v Value, name: &str) -> &'v Value {
    maps.as_array().unwrap().iter().find(|m| m["name"].as_str().unwrap().ends_with(name)).unwrap()
}

#[test]
fn a_program_without_build_id_is_proven_by_its_pages() {
    let Some(ends) = Ends::compiled("gcc", &["-Wl,--build-id=none", "ends.c"]) else { return };
    let core = ends.core("divide", DEFAULT);
    let sys = json(&["sys", text(&core)]);
    assert!(sys["code_in_file"].as_str().unwrap().contains("idiv"), "{sys}");
    let maps = json(&["maps", text(&core)]);
    let program = mapping_of(&maps, "/ends");
    assert!(
        program["why"].as_str().unwrap().starts_with("by its contents: it has no build-id, and 1 of "),
        "{program}"
    );
    assert_eq!(program["missing"], 0);
    // Another program at its place has another first page.
    fs::copy("/bin/true", ends.program()).unwrap();
    let sys = json(&["sys", text(&core)]);
    assert!(sys["code_in_file"].is_null(), "{sys}");
    assert!(sys["files_missing"][0].as_str().unwrap().contains("another first page"), "{sys}");
}

#[test]
fn a_page_that_differs_is_no_proof() {
    let Some(ends) = Ends::compiled("gcc", &["-Wl,--build-id=none", "ends.c"]) else { return };
    let core = ends.core("divide", WITH_TEXT);
    let pc = number(&json(&["sys", text(&core)])["pc"]);
    let zeroed = ends.dir.path().join("zeroed");
    patch(&core, &zeroed, pc & !0xfff, &[0; 4096]);
    let maps = json(&["maps", text(&zeroed)]);
    assert!(mapping_of(&maps, "/ends")["why"].as_str().unwrap().contains("1 of"), "{maps}");
    // Its symbols are good all the same, and `sys` says what is wrong.
    assert_eq!(symbols(&stack(&[text(&zeroed)]))[0], "divide");
    let warnings = json(&["sys", text(&zeroed)])["warnings"].to_string();
    assert!(warnings.contains("reads as ZEROS in the core, but the file has code there"), "{warnings}");
}

#[test]
fn a_file_that_is_elsewhere_is_taken_by_the_users_word() {
    let Some(ends) = Ends::compiled("gcc", &["ends.c"]) else { return };
    let core = ends.core("divide", DEFAULT);
    let away = tempfile::tempdir().unwrap();
    let moved = away.path().join("deep/er");
    fs::create_dir_all(&moved).unwrap();
    let moved = moved.join("renamed");
    fs::rename(ends.program(), &moved).unwrap();
    let lost = json(&["sys", text(&core)]);
    assert!(lost["files_missing"][0].as_str().unwrap().contains("the file is not found"), "{lost}");
    for option in [["--exec", text(&moved)], ["--lib", text(&moved)], ["--search-dir", text(away.path())]] {
        let found = json(&["sys", text(&core), option[0], option[1]]);
        assert!(found["code_in_file"].as_str().is_some_and(|c| c.contains("idiv")), "{option:?}: {found}");
    }
    // Word or not: a build-id that is another's is another program.
    let other = json(&["sys", text(&core), "--exec", "/bin/true"]);
    assert!(other["files_missing"][0].as_str().unwrap().contains("/true has build-id"), "{other}");
}

#[test]
fn without_elf_headers_files_are_found_by_path_and_called_unproven() {
    let Some(ends) = Ends::compiled("gcc", &["ends.c"]) else { return };
    let core = ends.core("divide", "0x23");
    assert_eq!(symbols(&stack(&[text(&core)]))[..2], ["divide", "main"]);
    let why = mapping_of(&json(&["maps", text(&core)]), "/ends")["why"].as_str().unwrap().to_owned();
    assert!(why.contains("coredump_filter without bit 4"), "{why}");
    assert!(json(&["sys", text(&core)])["code_in_file"].is_null());
    // They are programs and libraries, not data.
    let (_, told, _) = corestub(&["verify", text(&core)]);
    assert!(told.contains("/ends: the core holds none of its ") && told.contains(" 0 data files"), "{told}");
    let trusted = json(&["sys", text(&core), "--trust-paths"]);
    assert!(trusted["code_in_file"].as_str().unwrap().contains("idiv"), "{trusted}");
    // The build-id of the file that was found leads to its debug file.
    let run = |tool: &str, args: &[&str]| assert!(Command::new(tool).args(args).status().unwrap().success());
    let (program, id) = (ends.program(), crate::support::dumps::build_id(&ends.program()).unwrap());
    let debugs = ends.dir.path().join("debug");
    let debug = debugs.join(format!(".build-id/{}/{}.debug", &id[..2], &id[2..]));
    fs::create_dir_all(debug.parent().unwrap()).unwrap();
    run("objcopy", &["--only-keep-debug", text(&program), text(&debug)]);
    run("strip", &[text(&program)]);
    assert_eq!(symbols(&stack(&[text(&core), "--debug-dir", text(&debugs)]))[..2], ["divide", "main"]);
}

/// A copy of the core in which the list of files is none.
pub(super) fn without_list(core: &Path, to: &Path) -> PathBuf {
    let mut raw = fs::read(core).unwrap();
    // The note's type, NT_FILE.
    let at = raw.windows(4).position(|w| w == b"ELIF").unwrap();
    raw[at..at + 4].copy_from_slice(b"none");
    fs::write(to, raw).unwrap();
    to.to_owned()
}

#[test]
fn a_core_without_a_list_of_files_has_the_same_stack() {
    let Some(ends) = Ends::compiled("gcc", &["ends.c"]) else { return };
    let core = ends.core("divide", DEFAULT);
    let bare = without_list(&core, &ends.dir.path().join("bare"));
    let frames = |core: &Path| {
        let stack = stack(&[text(core)]);
        let modules = stack["frames"].as_array().unwrap().iter().map(|f| f["link_address"].clone());
        (symbols(&stack), modules.collect::<Vec<_>>())
    };
    assert_eq!(frames(&core), frames(&bare));
    let sys = json(&["sys", text(&bare)]);
    assert_eq!(sys["executable"], text(&ends.program()));
    assert!(
        sys["warnings"][0].as_str().unwrap().contains("no list of mapped files (NT_FILE): 3 programs"),
        "{sys}"
    );
}

#[test]
fn rules_of_debug_frame_and_of_a_debug_file_by_its_link_serve() {
    let flags =
        ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-Wl,--build-id=none", "-O2", "ends.c"];
    let Some(ends) = Ends::compiled("gcc", &flags) else { return };
    let whole = ["divide", "main"].map(str::to_owned);
    let core = ends.core("divide", DEFAULT);
    let own = stack(&[text(&core)]);
    assert_eq!(symbols(&own)[..2], whole);
    assert_eq!(own["frames"][2]["kind"], "call", "{own}");
    // Stripped, with the debug file beside it. The first page has another section table.
    let (program, debug) = (ends.program(), ends.dir.path().join(".debug/ends.debug"));
    fs::create_dir(debug.parent().unwrap()).unwrap();
    let run = |args: &[&str]| assert!(Command::new("objcopy").args(args).status().unwrap().success());
    run(&["--only-keep-debug", text(&program), text(&debug)]);
    run(&["--strip-all", &format!("--add-gnu-debuglink={}", text(&debug)), text(&program)]);
    let core = ends.core("divide", DEFAULT);
    let linked = stack(&[text(&core)]);
    assert_eq!(symbols(&linked)[..2], whole, "{linked}");
    assert_eq!(linked["frames"][2]["kind"], "call");
    // One byte more, and the checksum says that it is not its.
    fs::OpenOptions::new().append(true).open(&debug).unwrap().write_all(b"x").unwrap();
    let stripped = stack(&[text(&core)]);
    assert_eq!(symbols(&stripped)[0], "??");
    assert!(!stripped["ended"].is_null() || stripped["frames"][1]["kind"] != "call", "{stripped}");
}

#[test]
fn a_walk_that_ends_early_says_why() {
    let Some(ends) = Ends::compiled("gcc", &["ends.c"]) else { return };
    let core = ends.core("overflow", DEFAULT);
    fs::rename(ends.program(), ends.dir.path().join("away")).unwrap();
    let lost = stack(&[text(&core)]);
    let why = lost["ended"].as_str().unwrap_or_else(|| panic!("{lost}"));
    assert!(
        why.contains("nothing tells who called") && why.contains("/ends: the file is not found"),
        "{why}"
    );
}

#[test]
fn last_words_and_causes_are_told() {
    let Some(ends) = Ends::compiled("gcc", &["ends.c"]) else { return };
    let sys = |way: &str| json(&["sys", text(&ends.core(way, DEFAULT))]);
    let message = sys("assert")["abort_message"].as_str().unwrap().to_owned();
    assert!(message.contains("Assertion `argc == 99 && \"the message\"' failed."), "{message}");
    let died = sys("seccomp")["died_of"].as_str().unwrap().to_owned();
    assert!(died.ends_with("forbids the system call): getppid (110)"), "{died}");
    let core = ends.core("overflow", DEFAULT);
    let sys = json(&["sys", text(&core)]);
    assert!(sys["warnings"].to_string().contains("a stack overflow"), "{sys}");
    let (ok, why, _) = corestub(&["why", text(&core), sys["siginfo"]["address"].as_str().unwrap()]);
    assert!(ok && why.contains("just below the stack of thread"), "{why}");
    let maps = json(&["maps", text(&core)]);
    assert_eq!(mapping_of(&maps, "[stack]")["perms"], "rw-p");
}

#[test]
fn a_stack_for_signal_handlers_is_labelled() {
    let Some(ends) = Ends::compiled("gcc", &["ends.c"]) else { return };
    let core = ends.core("sigaltstack", DEFAULT);
    let (sys, maps) = (json(&["sys", text(&core)]), json(&["maps", text(&core)]));
    let stack = mapping_of(&maps, &format!("[sigaltstack:{}]", sys["pid"]));
    let (start, end) = (number(&stack["start"]), number(&stack["end"]));
    assert_eq!(end - start, 1 << 16, "{stack}");
    assert_eq!(sys["signal_stack"], format!("{start:#x}-{end:#x}"));
    let (_, why, _) = corestub(&["why", text(&core), &format!("{:#x}", end - 8)]);
    assert!(why.contains("on the stack for signal handlers of thread"), "{why}");
    // The handler gave up by SIGABRT, which says nothing of the cause.
    assert_eq!(sys["signal"], "SIGABRT");
    assert!(sys["warnings"].to_string().contains("a stack overflow"), "{sys}");
    assert!(json(&["sys", text(&ends.core("overflow", DEFAULT))])["signal_stack"].is_null());
}

/// A handler that gives up hides what it was called for; the frame that the kernel made for it tells.
#[test]
fn what_a_handler_was_called_for_is_told() {
    for (compiler, flags) in
        [("gcc", &["-O1", "ends.c"][..]), ("musl-gcc", &["-O1", "-static", "-DPLAIN", "ends.c"])]
    {
        let Some(ends) = Ends::compiled(compiler, flags) else { return };
        for (way, last, returned) in [("report", "SIGABRT", false), ("again", "SIGSEGV", true)] {
            let core = ends.core(way, DEFAULT);
            let sys = json(&["sys", text(&core)]);
            let [was] = sys["handling"].as_array().unwrap().as_slice() else { panic!("{way}: {sys}") };
            assert_eq!((&sys["signal"], &was["returned"]), (&last.into(), &returned.into()), "{way}: {sys}");
            assert_eq!((&was["symbol"], &was["siginfo"]["address"]), (&"add".into(), &"0x8".into()), "{way}");
            assert!(was["code"].as_str().unwrap().contains("(%rdi)"), "{way}: {was}");
            let (_, shown, _) = corestub(&["bt", text(&core)]);
            assert_eq!(shown.contains("<interrupted by SIGSEGV at 0x8>"), !returned, "{way}: {shown}");
        }
        // Without SA_SIGINFO the processor's own state is all that is known.
        let sys = json(&["sys", text(&ends.core("handler", DEFAULT))]);
        assert_eq!(sys["handling"][0]["address"], "0x8", "{sys}");
        assert!(sys["handling"][0]["siginfo"].is_null(), "{sys}");
        for way in ["divide", "kill", "read-only"] {
            assert!(json(&["sys", text(&ends.core(way, DEFAULT))])["handling"].is_null(), "{way}");
        }
    }
}

#[test]
fn a_damaged_file_is_told_from_a_damaged_core() {
    use std::os::unix::fs::FileExt;
    let Some(ends) = Ends::compiled("gcc", &["ends.c"]) else { return };
    let (small, core) = (ends.core("divide", DEFAULT), ends.core("divide", WITH_TEXT));
    let sys = json(&["sys", text(&core)]);
    let zeroed = ends.dir.path().join("zeroed");
    patch(&core, &zeroed, number(&sys["pc"]) & !0xfff, &[0; 4096]);
    // The file's page, too: its parts lie in it as in memory.
    let file = fs::OpenOptions::new().write(true).open(ends.program()).unwrap();
    file.write_all_at(&[0; 4096], number(&sys["module_offset"]) & !0xfff).unwrap();
    let warnings = |core: &Path| json(&["sys", text(core)])["warnings"].to_string();
    let both = warnings(&zeroed);
    assert!(both.contains("all ZEROS in the core and in the file: the file itself is damaged"), "{both}");
    let left_out = warnings(&small);
    assert!(left_out.contains("all ZEROS in the file (the core left it out)"), "{left_out}");
    let (_, verified, _) = corestub(&["verify", text(&zeroed), "ends"]);
    assert!(verified.contains("1 pages of its code are all zeros in the core and in the file"), "{verified}");
    let (_, verified, _) = corestub(&["verify", text(&small), "ends"]);
    assert!(verified.contains("1 pages of its code are all zeros in the file (the core left"), "{verified}");
    assert!(json(&["sys", text(&small)])["code_in_core"].is_null());
}

#[test]
fn a_signal_handler_in_musl_is_walked_through() {
    let Some(ends) = Ends::compiled("musl-gcc", &["-static", "-DPLAIN", "ends.c"]) else { return };
    let stack = stack(&[text(&ends.core("handler", DEFAULT))]);
    let symbols = symbols(&stack);
    let at = symbols.iter().position(|s| s == "handler").unwrap_or_else(|| panic!("{stack}"));
    assert_eq!(stack["frames"][at + 1]["note"], "signal handler called", "{stack}");
    assert_eq!(symbols[at + 2], "main");
    assert_eq!(stack["frames"][at + 2]["kind"], "signal");
}

#[test]
fn an_uncaught_exception_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (source, program) = (dir.path().join("throws.cc"), dir.path().join("throws"));
    let code = "#include <stdexcept>\nnamespace app { struct bad : std::runtime_error { using runtime_error::runtime_error; };\n\
                template <class T> __attribute__((noinline)) void fail(T t) { throw t; } }\n\
                int main(int c, char **) { if (c > 1) app::fail(app::bad(\"x\")); app::fail(std::out_of_range(\"no such row\")); }\n";
    fs::write(&source, code).unwrap();
    let Ok(out) = Command::new("g++").args(["-g", "-O1", "-o"]).arg(&program).arg(&source).output() else {
        return crate::support::skip("g++ is not here");
    };
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    if !plain_cores() {
        return;
    }
    let core = die(dir.path(), DEFAULT, &[text(&program)]);
    assert_eq!(
        json(&["sys", text(&core)])["exception"],
        serde_json::json!(["std::out_of_range", "no such row"])
    );
    let (_, shown, _) = corestub(&["bt", text(&core)]);
    assert!(shown.contains("void app::fail<std::out_of_range>(std::out_of_range)+"), "{shown}");
    let core = die(dir.path(), DEFAULT, &[text(&program), "own"]);
    assert_eq!(json(&["sys", text(&core)])["exception"], serde_json::json!(["app::bad", null]));
}

/// A program of Go, if there is a compiler and cores are plain files.
pub(super) fn go(dir: &Path, code: &str) -> Option<PathBuf> {
    let Some(go) = ["go", "/usr/local/go/bin/go", "/usr/lib/go-1.19/bin/go"]
        .into_iter()
        .find(|go| Command::new(go).arg("version").output().is_ok())
    else {
        crate::support::not_here("go is not installed");
        return None;
    };
    if !plain_cores() {
        return None;
    }
    let program = dir.join("goes");
    fs::write(dir.join("main.go"), code).unwrap();
    let mut build = Command::new(go);
    build.current_dir(dir).args(["build", "-o"]).arg(&program).arg("main.go");
    let out = build.env("GOCACHE", dir.join("cache")).env("GOFLAGS", "-mod=mod").output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Some(program)
}

#[test]
fn go_is_walked_through_its_signal_handler_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let code = "package main\ntype node struct { next *node; v int }\n//go:noinline\n\
                func deep(n int, p *node) int { if n == 0 { return p.next.v }; return deep(n-1, p) + 1 }\n\
                func main() { println(deep(3, &node{})) }\n";
    let Some(program) = go(dir.path(), code) else { return };
    let core = die(dir.path(), DEFAULT, &["env", "GOTRACEBACK=crash", text(&program)]);
    let stack = stack(&[text(&core)]);
    let symbols = symbols(&stack);
    let at =
        |name: &str| symbols.iter().position(|s| s == name).unwrap_or_else(|| panic!("no {name} in {stack}"));
    assert!(at("runtime.sigtrampgo") < at("main.deep") && at("main.deep") + 4 == at("main.main"), "{stack}");
    assert_eq!(symbols.last().unwrap(), "runtime.goexit.abi0");
    assert!(stack["ended"].is_null(), "{stack}");
    let sys = json(&["sys", text(&core)]);
    assert!(sys["code_in_file"].is_string() && sys["go"].is_string(), "{sys}");
    // The control blocks of its threads lie in the heap, too.
    let maps = json(&["maps", text(&core)]);
    let heap = maps.as_array().unwrap().iter().find(|m| number(&m["start"]) == 0xc0_0000_0000);
    assert_eq!(heap.unwrap()["name"], "[Go heap]", "{maps}");
}

/// Pythons of any version that are here: the system's, and pyenv's.
pub(super) fn pythons() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/usr/bin/python3")];
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    for entry in fs::read_dir(home.join(".pyenv/versions")).into_iter().flatten().flatten() {
        let version = entry.file_name().into_string().unwrap_or_default();
        let minor = version.strip_prefix("3.").and_then(|v| v.split('.').next()?.parse().ok());
        if minor.is_some_and(|m: u32| (8..=13).contains(&m)) {
            found.push(entry.path().join("bin/python3"));
        }
    }
    found.retain(|p| p.exists());
    found
}

#[test]
fn python_frames_stand_between_those_of_c() {
    if !plain_cores() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("dies.py");
    let code = "import ctypes, threading, time\n\
                class Handler:\n    def handle(self, n):\n        k = (n +\n             1)\n        return ctypes.string_at(\n            0)\n\
                def outer(n):\n    return max([n], key=lambda n: Handler().handle(n))\n\
                def waits():\n    time.sleep(1000)\n\
                threading.Thread(target=waits, daemon=True).start()\ntime.sleep(0.1)\nouter(1)\n";
    fs::write(&source, code).unwrap();
    let pythons = pythons();
    if pythons.is_empty() {
        return crate::support::skip("no Python from 3.8 to 3.13 is here");
    }
    for python in pythons {
        let core = die(dir.path(), DEFAULT, &[text(&python), text(&source)]);
        let stacks = json(&["bt", text(&core), "--all"]);
        let rows = |stack: &Value| -> Vec<(String, u64)> {
            let frames = stack["frames"].as_array().unwrap().iter();
            let python = frames.flat_map(|f| f["python"].as_array().cloned().unwrap_or_default());
            python
                .map(|p| (p["function"].as_str().unwrap().to_owned(), p["line"].as_u64().unwrap()))
                .collect()
        };
        let died = rows(&stacks[0]);
        let short = |name: &str| name.rsplit('.').next().unwrap().to_owned();
        let names: Vec<_> = died.iter().map(|(name, line)| (short(name), *line)).collect();
        let own = ["string_at", "handle", "<lambda>", "outer", "<module>"];
        let lines = [6, 9, 9, 14];
        assert_eq!(
            names.iter().map(|n| n.0.as_str()).collect::<Vec<_>>(),
            own,
            "{}: {died:?}",
            python.display()
        );
        // A call of several lines counts from its first since 3.8, but 3.11 names the place of the argument.
        for ((name, line), wanted) in names[1..].iter().zip(lines) {
            assert!(
                *line == wanted || (name == "handle" && *line == 7),
                "{}: {name} {line}",
                python.display()
            );
        }
        assert!(stacks[0]["python"].is_null(), "{}: {}", python.display(), stacks[0]);
        // The call through `max` is one of C: its frames stand between.
        let with = stacks[0]["frames"].as_array().unwrap().iter().filter(|f| !f["python"].is_null()).count();
        assert!(with >= 2, "{}", python.display());
        let waiting = stacks.as_array().unwrap()[1..].iter().map(rows).collect::<Vec<_>>();
        assert!(
            waiting.iter().any(|w| w.iter().any(|(name, line)| name == "waits" && *line == 11)),
            "{waiting:?}"
        );
    }
}
