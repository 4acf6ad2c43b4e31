//! Every way to die is told in words, and its stack is whole: with unwind rules, without
//! them, and where a library is mapped more than once.

use super::kinds::{Ends, die, go, plain_cores, stack, symbols};
use super::*;

#[test]
fn each_way_to_die_has_its_words() {
    let Some(ends) = Ends::compiled("gcc", &["ends.c"]) else { return };
    let cases = [
        ("divide", "SIGFPE (arithmetic exception), FPE_INTDIV", ""),
        ("double-free", "SIGABRT (aborted), SI_TKILL", "double free detected"),
        (
            "int3",
            "SIGTRAP (trace or breakpoint trap), SI_KERNEL (by the kernel: a breakpoint instruction)",
            "",
        ),
        ("ud2", "SIGILL (illegal instruction), ILL_ILLOPN (no such instruction) at 0x", ""),
        ("wild", "SI_KERNEL (by the kernel: a non-canonical address or a general protection fault)", ""),
        ("read-only", "SIGSEGV (segmentation fault), SEGV_ACCERR (the mapping does not allow it) at 0x", ""),
        ("null-call", "SEGV_MAPERR (no mapping there) at 0x0", ""),
        ("kill", "SIGQUIT (quit), SI_USER (kill), sent by process", ""),
        (
            "cut",
            "BUS_ADRERR",
            "/cut at file offset 0x1388: the file was cut or written anew while it was mapped",
        ),
    ];
    for (way, wanted, more) in cases {
        let core = ends.core(way, DEFAULT);
        let (ok, sys, _) = corestub(&["sys", text(&core)]);
        assert!(ok && sys.contains(wanted) && sys.contains(more), "{way}: {sys}");
        let stack = stack(&[text(&core)]);
        assert!(symbols(&stack).contains(&"main".to_owned()) && stack["ended"].is_null(), "{way}: {stack}");
        assert_eq!(symbols(&stack).last().unwrap(), "_start", "{way}: {stack}");
    }
}

