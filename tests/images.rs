//! Which images of a kernel and its modules a client is given.

use std::path::Path;
use std::process::Stdio;

use crate::support::client::Client;
use crate::support::fixtures::fixture;
use crate::support::program::{Server, have_gdb, patient, remote_timeout};

/// The type of the ELF file at `path` (2: it has its build-id and a link to its types, 3: it
/// holds these), or the error.
fn elf_type(client: &mut Client, path: &str) -> u8 {
    let path: String = path.bytes().map(|b| format!("{b:02x}")).collect();
    let opened = client.ask(&format!("vFile:open:{path},0,0"));
    let fd = opened.strip_prefix('F').unwrap();
    let head = client.ask(&format!("vFile:pread:{fd},14,0"));
    let data = head.split_once(';').unwrap().1;
    assert_eq!(client.ask(&format!("vFile:close:{fd}")), "F0");
    data.as_bytes()[16]
}

#[test]
fn who_took_our_types_gets_the_modules_whole() {
    let server = Server::start(&fixture("k6.1-zstd.kdump"), &[]).unwrap();
    let mut client = Client::connect(&server.address);
    client.ask("qSupported:multiprocess+");
    for path in ["/kernel/vmlinux", "/modules/zram.ko", "/modules/labcrash.ko"] {
        assert_eq!(elf_type(&mut client, path), 2, "{path}");
    }
    assert_eq!(elf_type(&mut client, "/kernel/vmlinux.btf.debug"), 2);
    assert_eq!(elf_type(&mut client, "/modules/zram.ko"), 3);
    // It did not come with the kernel, and somebody may have its debug info.
    assert_eq!(elf_type(&mut client, "/modules/labcrash.ko"), 2);
    assert_eq!(elf_type(&mut client, "/kernel/vmlinux"), 2);
    let mut other = Client::connect(&server.address);
    other.ask("qSupported:multiprocess+");
    assert_eq!(elf_type(&mut other, "/modules/zram.ko"), 2);
}

#[test]
fn lldb_is_told_of_images_that_hold_all() {
    let server = Server::start(&fixture("k6.1-zstd.kdump"), &[]).unwrap();
    let mut client = Client::connect(&server.address);
    client.ask("qSupported:multiprocess+");
    assert_eq!(client.ask("QThreadSuffixSupported"), "");
    assert!(client.ask("?").ends_with(";library:;"));
    let list = client.document("libraries:read:");
    assert!(list.contains("<library name=\"/whole/vmlinux\"><section address=\"0xffffffff"), "{list}");
    assert!(list.contains("<library name=\"/whole/zram.ko\"><section address=\"0xffffffffc"), "{list}");
    assert_eq!(elf_type(&mut client, "/whole/vmlinux"), 3);
    let hex = |text: &str| text.bytes().map(|b| format!("{b:02x}")).collect::<String>();
    let mut info = |path: &str| client.ask(&format!("qModuleInfo:{};{}", hex(path), hex("x86_64-unknown")));
    let zram = info("/whole/zram.ko");
    assert!(zram.starts_with("uuid:") && zram.contains(&hex("/whole/zram.ko")), "{zram}");
    assert_ne!(zram, info("/whole/loop.ko"));
    for wrong in ["/whole/none.ko", "/etc/passwd", ""] {
        assert_eq!(info(wrong), "E01", "{wrong}");
    }
    assert_eq!(client.ask("qModuleInfo:2;3"), "E01");
    assert_eq!(client.ask("qModuleInfo"), "E01");
}

/// gdb announces each file that it opens or looks for.
#[test]
fn gdb_says_little_at_connect() {
    if !have_gdb() {
        return;
    }
    let server = Server::start(&fixture("k6.1-zstd.kdump"), &[]).unwrap();
    let output = patient("gdb")
        .args(["-nx", "-batch", "-iex", &remote_timeout(), "-ex", "set debuginfod enabled off"])
        .args(["-ex", "set width 0", "-ex", &format!("target remote {}", server.address)])
        .args(["-ex", "info sharedlibrary", "-ex", "p sizeof(struct zram)", "-ex", "bt 4"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let modules: Vec<&str> = text.lines().filter(|l| l.contains("Yes") && l.contains("/modules/")).collect();
    let types = modules.iter().filter(|l| !l.contains("Yes (*)")).count();
    let opened = text.lines().filter(|l| l.starts_with("Reading ")).count();
    assert!(modules.len() > 5 && types == modules.len() - 1, "{text}");
    // The kernel, its types, the unwind rules; labcrash, by its build-id too.
    assert!(opened <= modules.len() + 9, "{opened}:\n{text}");
    assert!(!text.contains(".ko.btf.debug") && text.contains("labcrash_level1"), "{text}");
    assert!(Path::new("/usr/lib/debug").exists() || text.contains("$1 = "), "{text}");
}
