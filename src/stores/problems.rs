//! Problem folders: of ABRT, a file for each fact (`libreport`, "problem data"), and of
//! apport-unpack, the same by other names; and apport's reports, one text that has the
//! core in base64 behind all else (`problem_report.py`, `write`).

use std::path::{Path, PathBuf};

use super::{Folder, Keeper, Kept, PACKED, head, kdump, regular};

pub(super) const FOLDERS: [Folder; 3] =
    [("var/spool/abrt", by_abrt), ("var/tmp/abrt", by_abrt), ("var/crash", by_apport)];
/// How the core is called in a problem folder of ABRT, and in one of apport-unpack.
const CORES: [&str; 2] = ["coredump", "CoreDump"];
/// Of a file that holds one fact.
const FACT: u64 = 4096;
/// Of a report: its texts come first.
const TEXTS: u64 = 256 << 10;
const REPORT: &[u8] = b"ProblemType:";

/// The core in a problem folder.
pub(super) fn core_in(folder: &Path) -> Option<PathBuf> {
    let packed = |name: &str| PACKED.map(|end| format!("{name}{end}"));
    let names = CORES.into_iter().flat_map(|name| [name.to_owned()].into_iter().chain(packed(name)));
    names.map(|name| folder.join(name)).find(|path| regular(path).is_some())
}

fn by_abrt(folder: &Path) -> Option<Kept> {
    let path = core_in(folder).or_else(|| kdump::vmcore_in(folder))?;
    let kept = Kept::of(Keeper::Abrt, path.clone(), &regular(&path)?);
    let fact = |name: &str| {
        let text = String::from_utf8(head(&folder.join(name), FACT)?).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let number = |name: &str| fact(name)?.parse().ok();
    let exe = fact("executable");
    Some(Kept {
        time: fact("time").and_then(|time| time.parse().ok()).or(kept.time),
        // In a container the one outside is what the journal has.
        pid: number("global_pid").or_else(|| number("pid")),
        uid: number("uid"),
        // "sleep killed by SIGSEGV"
        signal: fact("reason")
            .and_then(|r| r.rsplit(' ').next().filter(|w| w.starts_with("SIG")).map(ToOwned::to_owned)),
        comm: exe.as_deref().and_then(|exe| exe.rsplit('/').next()).map(ToOwned::to_owned),
        exe,
        ..kept
    })
}

/// Whether a file is a report of apport.
pub(super) fn is_report(path: &Path) -> bool {
    // A pipe must not be opened twice: its writer would find it closed.
    path.is_file()
        && std::fs::File::open(path).is_ok_and(|file| {
            let mut head = [0; REPORT.len()];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut head, 0).is_ok() && head == REPORT
        })
}

fn by_apport(path: &Path) -> Option<Kept> {
    let name = path.file_name()?.to_str()?.strip_suffix(".crash")?;
    let text = head(path, TEXTS)?;
    if !text.starts_with(REPORT) {
        return None;
    }
    let text = String::from_utf8_lossy(&text);
    // Lines that begin with a space go on with the field before them.
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).filter(|value| !value.is_empty()).map(ToOwned::to_owned)
    };
    let status = |name: &str| {
        let of = text.lines().skip_while(|line| !line.starts_with("ProcStatus:")).skip(1);
        let mut of = of.take_while(|line| line.starts_with(' '));
        of.find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))
            .map(|v| v.trim().to_owned())
    };
    if field("ProblemType").as_deref() != Some("Crash") {
        return None;
    }
    let exe = field("ExecutablePath");
    let program = exe.as_deref().and_then(|exe| exe.rsplit('/').next()).map(ToOwned::to_owned);
    let kept = Kept::of(Keeper::Apport, path.to_owned(), &regular(path)?);
    Some(Kept {
        pid: status("Pid").and_then(|pid| pid.parse().ok()),
        uid: name.rsplit('.').next().and_then(|uid| uid.parse().ok()),
        signal: field("SignalName").or_else(|| field("Signal")),
        comm: status("Name").or(program),
        exe,
        report: true,
        ..kept
    })
}
