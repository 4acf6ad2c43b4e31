//! The types that bare gdb is given for the kernel's globals, against its DWARF.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::program::{Server, patient};
use crate::support::{self, skip};

const RECORDED: &str = include_str!("../src/image/dwarf_types/globals.txt");

/// What gdb says of all of them: type and size of an element.
fn types(program: &mut std::process::Command) -> BTreeMap<String, (String, String)> {
    let names: Vec<&str> = RECORDED.lines().filter_map(|l| l.split_once(": ")).map(|(_, n)| n).collect();
    let support = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/globals.py");
    let output = program
        .args(["-ex", "set debuginfod enabled off", "-x"])
        .arg(support)
        .env("GLOBALS", names.join(" "))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let row = |line: &str| {
        let mut words = line.strip_prefix("GLOBAL ")?.split('\t').map(str::to_owned);
        Some((words.next()?, (words.next()?, words.next()?)))
    };
    let found: BTreeMap<_, _> = text.lines().filter_map(row).collect();
    assert!(!found.is_empty(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    found
}

/// Without the numbers of elements, and without the `const` of array elements.
fn shape(text: &str) -> String {
    let (element, array) = text.split_once('[').map_or((text, ""), |(element, _)| (element, "[]"));
    format!("{}{array}", element.replace("* const", "*").replace(' ', ""))
}

#[test]
fn the_types_of_globals_are_those_of_dwarf() {
    let mut kernels = 0;
    for dump in support::files("z31.kdump") {
        let Some(kernel) = dump.ancestors().nth(2).filter(|_| dump.with_file_name("oracle").is_dir()) else {
            continue;
        };
        let release = kernel.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let vmlinux = kernel.with_file_name(format!("root-{release}/usr/lib/debug/boot/vmlinux-{release}"));
        if !vmlinux.exists() {
            continue;
        }
        kernels += 1;
        let server = Server::start(&dump, &[]).unwrap();
        let bare = types(patient("gdb").args(["-nx", "-batch", "-iex", "set remotetimeout 60"]).args([
            "-iex",
            "set debuginfod enabled off",
            "-ex",
            &format!("target remote {}", server.address),
        ]));
        let real = types(patient("gdb").args(["-nx", "-batch"]).arg(&vmlinux));
        let mut wrong = Vec::new();
        for (name, (text, size)) in &bare {
            let Some((real_text, real_size)) = real.get(name) else { continue };
            if (shape(text), size) != (shape(real_text), real_size) {
                wrong.push(format!("{name}: {text} ({size}), DWARF says {real_text} ({real_size})"));
            }
        }
        assert!(wrong.is_empty(), "{release}: {wrong:#?}");
        let lost: Vec<&String> = real.keys().filter(|name| !bare.contains_key(*name)).collect();
        eprintln!("{release}: {} of {} globals typed; not: {lost:?}", bare.len(), real.len());
        assert!(10 * bare.len() > 9 * real.len(), "{release}: {} of {}: {lost:?}", bare.len(), real.len());
    }
    if kernels == 0 {
        skip("no dump with its vmlinux");
    }
}
