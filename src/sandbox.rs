//! What the server may do once everything is open: read the files that it may still
//! need, talk to those who connect, and nothing else.
//!
//! A dump is hostile input, and so is a client. The parsers are written for that; this is for what was
//! overlooked. Landlock (Linux 5.13) takes away all files but those below the folders in
//! [`Needs`], seccomp all system calls but those that reading, answering and threads need: no program
//! is started, no connection made, nothing written but the cache of unpacked debug files. Either is
//! entered as far as the kernel has it; a server without is as good as any other.
//!
//! Debug files are opened when first asked for, so where they may lie must stay
//! readable: the system's programs and libraries (which hold no secrets), `--debug-dir`, the dump's
//! own folder. Of a process core without `--sysroot` that is every file. A link in
//! one of these folders that leads out of them is refused as any file is that cannot be read.
//!
//! `debuginfod-find`, where `DEBUGINFOD_URLS` asks for it, is a program that needs the network. System
//! calls are then not restricted, as it would inherit that; writing is.
//!
//! The restrictions are those of a thread and of all that it starts from then on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use tracing::info;

/// The newest rights that are known here; older kernels know fewer, and give those.
const RIGHTS: ABI = ABI::V5;
/// Programs, libraries, their debug files, kernels. Also how many processors we may use.
const SYSTEM: [&str; 11] = [
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/sbin",
    "/opt",
    "/boot",
    "/nix/store",
    "/gnu/store",
    "/proc/self",
    "/sys/fs/cgroup",
];

/// What a server still needs once its dump is open.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Files and folders that are read, beside the system's.
    pub read: Vec<PathBuf>,
    /// Folders that are written into: caches.
    pub write: Vec<PathBuf>,
    /// `debuginfod-find` is run.
    pub fetch: bool,
    /// Where the socket lies that is removed at the end.
    pub remove_in: Option<PathBuf>,
}

/// What of the sandbox this thread is in now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    /// Only the files that are needed.
    pub files: bool,
    /// Only the system calls that are needed.
    pub calls: bool,
}

/// Restricts this thread, and those that it starts, to `needs`.
pub fn enter(needs: &Needs) -> Entered {
    let files = files(needs).map_err(|e| e.to_string()).and_then(|status| match status {
        RulesetStatus::NotEnforced => Err("this kernel has no Landlock".to_owned()),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    });
    let calls = match needs.fetch {
        true => Err("debuginfod-find is to be run".to_owned()),
        false => calls().and_then(|filter| seccompiler::apply_filter(&filter)).map_err(|e| e.to_string()),
    };
    for (what, done) in [("files", &files), ("system calls", &calls)] {
        match done {
            Ok(()) => info!("sandbox: {what} are restricted"),
            Err(why) => info!("sandbox: {what} are not restricted: {why}"),
        }
    }
    Entered { files: files.is_ok(), calls: calls.is_ok() }
}

fn files(needs: &Needs) -> Result<RulesetStatus, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile;
    let mut rules = Ruleset::default().handle_access(AccessFs::from_all(RIGHTS))?.create()?;
    for folder in &needs.write {
        // It cannot be made later.
        let _ = std::fs::create_dir_all(folder);
        rules = allow(rules, folder, write)?;
    }
    for path in SYSTEM.iter().map(Path::new).chain(needs.read.iter().map(PathBuf::as_path)) {
        rules = allow(rules, path, read)?;
    }
    if let Some(folder) = &needs.remove_in {
        rules = allow(rules, folder, AccessFs::RemoveFile.into())?;
    }
    if needs.fetch {
        rules = allow(rules, Path::new("/"), read | AccessFs::Execute)?;
        rules = allow(rules, Path::new("/dev/null"), AccessFs::ReadFile | AccessFs::WriteFile)?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// What is not there needs no rule.
fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let here = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let Ok(fd) = PathFd::new(here) else { return Ok(rules) };
    let access = if here.is_dir() { access } else { access & AccessFs::from_file(RIGHTS) };
    rules.add_rule(PathBeneath::new(fd, access))
}

/// System calls of std, of both C libraries, of the allocators, and of our own waiting.
const CALLS: &[libc::c_long] = &[
    // files
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_fcntl,
    libc::SYS_fadvise64,
    libc::SYS_dup,
    libc::SYS_ftruncate,
    // large parts of a compressed dump, into a file that is open
    libc::SYS_pwrite64,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    // clients
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_poll,
    libc::SYS_ppoll,
    // memory
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_membarrier,
    // threads and time
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_arch_prctl,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // what the machine is
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrusage,
    libc::SYS_prlimit64,
    libc::SYS_getrlimit,
    libc::SYS_getuid,
    libc::SYS_geteuid,
];

