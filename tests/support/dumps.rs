//! The kernel dumps at hand, and what drgn says about each.
//!
//! A dump `NAME` has its oracle beside it in `NAME.drgn.json` (by
//! scripts/lab/drgn-oracle.py) and `NAME.addresses.json` (by drgn-addresses.py),
//! each possibly with `.zst`; beside samples the dump's own suffix is left out.
//! Where no lab is, the fixtures in tests/fixtures take its place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::program::{corestub, output};
use super::{cache, fixtures, lab_dirs, skip};

/// A dump of which the truth is known.
pub struct Dump {
    pub path: PathBuf,
    oracle: PathBuf,
}

/// drgn's view of a vmcore.
#[derive(Deserialize)]
pub struct Oracle {
    pub tasks: Vec<Task>,
    pub uname: BTreeMap<String, String>,
    #[serde(default)]
    pub vmcoreinfo: BTreeMap<String, String>,
    pub crashed: Option<Crashed>,
    #[serde(default)]
    pub modules: Vec<Module>,
}

#[derive(Deserialize)]
pub struct Crashed {
    pub pid: u32,
    pub comm: String,
}

#[derive(Deserialize)]
pub struct Module {
    pub base: String,
    pub size: u64,
}

#[derive(Deserialize)]
pub struct Task {
    pub task: String,
    pub pid: u32,
    pub tgid: u32,
    pub comm: String,
    pub idle: bool,
    #[serde(default)]
    pub state: Option<String>,
    #[serde(default)]
    pub ppid: Option<u32>,
    #[serde(default)]
    pub cpu: Option<u32>,
    #[serde(default)]
    pub on_cpu: Option<u32>,
    #[serde(default)]
    pub stack: Vec<Frame>,
    pub stack_error: Option<String>,
    /// `pt_regs` at the top of the stack, by the kernel's names.
    #[serde(default)]
    pub user_regs: BTreeMap<String, String>,
    pub fsbase: Option<String>,
}

#[derive(Deserialize)]
pub struct Frame {
    pub pc: Option<String>,
    pub symbol: Option<String>,
    #[serde(default)]
    pub inline: bool,
}

/// Addresses and what drgn reads there.
#[derive(Deserialize)]
pub struct Addresses {
    pub size: usize,
    /// Kind, address, process (0: the kernel's own space), bytes in hex.
    pub samples: Vec<(String, String, u32, Option<String>)>,
}

impl Task {
    /// The program counters of the frames that are not inlined, with the symbol, down to
    /// the first of user space: from there drgn guesses on by frame pointers.
    pub fn pcs(&self) -> Vec<(u64, &str)> {
        let frames = self.stack.iter().filter(|f| !f.inline);
        let mut pcs: Vec<_> = frames
            .filter_map(|f| Some((number(f.pc.as_deref()?), f.symbol.as_deref().unwrap_or("?"))))
            .collect();
        if let Some(user) = pcs.iter().position(|(pc, _)| pc >> 56 == 0) {
            pcs.truncate(user + 1);
        }
        pcs
    }

    /// Whether drgn ends at a retpoline thunk, where ORC ends before 6.4: the CPU was
    /// interrupted at its first instruction, and has callers.
    pub fn ends_in_thunk(&self) -> bool {
        self.pcs().last().is_some_and(|(_, name)| name.starts_with("__x86_indirect_thunk_"))
    }

    /// The thread id by which corestub serves it.
    pub fn tid(&self) -> u32 {
        if self.idle { (1 << 22) + 1 + self.cpu.unwrap_or_default() } else { self.pid }
    }

    /// Dead, but not yet waited for: its stack is freed, and may be in use again.
    pub fn is_dead(&self) -> bool {
        matches!(self.state.as_deref(), Some("Z" | "X"))
    }
}

impl Oracle {
    /// Whether an address is in a module.
    pub fn in_module(&self, address: u64) -> bool {
        self.modules.iter().any(|m| address.wrapping_sub(number(&m.base)) < m.size)
    }
}

