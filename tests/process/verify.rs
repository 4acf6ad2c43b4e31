//! `verify`, `sys` and `why`: the core against the files.

use super::*;

/// The answer of `verify` for one file.
fn verdict(rows: &Value, name: &str) -> Value {
    let of_name = |r: &&Value| r["file"].as_str().is_some_and(|f| f.ends_with(name));
    rows.as_array().unwrap().iter().find(of_name).unwrap_or_else(|| panic!("no {name} in {rows:#}")).clone()
}

fn all_but(rows: &Value, accused: &str) {
    for row in rows.as_array().unwrap() {
        let innocent = matches!(row["verdict"].as_str(), Some("same" | "nothing_in_core"));
        assert!(innocent || row["file"].as_str().unwrap().ends_with(accused), "{row:#}");
    }
}

/// The pc of the crash, which is in the library.
fn pc(core: &Path) -> u64 {
    number(&json(&["sys", text(core)])["pc"])
}

#[test]
fn an_untouched_core_is_the_same() {
    let Some(p) = programs() else { return };
    for (program, filter) in [("dies", WITH_TEXT), ("dies", DEFAULT), ("dies-static", WITH_TEXT)] {
        let rows = json(&["verify", text(&p.core(program, filter))]);
        all_but(&rows, "nothing is accused");
        assert_eq!(verdict(&rows, program)["verdict"], "same");
    }
    let library = verdict(&json(&["verify", text(&p.core("dies", WITH_TEXT))]), "libdoom.so");
    assert!(library["compared"].as_u64().unwrap() >= 4, "{library:#}");
}

#[test]
fn zeroed_text_is_seen_at_once() {
    let Some(p) = programs() else { return };
    let core = p.core("dies", WITH_TEXT);
    let (pc, zeroed) = (pc(&core), p.path("zeroed.core"));
    patch(&core, &zeroed, pc & !0xfff, &[0; 4096]);
    let rows = json(&["verify", text(&zeroed)]);
    all_but(&rows, "libdoom.so");
    let library = verdict(&rows, "libdoom.so");
    assert_eq!(
        (&library["verdict"], &library["zeroed"], &library["changed"]),
        (&"differs".into(), &1.into(), &0.into())
    );
    let (_, sys, _) = corestub(&["sys", text(&zeroed)]);
    assert!(sys.contains("reads as ZEROS in the core, but the file has code there"), "{sys}");
    assert!(sys.contains("SIGFPE"), "{sys}");
    assert!(sys.contains("add %al,(%rax)  (core)"), "{sys}");
    assert!(sys.contains("idiv "), "{sys}");
    let (_, verify, _) = corestub(&["verify", text(&zeroed)]);
    assert!(verify.contains("read as ZEROS in the core"), "{verify}");
}

#[test]
fn one_patched_instruction_is_found() {
    let Some(p) = programs() else { return };
    let core = p.core("dies", WITH_TEXT);
    let (pc, patched) = (pc(&core), p.path("patched.core"));
    patch(&core, &patched, pc, &[0x90, 0x90]);
    let rows = json(&["verify", text(&patched)]);
    all_but(&rows, "libdoom.so");
    let library = verdict(&rows, "libdoom.so");
    assert_eq!((library["zeroed"].as_u64(), library["changed"].as_u64()), (Some(0), Some(1)));
    let found = &library["differences"][0];
    assert_eq!((number(&found["first"]), found["bytes"].as_u64()), (pc, Some(2)));
    assert_eq!(found["symbol"], "divide");
    assert_eq!(found["instruction"][1], "nop");
    assert!(found["instruction"][2].as_str().unwrap().starts_with("idiv"), "{found:#}");

    patch(&core, &patched, pc, &[0xcc]);
    let library = verdict(&json(&["verify", text(&patched)]), "libdoom.so");
    assert_eq!(library["differences"][0]["how"], "breakpoint");
}

#[test]
fn relocated_text_is_named_and_not_accused() {
    let Some(p) = programs() else { return };
    let core = p.core("dies-textrel", WITH_TEXT);
    let rows = json(&["verify", text(&core)]);
    all_but(&rows, "nothing is accused");
    let library = verdict(&rows, "libtextrel.so");
    assert_eq!(library["verdict"], "same");
    assert!(library["relocated_text"].as_u64().unwrap() > 0, "{library:#}");
    let (_, verify, _) = corestub(&["verify", text(&core)]);
    assert!(verify.contains("DT_TEXTREL"), "{verify}");
    // But a real change in such a page is still one.
    let patched = p.path("textrel-patched.core");
    patch(&core, &patched, pc(&core), &[0x90, 0x90]);
    assert_eq!(verdict(&json(&["verify", text(&patched)]), "libtextrel.so")["changed"], 1);
}