/// What else is asked for does not exist, as it is on an older kernel: what has
/// another way takes it, as thread creation does without `clone3`.
fn calls() -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = CALLS.iter().map(|&call| (call, Vec::new())).collect();
    let bits = |argument, mask: i32, value: i32| {
        let (mask, value) = (u64::from(mask.cast_unsigned()), u64::from(value.cast_unsigned()));
        let masked = SeccompCmpOp::MaskedEq(mask);
        SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, masked, value)?])
    };
    let one_of = |argument, values: &[u64]| {
        let is = |&value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
        values.iter().map(|value| SeccompRule::new(vec![is(value)?])).collect::<Result<Vec<_>, _>>()
    };
    // Threads, no processes.
    rules.insert(libc::SYS_clone, vec![bits(0, libc::CLONE_THREAD, libc::CLONE_THREAD)?]);
    // No memory that can be run.
    rules.insert(libc::SYS_mmap, vec![bits(2, libc::PROT_EXEC, 0)?]);
    rules.insert(libc::SYS_mprotect, vec![bits(2, libc::PROT_EXEC, 0)?]);
    // Whether it is a terminal, and how wide.
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, reason = "of musl they are of another type")]
    let requests =
        [libc::TCGETS, libc::TIOCGWINSZ, libc::FIONBIO, libc::FIOCLEX].map(|request| request as u64);
    rules.insert(libc::SYS_ioctl, one_of(1, &requests)?);
    // Names of threads and of mappings.
    let names = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA];
    rules.insert(libc::SYS_prctl, one_of(0, &names.map(|name| u64::from(name.cast_unsigned())))?);
    // abort(3)
    let us = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, one_of(0, &[us])?);
    let refuse = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, TargetArch::x86_64)?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;

    use super::*;

    /// On a thread of its own, which stays restricted.
    fn inside<T: Send>(needs: &Needs, test: impl FnOnce(Entered) -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(|| test(enter(needs))).join().unwrap())
    }

    #[test]
    fn files_are_those_that_are_needed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["given", "cache", "run", "secret"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("file"), name).unwrap();
        }
        std::os::unix::fs::symlink(at("secret/file"), at("given/link")).unwrap();
        let needs = Needs {
            read: vec![at("given"), at("not-there")],
            write: vec![at("cache/made")],
            remove_in: Some(at("run")),
            ..Needs::default()
        };
        inside(&needs, |entered| {
            if !entered.files {
                return crate::lab::not_here("no Landlock in this kernel");
            }
            let denied =
                |result: std::io::Result<()>| result.unwrap_err().kind() == ErrorKind::PermissionDenied;
            assert_eq!(fs::read(at("given/file")).unwrap(), b"given");
            assert!(fs::read_dir(at("given")).is_ok() && fs::read_dir("/usr").is_ok());
            for other in ["secret/file", "given/link", "cache/file", "run/file"] {
                assert!(denied(File::open(at(other)).map(drop)), "{other}");
            }
            assert!(denied(fs::write(at("given/file"), "x")) && denied(fs::write(at("given/new"), "x")));
            let (part, whole) = (at("cache/made/a/part"), at("cache/made/a/whole"));
            fs::create_dir(at("cache/made/a")).unwrap();
            fs::write(&part, "x").unwrap();
            fs::rename(part, &whole).unwrap();
            fs::remove_file(whole).unwrap();
            fs::remove_file(at("run/file")).unwrap();
            assert!(denied(fs::remove_file(at("given/file"))));
        });
    }

    #[test]
    fn no_programs_no_connections_but_threads_and_clients() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        inside(&Needs { read: vec!["/".into()], ..Needs::default() }, |entered| {
            if !entered.calls {
                return crate::lab::not_here("no seccomp in this kernel");
            }
            assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::Unsupported);
            assert!(TcpListener::bind("127.0.0.1:0").is_err());
            assert!(Command::new("true").spawn().is_err());
            assert!(std::thread::available_parallelism().is_ok());
            let name = std::thread::Builder::new().name("inside".to_owned());
            assert!(name.spawn(|| File::open("/proc/self/status").is_ok()).unwrap().join().unwrap());
            std::thread::sleep(std::time::Duration::from_millis(1));
        });
        drop(listener);
    }

    #[test]
    fn what_is_fetched_is_fetched_by_a_program() {
        let folder = tempfile::tempdir().unwrap();
        let needs = Needs { write: vec![folder.path().join("cache")], fetch: true, ..Needs::default() };
        inside(&needs, |entered| {
            assert!(!entered.calls);
            let run = |line: &str| Command::new("sh").arg("-c").arg(line).current_dir(&folder).status();
            assert!(run("exec 2> /dev/null; echo x > cache/file").unwrap().success());
            let written = run("exec 2> /dev/null; echo x > file").unwrap().success();
            assert!(!written || !entered.files);
        });
    }
}