/// What the processor refused, and what no signal says: in words, with a whole stack.
#[test]
fn each_mistake_has_its_words() {
    let Some(ends) = Ends::compiled("gcc", &["ends.c"]) else { return };
    // What `sys` says, and what `why` says of the address that it names.
    let cases = [
        ("overrun", "SIGABRT (aborted)", "malloc(): corrupted top size", ""),
        ("smash", "SIGABRT (aborted)", "*** stack smashing detected ***", ""),
        (
            "jump",
            "SI_KERNEL",
            "a jump to 0x4141414141414141, which can be no address (not canonical); it looks like text \"AAAAAAAA\"",
            "no mapping of the process covers 0x4141414141414141",
        ),
        ("lost-return", "SI_KERNEL", "a return to 0x4141414141414141, which can be no", "no mapping of the"),
        (
            "wild",
            "SI_KERNEL",
            "an access to 0x8000000000000000, which can be no",
            "no mapping of the process",
        ),
        (
            "misaligned",
            "SI_KERNEL",
            "8, which is no multiple of 16, as this instruction",
            "the byte is in the core",
        ),
        ("read-only", "SEGV_ACCERR", "REFUSED: a mapping that is r--p: ", "/ends at file offset 0x"),
        (
            "no-exec",
            "SEGV_ACCERR",
            "REFUSED: code was to run in a mapping that is rw-p: ",
            "/ends at file offset 0x",
        ),
        ("halt", "SI_KERNEL", "REFUSED: an instruction that only the kernel may run: hlt\n", ""),
        ("pkey", "SEGV_PKUERR (a protection key forbids it) at 0x", "", "is in the core"),
        ("cpu-time", "SIGXCPU (CPU time limit exceeded), SI_TKILL", "", ""),
        ("named", "SEGV_MAPERR (no mapping there) at 0x8", "", "no mapping of the process covers 0x8"),
        (
            "nameless",
            "COMMAND: ",
            "SEGV_MAPERR (no mapping there) at 0x8",
            "no mapping of the process covers 0x8",
        ),
    ];
    for (way, wanted, more, of_address) in cases {
        if way == "pkey" && !fs::read_to_string("/proc/cpuinfo").is_ok_and(|cpu| cpu.contains(" ospke")) {
            crate::support::not_here("this processor has no protection keys");
            continue;
        }
        let core = ends.core(way, DEFAULT);
        let (ok, sys, _) = corestub(&["sys", text(&core)]);
        assert!(ok && sys.contains(wanted) && sys.contains(more), "{way}: {sys}");
        let told = json(&["sys", text(&core)]);
        let refused = told["refused"].as_str().unwrap_or_default();
        let address = told["siginfo"]["address"]
            .as_str()
            .or_else(|| refused.split([' ', ',']).find(|w| w.starts_with("0x")));
        assert_eq!(address.is_none(), of_address.is_empty(), "{way}: {sys}");
        if let Some(address) = address {
            let (ok, why, _) = corestub(&["why", text(&core), address]);
            assert!(ok && why.contains(of_address), "{way}: {why}");
        }
        let stack = stack(&[text(&core)]);
        let names = symbols(&stack);
        assert!(stack["ended"].is_null() && names.last().unwrap() == "_start", "{way}: {stack}");
        // Where the caller is gone, what is shown as it is what was written there, and the rest is a guess.
        let lost = names.iter().position(|name| ["smash", "lose"].contains(&name.as_str()));
        assert!(lost.is_some() || names.contains(&"main".to_owned()), "{way}: {stack}");
        if let Some(lost) = lost {
            assert_eq!(stack["frames"][lost + 1]["pc"], "0x4141414141414141", "{way}: {stack}");
        }
    }
    // Whatever it is called, it is one line; machines get the name as it is.
    let core = ends.core("named", DEFAULT);
    for command in ["sys", "bt", "ps", "maps"] {
        let (_, shown, _) = corestub(&[command, text(&core)]);
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
        assert!(!shown.contains("new\n"), "{shown}");
    }
    assert_eq!(json(&["ps", text(&core)])[0]["comm"], "new\nname\u{1b}[31m");
    let nameless = json(&["sys", text(&ends.core("nameless", DEFAULT))]);
    assert_eq!((&nameless["executable"], &nameless["comm"]), (&text(&ends.program()).into(), &"exe".into()));
}

/// Code without frame pointers that lies in no file, or is lost, has its caller's in the register:
/// the caller is not left out for it.
#[test]
fn a_caller_whose_frame_pointer_was_kept_is_there() {
    let Some(ends) = Ends::compiled("gcc", &["-fno-omit-frame-pointer", "ends.c"]) else { return };
    for way in ["generated", "cut-call"] {
        let stack = stack(&[text(&ends.core(way, DEFAULT))]);
        assert_eq!(symbols(&stack)[..3], ["??", "call", "main"], "{way}: {stack}");
        assert!(stack["frames"][1]["kind"] != "call", "{way}: it is a guess: {stack}");
    }
}