/// A program in a folder of its own, so that its library can be replaced.
fn own_core(p: &Programs, folder: &str) -> (PathBuf, PathBuf, PathBuf) {
    let dir = p.path(folder);
    fs::create_dir_all(&dir).unwrap();
    let (program, library, core) = (dir.join("dies"), dir.join("libdoom.so"), dir.join("core"));
    fs::copy(p.path("dies"), &program).unwrap();
    fs::copy(p.path("libdoom.so"), &library).unwrap();
    kill(&program, DEFAULT, &library, &core);
    (program, library, core)
}

#[test]
fn a_library_that_was_upgraded_is_not_used() {
    let Some(p) = programs() else { return };
    let (_, library, core) = own_core(p, "upgraded");
    let at = pc(&core);
    let core = text(&core).to_owned();
    let why = |core: &str| json(&["why", core, &format!("{at:#x}")]);
    assert!(why(&core)["why"].as_str().unwrap().contains("supplies it"), "{}", why(&core));
    fs::remove_file(&library).unwrap();
    compile(&library, &["-shared", "-fPIC", "-DEDITION=2", "doom.c"]);
    let rows = json(&["verify", &core]);
    all_but(&rows, "libdoom.so");
    let row = verdict(&rows, "libdoom.so");
    assert_eq!(row["verdict"], "not_compared");
    let told = why(&core);
    let expected = row["build_id"].as_str().unwrap();
    let told = told["why"].as_str().unwrap();
    assert!(told.contains(&format!("expected build-id {expected}")), "{told}");
    assert!(told.contains(&format!("{} has build-id ", library.display())), "{told}");
    assert!(!told.contains(&format!("has build-id {expected}")), "{told}");
    let (_, sys, _) = corestub(&["sys", &core]);
    assert!(sys.contains("NOT FOUND") && sys.contains("libdoom.so"), "{sys}");
    fs::remove_file(&library).unwrap();
    assert!(why(&core)["why"].as_str().unwrap().contains("the file is not found"));
}

#[test]
fn files_are_found_under_the_sysroot_and_by_build_id() {
    let Some(p) = programs() else { return };
    let (program, library, core) = own_core(p, "moved");
    let at = format!("{:#x}", pc(&core));
    let id = verdict(&json(&["verify", text(&core)]), "libdoom.so")["build_id"].as_str().unwrap().to_owned();
    let root = p.path("root");
    let inside = root.join(library.strip_prefix("/").unwrap());
    fs::create_dir_all(inside.parent().unwrap()).unwrap();
    fs::rename(&library, &inside).unwrap();
    fs::rename(&program, inside.with_file_name("dies")).unwrap();
    let why = |options: &[&str]| {
        let args = [&["why"], options, &[text(&core), &at]].concat();
        json(&args)["why"].as_str().unwrap().to_owned()
    };
    assert!(why(&[]).contains("the file is not found"));
    let told = why(&["--sysroot", text(&root)]);
    assert!(told.contains(&format!("{} supplies it", inside.display())), "{told}");
    let by_id = p.path("debug").join(".build-id").join(&id[..2]);
    fs::create_dir_all(&by_id).unwrap();
    fs::rename(&inside, by_id.join(&id[2..])).unwrap();
    let told = why(&["--debug-dir", text(&p.path("debug"))]);
    assert!(told.contains(".build-id") && told.contains("supplies it"), "{told}");
}

#[test]
fn stacks_and_threads_are_listed() {
    let Some(p) = programs() else { return };
    let core = p.core("dies", DEFAULT);
    let stacks = json(&["bt", text(&core)]);
    let names: Vec<_> =
        stacks[0]["frames"].as_array().unwrap().iter().map(|f| f["symbol"].as_str()).collect();
    let wanted = ["divide", "die", "descend", "descend", "descend", "descend", "main"].map(Some);
    assert_eq!(&names[..7], &wanted, "{stacks:#}");
    let threads = json(&["ps", text(&core)]);
    assert_eq!(threads.as_array().unwrap().len(), 4);
    assert_eq!(
        (&threads[0]["died"], &threads[0]["signal"], &threads[0]["comm"]),
        (&true.into(), &"SIGFPE".into(), &"dies".into())
    );
    let all = json(&["bt", text(&core), "-a"]);
    for stack in all.as_array().unwrap() {
        let frames = stack["frames"].as_array().unwrap();
        assert!(frames.iter().any(|f| matches!(f["symbol"].as_str(), Some("waits" | "main"))), "{stack:#}");
    }
}