/// A hexadecimal number with `0x`.
pub fn number(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> T {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let bytes = if path.extension().is_some_and(|e| e == "zst") {
        zstd::decode_all(&bytes[..]).unwrap()
    } else {
        bytes
    };
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// `FILE + suffix`, plain or compressed.
fn beside(file: &Path, suffix: &str) -> Option<PathBuf> {
    let plain = PathBuf::from(format!("{}{suffix}", file.display()));
    let packed = PathBuf::from(format!("{}.zst", plain.display()));
    [plain, packed].into_iter().find(|p| p.exists())
}

impl Dump {
    /// A name for messages: `6.12.117+deb12-cloud-amd64/kdump-oops/z31.kdump`.
    pub fn name(&self) -> String {
        label(&self.path)
    }

    pub fn oracle(&self) -> Oracle {
        read_json(&self.oracle)
    }

    /// What crash prints of it (`NAME.crash.txt`), if it was run.
    pub fn crash(&self) -> Option<String> {
        // a sample's oracles are beside each other, wherever the sample was unpacked
        let sample = self.oracle.file_name()?.to_str()?.strip_suffix(".drgn.json.zst");
        let sample = sample.map(|name| self.oracle.with_file_name(name));
        let text = [Some(self.path.clone()), sample];
        let path = text.iter().flatten().find_map(|p| beside(p, ".crash.txt"))?;
        let bytes = std::fs::read(&path).ok()?;
        let packed = path.extension().is_some_and(|e| e == "zst");
        let bytes = if packed { zstd::decode_all(&bytes[..]).unwrap() } else { bytes };
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether two files are dumps of one moment of one guest.
    fn guest(&self) -> (PathBuf, bool) {
        if self.oracle.extension().is_some_and(|e| e == "zst") {
            return (self.path.clone(), false); // a sample: one guest a file
        }
        (self.path.parent().unwrap().to_owned(), self.file_name().starts_with("qemu"))
    }

    /// Whether labcrash's three nested functions are what crashed.
    pub fn is_module_panic(&self) -> bool {
        let oracle = self.oracle();
        let is = |t: &&Task| oracle.crashed.as_ref().is_some_and(|c| c.pid == t.pid && c.comm == t.comm);
        let level3 = |f: &Frame| f.symbol.as_deref().is_some_and(|s| s.starts_with("labcrash_level3"));
        oracle.tasks.iter().find(is).is_some_and(|t| t.stack.iter().any(level3))
    }

    /// vmlinux with debug info of the dump's very kernel.
    pub fn vmlinux(&self) -> Option<PathBuf> {
        let oracle = self.oracle();
        let release = oracle.uname.get("release")?;
        let mut places: Vec<_> =
            lab_dirs().into_iter().chain([cache("lab")]).map(|l| l.join(format!("root-{release}"))).collect();
        places.push("/".into());
        let wanted = oracle.vmcoreinfo.get("BUILD-ID");
        places
            .into_iter()
            .map(|p| p.join(format!("usr/lib/debug/boot/vmlinux-{release}")))
            .find(|p| p.exists() && wanted.is_none_or(|id| build_id(p).is_none_or(|found| found == *id)))
    }

    /// The tasks that the filter left out, though they were to stay: makedumpfile up to 1.7.8 does so to a
    /// third of those of a kernel from 7.1 on, and drgn opens no such dump. The oracle is then that of the
    /// dump before it was filtered. A task that is not listed must be one, by its own pages.
    pub fn left_out(&self) -> Result<BTreeSet<u64>, String> {
        static KNOWN: Mutex<BTreeMap<PathBuf, BTreeSet<u64>>> = Mutex::new(BTreeMap::new());
        let mut known = KNOWN.lock().unwrap();
        if let Some(found) = known.get(&self.path) {
            return Ok(found.clone());
        }
        let ask = |args: &[&str]| output(corestub().args(args).arg(&self.path));
        let filtered = "task_structs lie in slab pages that the dump's filter left out";
        let mut found = BTreeSet::new();
        if ask(&["sys", "--json"])?.contains(filtered) {
            let rows: serde_json::Value =
                serde_json::from_str(&ask(&["ps", "--json"])?).map_err(|e| e.to_string())?;
            let rows = rows.as_array().ok_or("no rows")?.iter();
            let listed: BTreeSet<_> =
                rows.filter(|r| !r["pid"].is_null()).filter_map(|r| r["task"].as_str().map(number)).collect();
            let tasks = self.oracle().tasks;
            for at in tasks.iter().map(|t| number(&t.task)).filter(|at| !listed.contains(at)) {
                let is_lost = |at: u64| {
                    let why = output(corestub().arg("why").arg(&self.path).arg(format!("{at:x}")));
                    why.is_ok_and(|why| why.contains("left out of the dump by its filter"))
                };
                // A task_struct has no more pages.
                let pages = [at, (at | 0xfff) + 1, (at | 0xfff) + 0x1001, (at | 0xfff) + 0x2001];
                if !pages.into_iter().any(is_lost) {
                    return Err(format!("the task at {at:#x} is not listed, and is in the dump"));
                }
                found.insert(at);
            }
            eprintln!("{}: {} of {} tasks were left out", self.name(), found.len(), tasks.len());
            if found.len() * 2 > tasks.len() {
                return Err(format!("{} of {} tasks were left out", found.len(), tasks.len()));
            }
        }
        known.insert(self.path.clone(), found.clone());
        Ok(found)
    }

    /// What drgn reads at sampled addresses: recorded beside the dump, or recorded
    /// now if the lab has drgn.
    pub fn addresses(&self) -> Option<Addresses> {
        let beside =
            beside(&self.path, ".addresses.json").or_else(|| beside(&self.truth(), ".addresses.json"));
        let recorded = beside.or_else(|| self.record_addresses())?;
        Some(read_json(&recorded))
    }

    /// The file of the same moment that drgn opens: of what QEMU wrote its ELF file, and of what a filter
    /// left too little of that from before it.
    fn truth(&self) -> PathBuf {
        let of_qemu = self.file_name().starts_with("qemu");
        let elf = self.path.with_file_name(if of_qemu { "qemu.elf" } else { "vmcore.elf" });
        let other = elf.exists() && (of_qemu || self.left_out().is_ok_and(|tasks| !tasks.is_empty()));
        if other { elf } else { self.path.clone() }
    }

    fn record_addresses(&self) -> Option<PathBuf> {
        let (python, vmlinux) = (cache("lab").join("venv/bin/python"), self.vmlinux()?);
        let truth = &self.truth();
        let folder = cache("lab").join("addresses");
        let out = folder.join(format!("{}.json", label(truth).replace('/', "-")));
        if !out.exists() && python.exists() {
            std::fs::create_dir_all(&folder).ok()?;
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lab/drgn-addresses.py");
            let mut drgn = Command::new(python);
            drgn.args([Path::new(script), truth, &out, Path::new("--vmlinux"), &vmlinux]);
            let done = drgn.stdin(Stdio::null()).output().ok()?;
            assert!(done.status.success(), "{}: {}", self.name(), String::from_utf8_lossy(&done.stderr));
        }
        out.exists().then_some(out)
    }

    /// Whether an ELF dump has holes, which drgn reads as zeros.
    pub fn has_holes(&self) -> bool {
        use object::read::elf::{FileHeader, ProgramHeader};
        let mut head = vec![0; 1 << 20];
        let read = std::fs::File::open(&self.path).and_then(|mut f| std::io::Read::read(&mut f, &mut head));
        head.truncate(read.unwrap_or(0));
        let Ok(elf) = object::elf::FileHeader64::<object::Endianness>::parse(&head[..]) else {
            return self.path.extension().is_some_and(|e| e == "flat");
        };
        let Ok(endian) = elf.endian() else { return true };
        let Ok(segments) = elf.program_headers(endian, &head[..]) else { return false };
        segments.iter().any(|s| s.p_memsz(endian) > s.p_filesz(endian))
    }
}

fn label(path: &Path) -> String {
    let parts: Vec<_> = path.components().rev().take(3).map(|c| c.as_os_str().to_string_lossy()).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join("/")
}

/// A build-id, as `readelf -n` prints it.
pub fn build_id(elf: &Path) -> Option<String> {
    let out = Command::new("readelf").arg("-n").arg(elf).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines().find_map(|l| l.trim().strip_prefix("Build ID: ").map(str::to_owned))
}

fn collect(folder: &Path, depth: u32, found: &mut Vec<Dump>) {
    let mut entries: Vec<_> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in &entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            let tools = ["root-", "build-"].iter().any(|p| name.starts_with(p))
                || ["debs", "tools", "venv", "user", "oracle", "addresses"].contains(&name.as_str());
            if depth > 0 && !tools {
                collect(path, depth - 1, found);
            }
            continue;
        }
        if !path.extension().is_some_and(|e| e == "elf" || e == "kdump" || e == "flat") {
            continue;
        }
        // QEMU's own kdump files cannot be opened by drgn, but its ELF file is of the same moment
        let sibling = folder.join(if name.starts_with("qemu") { "qemu.elf" } else { "vmcore.elf" });
        let oracle = [path.clone(), path.with_extension(""), sibling];
        let known = |file: &PathBuf| {
            let oracle = beside(file, ".drgn.json")?;
            let tasks: serde_json::Value = read_json(&oracle);
            tasks["tasks"].as_array().is_some_and(|t| !t.is_empty()).then_some(oracle)
        };
        if let Some(oracle) = oracle.iter().find_map(known) {
            found.push(Dump { path: path.clone(), oracle });
        }
    }
}

/// A fixture with the oracle of the dump that it was cut from.
fn small(name: &str) -> Dump {
    let oracle = fixtures::folder().join(Path::new(name).with_extension("drgn.json.zst"));
    Dump { path: fixtures::fixture(name), oracle }
}

/// All dumps with an oracle. `CORESTUB_ONLY=TEXT` narrows them to names with that text.
pub fn all() -> Vec<Dump> {
    let mut found = Vec::new();
    for dir in lab_dirs() {
        collect(&dir, 2, &mut found);
    }
    if found.is_empty() {
        found.extend(fixtures::VMCORES.map(small));
    }
    if let Ok(only) = std::env::var("CORESTUB_ONLY") {
        found.retain(|d| d.name().contains(&only));
    }
    found
}

/// Those that hold all their pages, as fixtures do not.
pub fn whole() -> Vec<Dump> {
    all().into_iter().filter(|dump| !dump.path.starts_with(fixtures::folder())).collect()
}

/// One dump of each moment of each guest, for what is slow and does not depend on the
/// file format; with `CORESTUB_ALL` set, all.
pub fn one_of_each() -> Vec<Dump> {
    let mut dumps = all();
    if std::env::var_os("CORESTUB_ALL").is_none() {
        let rank = |d: &Dump| match d.path.extension().and_then(|e| e.to_str()) {
            Some("kdump") if d.file_name().contains("31") => 0,
            Some("kdump") => 1,
            Some("elf") => 2,
            _ => 3,
        };
        dumps.sort_by_key(|d| (d.guest(), rank(d), d.path.clone()));
        dumps.dedup_by_key(|d| d.guest());
    }
    dumps
}

/// What QEMU wrote of guests that it had stopped: their records are beside it.
pub fn of_stopped_guests() -> Vec<Dump> {
    all().into_iter().filter(|dump| dump.file_name() == "qemu.elf").collect()
}

/// Runs `test` on each; a panic or an `Err` fails at the end, with all names.
/// `Ok(false)` is a dump to which it does not apply. One at least must be tested.
#[track_caller]
pub fn each(what: &str, dumps: &[Dump], test: impl Fn(&Dump) -> Result<bool, String>) {
    let (mut failed, mut tested) = (Vec::new(), 0);
    for dump in dumps {
        match test(dump) {
            Ok(true) => tested += 1,
            Ok(false) => {}
            Err(why) => failed.push(format!("{}: {why}", dump.name())),
        }
    }
    if !failed.is_empty() {
        panic!("{what}: {} of {} dumps:\n{}", failed.len(), tested + failed.len(), failed.join("\n"));
    }
    eprintln!("{what}: {tested} dumps");
    if tested == 0 {
        let lab = lab_dirs();
        skip(&format!("none of {} dumps in {lab:?} has what it takes ({what})", dumps.len()));
    }
}
