use super::*;

#[test]
fn hostile_names_are_not_looked_for() {
    for name in [
        "etc/passwd",
        "/a/../etc/passwd",
        "/x\x1b[31m",
        "/dev/zero",
        "/proc/self/mem",
        "/sys/x",
        "//anon",
        "/memfd:x (deleted)",
        "/SYSV00000000 (deleted)",
        "",
    ] {
        assert!(clean_name(name.as_bytes()).is_err(), "{name}");
    }
    assert!(clean_name(b"/\xff").is_err());
    assert_eq!(clean_name(b"/usr/lib/x.so (deleted)").unwrap(), Path::new("/usr/lib/x.so"));
    assert_eq!(clean_name(b"/device/x").unwrap(), Path::new("/device/x"));
}

#[test]
fn links_do_not_lead_out_of_the_sysroot() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("usr/lib")).unwrap();
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, root.join(at)).unwrap();
    link("usr/lib", "lib");
    link("/usr/lib", "lib64");
    link("../../../../etc/passwd", "usr/lib/up");
    link("loop", "loop");
    let resolve = |p: &str| resolve_within(root, Path::new(p));
    assert_eq!(resolve("/lib/x.so"), Some(root.join("usr/lib/x.so")));
    assert_eq!(resolve("/lib64/x.so"), Some(root.join("usr/lib/x.so")));
    assert_eq!(resolve("/lib/up"), Some(root.join("etc/passwd")));
    assert_eq!(resolve("/loop"), None);
}
