//! Folders as the systems make them.

use std::os::unix::fs::symlink;

use super::*;

const BOOT: &str = "0123456789abcdef0123456789abcdef";

struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn systemd(&self, name: &str) -> PathBuf {
        self.file(&format!("var/lib/systemd/coredump/{name}"), "x")
    }

    fn all(&self) -> Vec<Kept> {
        let found = all(Some(self.0.path()));
        assert!(found.unread.is_empty(), "{:?}", found.unread);
        found.kept
    }

    fn find(&self, word: &str) -> Result<Option<PathBuf>> {
        find_in(Path::new(word), || all(Some(self.0.path())))
    }
}

#[test]
fn a_name_or_a_pid_stands_for_the_newest_core() {
    let root = Root::new();
    root.systemd(&format!("core.my\\x2eapp.1000.{BOOT}.77.1700000000000000.zst"));
    root.systemd(&format!("core.my\\x2eapp.1000.{BOOT}.78.1700000001000000.lz4"));
    root.systemd(&format!("core.a.b.0.{BOOT}.5.1600000000000000"));
    root.systemd("other");
    let all = root.all();
    let told: Vec<_> = all.iter().map(|c| (c.comm.as_deref().unwrap(), c.pid, c.uid, c.time)).collect();
    assert_eq!(
        told,
        [
            ("my.app", Some(78), Some(1000), Some(1_700_000_001)),
            ("my.app", Some(77), Some(1000), Some(1_700_000_000)),
            ("a.b", Some(5), Some(0), Some(1_600_000_000))
        ]
    );
    assert_eq!(root.find("my.app").unwrap(), Some(all[0].path.clone()));
    assert_eq!(root.find("77").unwrap(), Some(all[1].path.clone()));
    for none in ["nobody", "./77", "7", ""] {
        assert_eq!(root.find(none).unwrap(), None, "{none}");
    }
}

#[test]
fn a_programs_whole_name_is_in_an_attribute() {
    let root = Root::new();
    let core = root.systemd(&format!("core.gnome-settings-.0.{BOOT}.9.1700000000000000"));
    let set = |name: &str, value: &str| {
        rustix::fs::setxattr(&core, name, value.as_bytes(), rustix::fs::XattrFlags::empty())
    };
    // Not every file system has attributes.
    if set("user.coredump.exe", "/usr/libexec/gnome-settings-daemon").is_err() {
        return;
    }
    set("user.coredump.signal", "11").unwrap();
    let all = root.all();
    assert_eq!(all[0].signal.as_deref(), Some("11"));
    assert_eq!(root.find("gnome-settings-daemon").unwrap(), Some(core));
}

#[test]
fn a_problem_folder_stands_for_the_core_in_it() {
    let root = Root::new();
    let folder = root.0.path().join("var/spool/abrt/ccpp-2024-01-01-77");
    fs::create_dir_all(&folder).unwrap();
    let refused = root.find(folder.to_str().unwrap()).unwrap_err().to_string();
    assert!(refused.contains("a folder without a dump"), "{refused}");
    let core = root.file("var/spool/abrt/ccpp-2024-01-01-77/coredump", "x");
    assert_eq!(root.find(folder.to_str().unwrap()).unwrap(), Some(core.clone()));
    for (name, value) in [
        ("executable", "/usr/bin/sleep"),
        ("pid", "7"),
        ("global_pid", "77\n"),
        ("uid", "1000"),
        ("time", "1700000000"),
        ("reason", "sleep killed by SIGSEGV"),
    ] {
        root.file(&format!("var/spool/abrt/ccpp-2024-01-01-77/{name}"), value);
    }
    let all = root.all();
    let [kept] = all.as_slice() else { panic!("{all:?}") };
    let text = |s: &str| Some(s.to_owned());
    assert_eq!((kept.keeper, kept.pid, kept.uid), (Keeper::Abrt, Some(77), Some(1000)));
    assert_eq!(
        (kept.time, &kept.signal, &kept.comm),
        (Some(1_700_000_000), &text("SIGSEGV"), &text("sleep"))
    );
    assert_eq!(root.find("sleep").unwrap(), Some(core));
}

#[test]
fn a_report_of_apport_is_listed_and_refused_with_what_helps() {
    let root = Root::new();
    let report = root.file(
        "var/crash/_usr_bin_x.1000.crash",
        "ProblemType: Crash\nExecutablePath: /usr/bin/x\nProcStatus:\n Name:\tthread-1\n Pid:\t88\nSignal: 6\n\
         CoreDump: base64\n H4sI\n",
    );
    root.file("var/crash/y.0.crash", "ProblemType: Package\n");
    for word in [report.to_str().unwrap(), "x", "thread-1", "88"] {
        let refused = root.find(word).unwrap_err().to_string();
        assert!(refused.contains("apport-unpack") && refused.contains("_usr_bin_x"), "{refused}");
    }
    let all = root.all();
    let [kept] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((kept.pid, kept.uid, kept.signal.as_deref()), (Some(88), Some(1000), Some("6")));
    let core = root.file(&format!("var/lib/apport/coredump/core._usr_bin_z.0.{BOOT}.99.123456"), "x");
    assert_eq!(root.find("z").unwrap(), Some(core));
}

#[test]
fn vmcores_are_found_in_every_distributions_form() {
    let root = Root::new();
    let wanted = [
        root.file("var/crash/127.0.0.1-2024-01-01-10:00:00/vmcore", "x"),
        root.file("var/crash/202401011000/dump.202401011000", "x"),
        root.file("var/crash/2024-01-01-10:00/vmcore.zst", "x"),
    ];
    root.file("var/crash/202401011000/dmesg.202401011000", "x");
    root.file("var/crash/empty/README.txt", "x");
    root.file("var/crash/kexec_cmd", "x");
    let mut paths: Vec<_> = root.all().into_iter().map(|kept| kept.path).collect();
    paths.sort();
    let mut wanted = wanted.to_vec();
    wanted.sort();
    assert_eq!(paths, wanted);
    assert_eq!(root.find("vmcore").unwrap(), None, "a vmcore has no name but its path");
    let folder = wanted[0].parent().unwrap().to_str().unwrap();
    assert_eq!(root.find(folder).unwrap(), Some(wanted[0].clone()));
}

#[test]
fn what_others_may_have_laid_there_is_not_followed() {
    let root = Root::new();
    let secret = root.file("secret", "ProblemType: Crash\nExecutablePath: /secret\n");
    for name in ["var/crash", "var/lib/systemd/coredump", "var/spool/abrt"] {
        fs::create_dir_all(root.0.path().join(name)).unwrap();
    }
    let link = |name: &str| symlink(&secret, root.0.path().join(name)).unwrap();
    link("var/crash/a.0.crash");
    link(&format!("var/lib/systemd/coredump/core.a.0.{BOOT}.1.1700000000000000"));
    symlink("/", root.0.path().join("var/crash/root")).unwrap();
    let pipe = root.0.path().join("var/crash/pipe.0.crash");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert_eq!(root.all(), []);
}

#[test]
fn a_folder_that_cannot_be_read_is_told() {
    let root = Root::new();
    root.file("var/crash", "no folder");
    let found = all(Some(root.0.path()));
    assert!(!found.unread.is_empty() && found.kept.is_empty());
}