/// Without rules and symbols a frame pointer of zero is no end, and the kernel's return address of a
/// signal handler is one.
#[test]
fn a_stripped_program_without_rules_has_its_callers() {
    let args = ["-O2", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-s", "ends.c"];
    let Some(ends) = Ends::compiled("gcc", &args) else { return };
    let thread = stack(&[text(&ends.core("thread", DEFAULT))]);
    let outermost = thread["frames"].as_array().unwrap().last().unwrap();
    assert!(outermost["module"].as_str().unwrap().contains("libc"), "{thread}");
    let handler = stack(&[text(&ends.core("handler", DEFAULT))]);
    let kinds: Vec<_> = handler["frames"].as_array().unwrap().iter().map(|f| f["kind"].clone()).collect();
    assert!(kinds.contains(&"signal".into()), "{handler}");
}

/// musl's libc has no unwind information: its own instructions tell.
#[test]
fn a_stack_in_musl_is_whole_without_rules() {
    for flags in [&["-static", "-DPLAIN", "ends.c"][..], &["-static", "-s", "-DPLAIN", "ends.c"]] {
        let Some(ends) = Ends::compiled("musl-gcc", flags) else { return };
        for (way, depth) in [("assert", 7), ("handler", 6), ("kill", 4)] {
            let stack = stack(&[text(&ends.core(way, DEFAULT))]);
            let frames = stack["frames"].as_array().unwrap();
            let guess = |f: &&Value| matches!(f["kind"].as_str(), Some("scan" | "frame_pointer"));
            assert_eq!(frames.iter().find(guess), None, "{way}: {stack}");
            assert!(frames.len() >= depth && stack["ended"].is_null(), "{way}: {stack}");
            let names = symbols(&stack);
            assert!(flags[1] == "-s" || names.contains(&"main".to_owned()), "{way}: {names:?}");
            assert!(flags[1] == "-s" || names.last().unwrap() == "_start", "{way}: {names:?}");
        }
    }
}

#[test]
fn a_library_that_is_mapped_again_has_its_symbols() {
    if !plain_cores() || !Command::new("gcc").arg("--version").output().is_ok_and(|o| o.status.success()) {
        return crate::support::skip("gcc is not here, or cores are not plain files");
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let library = "__attribute__((noinline)) int boom(int *p) { return *p; }\nint *table[] = {0, (int *)&table};\n\
                   int fn(void) { return boom(table[0]) + 1; }\n";
    // Once more in a namespace of its own, and below it whole, as one maps it who reads it.
    let program = "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <fcntl.h>\n#include <sys/mman.h>\n\
                   #include <unistd.h>\nint main(int c, char **v) {\n\
                   void *first = dlopen(v[1], RTLD_NOW), *own = dlmopen(LM_ID_NEWLM, v[1], RTLD_NOW);\n\
                   int fd = open(v[1], O_RDONLY);\n\
                   char *whole = mmap(0, lseek(fd, 0, SEEK_END), PROT_READ, MAP_PRIVATE, fd, 0);\n\
                   return ((int (*)(void))dlsym(c > 2 ? own : first, \"fn\"))() + *whole; }\n";
    fs::write(at("again.c"), library).unwrap();
    fs::write(at("main.c"), program).unwrap();
    let (library, program) = (at("libagain.so"), at("main"));
    compile(&library, &["-shared", "-fPIC", "-Wl,-z,relro,-z,now", text(&at("again.c"))]);
    compile(&program, &[text(&at("main.c")), "-ldl"]);
    for words in [&["first"][..], &["own", "x"]] {
        let command = [&[text(&program), text(&library)], &words[1..]].concat();
        let core = die(dir.path(), WITH_TEXT, &command);
        let stack = stack(&[text(&core)]);
        assert_eq!(symbols(&stack)[..3], ["boom", "fn", "main"], "{words:?}: {stack}");
        let rows = json(&["verify", text(&core), "libagain"]);
        assert_eq!(rows[0]["verdict"], "same", "{rows}");
    }
}

/// C runs on the thread's stack, and what called it on the goroutine's.
#[test]
fn a_call_from_go_into_c_is_walked_through() {
    if !Command::new("gcc").arg("--version").output().is_ok_and(|o| o.status.success()) {
        return crate::support::skip("gcc is not here");
    }
    let dir = tempfile::tempdir().unwrap();
    let code = "package main\n\
                // static __attribute__((noinline)) int crash(long at) { return *(volatile int *)at; }\n\
                import \"C\"\n//go:noinline\n\
                func deep(n int) int { if n == 0 { return int(C.crash(8)) }; return deep(n-1) + 1 }\n\
                func main() { println(deep(3)) }\n";
    let Some(program) = go(dir.path(), code) else { return };
    let core = die(dir.path(), DEFAULT, &["env", "GOTRACEBACK=crash", text(&program)]);
    let stack = stack(&[text(&core)]);
    let symbols = symbols(&stack);
    let at = |name: &str| symbols.iter().position(|s| s == name).unwrap_or_else(|| panic!("{name}: {stack}"));
    assert!(at("runtime.asmcgocall.abi0") + 1 == at("runtime.cgocall"), "{stack}");
    assert!(at("runtime.cgocall") < at("main.deep") && at("main.deep") + 4 == at("main.main"), "{stack}");
    assert_eq!(symbols.last().unwrap(), "runtime.goexit.abi0");
}
