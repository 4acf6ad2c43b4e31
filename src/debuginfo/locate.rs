//! Finds the real files: vmlinux, debug files of modules and programs, programs.
//!
//! By build-id where a package made the links (`.build-id/xx/yyyy.debug`), else by
//! release at the places that distributions use. A file counts only if its
//! build-id is the wanted one: a kernel of the same name from another build puts
//! every symbol wrong. Only regular files are opened, nothing is executed but
//! `debuginfod-find`, and that only if `DEBUGINFOD_URLS` asks for it.
//!
//! | distribution | vmlinux | modules |
//! |---|---|---|
//! | Debian, Ubuntu | `/usr/lib/debug/boot/vmlinux-REL` | `/usr/lib/debug/lib/modules/REL/kernel/**.ko` |
//! | Fedora, RHEL | `/usr/lib/debug/lib/modules/REL/vmlinux` | `.../REL/kernel/**.ko.debug` |
//! | SUSE | `/usr/lib/debug/boot/vmlinux-REL.debug` | `/usr/lib/debug/lib/modules/REL/**.ko.debug` |
//! | Arch | `/usr/lib/debug/usr/lib/modules/REL/vmlinux`, `.../REL/build/vmlinux` | `.../REL/kernel/**.ko.zst` |
//!
//! Beside the dump, too: a vmlinux, `*.debug` and `*.ko`, as they are sent along with it.
//!
//! Debian's debug packages have no `.build-id` links for the kernel, so gdb does not
//! find these files by itself.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::elf::{BuildId, File};
use crate::sandbox::Needs;

#[path = "locate_debuginfod.rs"]
mod debuginfod;

use debuginfod::Debuginfod;

/// Where debug files lie unless told otherwise.
pub const DEFAULT_DEBUG_DIR: &str = "/usr/lib/debug";
/// Directory entries visited below one folder; a distribution kernel has 10,000.
const WALK_MAX: usize = 200_000;
/// Depth of a walk: `kernel/drivers/net/ethernet/...` needs eight.
const DEPTH_MAX: usize = 12;
/// Depth of the walk through a folder that the user named.
const GIVEN_DEPTH: usize = 2;
/// Compressed files larger than this once decompressed are refused.
const DECOMPRESSED_MAX: u64 = 2 << 30;
/// Memory for an xz dictionary; `xz -9` asks for 65 MiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;
/// Debug files beside the dump that are opened to see whose they are.
const BESIDE_MAX: usize = 1000;

/// Module files of one folder: by name with `_`, best candidates first.
type Modules = HashMap<String, Vec<PathBuf>>;

/// Looks for debug files, remembers what it found and why not.
pub struct Locator {
    debug_dirs: Vec<PathBuf>,
    /// `/`, or where a test pretends it to be.
    root: PathBuf,
    cache: Option<PathBuf>,
    /// The dump's own folder.
    beside: Option<PathBuf>,
    beside_files: OnceLock<Vec<(PathBuf, Option<BuildId>)>>,
    debuginfod: Option<Debuginfod>,
    found: Mutex<HashMap<(Kind, BuildId), Found>>,
    walked: Mutex<HashMap<PathBuf, Arc<Modules>>>,
}

/// Filled by the first who asks; the others wait, as a download is made once.
type Found = Arc<OnceLock<Search>>;

/// What came of looking for one file.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// The file.
    pub found: Option<PathBuf>,
    /// Where it was looked for, in order.
    pub places: Vec<PathBuf>,
    /// What was there and is not it, and what else there is to say: a line each.
    pub remarks: Vec<String>,
}

/// What is wanted of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// What has the DWARF.
    Debug,
    /// What ran.
    Executable,
}

/// A file that was looked at.
enum Verdict {
    /// The wanted one; with DWARF or not.
    Match { dwarf: bool },
    /// Not there: too common to be told.
    Absent,
    /// There, but not it.
    Refused(String),
}

impl Locator {
    /// Looks below `debug_dirs` (none: [`DEFAULT_DEBUG_DIR`]), beside the dump, at the
    /// system's own places, then asks debuginfod if the environment has `DEBUGINFOD_URLS`.
    #[must_use]
    pub fn new(debug_dirs: Vec<PathBuf>, dump: &Path) -> Self {
        let folder = match dump.parent() {
            Some(here) if here.as_os_str().is_empty() => Path::new("."),
            Some(folder) => folder,
            None => Path::new("/"),
        };
        Self::with(debug_dirs, "/".into(), cache_dir())
            .beside(folder)
            .debuginfod(Debuginfod::of_environment())
    }

    fn with(mut debug_dirs: Vec<PathBuf>, root: PathBuf, cache: Option<PathBuf>) -> Self {
        if debug_dirs.is_empty() {
            debug_dirs.push(DEFAULT_DEBUG_DIR.into());
        }
        Self {
            debug_dirs,
            root,
            cache,
            beside: None,
            beside_files: OnceLock::new(),
            debuginfod: None,
            found: Mutex::default(),
            walked: Mutex::default(),
        }
    }

    fn beside(mut self, folder: impl Into<PathBuf>) -> Self {
        self.beside = Some(folder.into());
        self
    }

    fn debuginfod(mut self, client: Option<Debuginfod>) -> Self {
        self.debuginfod = client;
        self
    }

    /// The folders that are searched.
    #[must_use]
    pub fn debug_dirs(&self) -> &[PathBuf] {
        &self.debug_dirs
    }

    /// What it may open, and where it writes.
    pub(crate) fn needs(&self) -> Needs {
        let read = self.debug_dirs.iter().chain(&self.beside).cloned().collect();
        let fetched = self.debuginfod.iter().filter_map(|_| Debuginfod::cache_dir());
        Needs {
            read,
            write: self.cache.iter().cloned().chain(fetched).collect(),
            fetch: self.debuginfod.is_some(),
            remove_in: None,
        }
    }

    /// Where things are looked for, in words: the folders, and whether debuginfod is asked.
    #[must_use]
    pub fn places(&self) -> String {
        let mut places: Vec<String> = Vec::new();
        let system = [DEFAULT_DEBUG_DIR, "/boot", "/lib/modules"].map(Path::new);
        for dir in self.debug_dirs.iter().map(PathBuf::as_path).chain(system) {
            let dir = dir.display().to_string();
            if !places.contains(&dir) {
                places.push(dir);
            }
        }
        let debuginfod = match self.debuginfod {
            Some(_) => "from debuginfod",
            None => "debuginfod not asked (DEBUGINFOD_URLS is not set)",
        };
        format!("below {}, beside the dump; {debuginfod}", places.join(", "))
    }

    /// Whether an answer may have to come over the network.
    #[must_use]
    pub fn may_be_slow(&self) -> bool {
        self.debuginfod.is_some()
    }

    /// The vmlinux of that release with that build-id: one with DWARF, or else
    /// one with symbols only.
    #[must_use]
    pub fn vmlinux(&self, release: &str, id: &BuildId) -> Search {
        self.remembered(Kind::Debug, id, || {
            let mut candidates = self.by_id(Kind::Debug, id);
            // Also those of other builds: their sight is what a person wonders about.
            let beside = self.beside_files().iter().map(|(path, _)| path);
            candidates.extend(beside.filter(|path| is_vmlinux(path)).cloned());
            if is_plain_name(release) {
                candidates.extend(self.vmlinux_candidates(release));
            }
            self.choose(Kind::Debug, &format!("vmlinux {release}"), id, candidates)
        })
    }

    /// The debug file of a module, or the module itself if it has no other.
    /// Without an id nothing is found: it could not be checked.
    #[must_use]
    pub fn module(&self, release: &str, name: &str, id: Option<&BuildId>) -> Search {
        let Some(id) = id else {
            let why = "not looked for, because its build-id is not known".to_owned();
            return Search { remarks: vec![why], ..Search::default() };
        };
        self.remembered(Kind::Debug, id, || {
            let mut candidates = self.by_id(Kind::Debug, id);
            let mut walked = Vec::new();
            if is_plain_name(name) && is_plain_name(release) {
                let key = name.replace('-', "_");
                for (folder, depth) in self.module_folders(release) {
                    candidates.extend(self.walk(&folder, depth).get(&key).into_iter().flatten().cloned());
                    walked.push(folder);
                }
            }
            let mut search = self.choose(Kind::Debug, &format!("module {name}"), id, candidates);
            // What was not there was not looked at one by one.
            search.places.extend(walked);
            search
        })
    }

    /// The debug file of any image, by build-id alone.
    #[must_use]
    pub fn debug_file(&self, id: &BuildId) -> Option<PathBuf> {
        let choose = || self.choose(Kind::Debug, "debug file", id, self.by_id(Kind::Debug, id));
        self.remembered(Kind::Debug, id, choose).found
    }

    /// The program or library itself, by build-id, also under its name beside the dump.
    #[must_use]
    pub fn executable(&self, id: &BuildId, name: Option<&OsStr>) -> Option<PathBuf> {
        let choose = || {
            let mut candidates = self.by_id(Kind::Executable, id);
            candidates.extend(self.beside.iter().zip(name).map(|(folder, name)| folder.join(name)));
            self.choose(Kind::Executable, "executable", id, candidates)
        };
        self.remembered(Kind::Executable, id, choose).found
    }

    /// What was found and what was not, and why, a line each.
    #[cfg(test)]
    fn explain(&self) -> String {
        let found = lock(&self.found);
        let searches = found.values().filter_map(|f| f.get());
        searches.flat_map(|search| search.remarks.clone()).collect::<Vec<_>>().join("\n")
    }

    fn remembered(&self, kind: Kind, id: &BuildId, find: impl FnOnce() -> Search) -> Search {
        let found = Arc::clone(lock(&self.found).entry((kind, id.clone())).or_default());
        found.get_or_init(find).clone()
    }

    /// The first candidate with the right id and DWARF (if that is wanted), else the
    /// first with the right id.
    fn choose(&self, kind: Kind, what: &str, id: &BuildId, candidates: Vec<PathBuf>) -> Search {
        let mut search = Search::default();
        let say = |search: &mut Search, line: String| {
            tracing::debug!("{what}: {line}");
            search.remarks.push(line);
        };
        let mut without_dwarf = None;
        for path in candidates {
            if search.places.contains(&path) {
                continue;
            }
            search.places.push(path.clone());
            let (path, verdict) = self.check(path, id);
            match verdict {
                Verdict::Match { dwarf } if dwarf || kind == Kind::Executable => {
                    tracing::debug!("{what}: {}", path.display());
                    return Search { found: Some(path), ..search };
                }
                Verdict::Match { .. } => without_dwarf = without_dwarf.or(Some(path)),
                Verdict::Absent => {}
                Verdict::Refused(why) => say(&mut search, format!("{}: {why}", path.display())),
            }
        }
        match self.ask_debuginfod(kind, what, id) {
            Some(Ok(path)) => return Search { found: Some(path), ..search },
            Some(Err(why)) => say(&mut search, why),
            None => {}
        }
        match &without_dwarf {
            Some(path) => say(&mut search, format!("{}: without DWARF", path.display())),
            None => tracing::debug!("{what} with build-id {id}: not found"),
        }
        search.found = without_dwarf;
        search
    }

    /// Whether the file at `path` is the wanted one. A compressed file is replaced
    /// by its decompressed copy.
    fn check(&self, path: PathBuf, id: &BuildId) -> (PathBuf, Verdict) {
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => return (path, Verdict::Refused("not a regular file".into())),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return (path, Verdict::Absent);
            }
            Err(error) => return (path, Verdict::Refused(error.to_string())),
        }
        if let Some(codec) = Codec::of(&path) {
            return match self.unpack(&path, codec, id) {
                Ok((copy, dwarf)) => (copy, Verdict::Match { dwarf }),
                Err(why) => (path, Verdict::Refused(why)),
            };
        }
        let verdict = match File::open(&path) {
            Ok(file) => verdict(&file, id),
            Err(error) => Verdict::Refused(error.to_string()),
        };
        (path, verdict)
    }

    /// Decompresses into the cache, where it stays under its build-id if it has the
    /// wanted one.
    fn unpack(&self, path: &Path, codec: Codec, id: &BuildId) -> Result<(PathBuf, bool), String> {
        let folder =
            self.cache.as_ref().ok_or("compressed, and there is no cache folder (XDG_CACHE_HOME)")?;
        let copy = folder.join(id.path(".debug"));
        if let Ok(file) = File::open(&copy)
            && let Verdict::Match { dwarf } = verdict(&file, id)
        {
            return Ok((copy, dwarf));
        }
        let part = copy.with_extension(format!("part{}", std::process::id()));
        let unpack = || {
            codec.decompress(path, &part)?;
            let file = File::open(&part).map_err(|error| error.to_string())?;
            match verdict(&file, id) {
                Verdict::Match { dwarf } => {
                    fs::rename(&part, &copy).map_err(|error| format!("{}: {error}", copy.display()))?;
                    Ok((copy.clone(), dwarf))
                }
                Verdict::Refused(why) => Err(why),
                Verdict::Absent => Err("empty".into()),
            }
        };
        let result = unpack();
        if result.is_err() {
            let _ = fs::remove_file(&part);
        }
        result
    }

    /// Where a file lies by its build-id alone.
    fn by_id(&self, kind: Kind, id: &BuildId) -> Vec<PathBuf> {
        let below = id.path(if kind == Kind::Debug { ".debug" } else { "" });
        let in_dirs =
            self.debug_dirs.iter().flat_map(|dir| [dir.join(&below), dir.join("usr/lib/debug").join(&below)]);
        let elsewhere = self.beside.iter().chain(&self.cache).map(|dir| dir.join(&below));
        let mut all: Vec<PathBuf> = in_dirs.chain(elsewhere).collect();
        // A program's debug file has its build-id, and none of its code.
        if kind == Kind::Debug {
            let theirs = self.beside_files().iter().filter(|(_, of)| of.as_ref() == Some(id));
            all.extend(theirs.map(|(path, _)| path.clone()));
        }
        all
    }

    /// The debug files beside the dump, and whose they are; those that are compressed
    /// are not looked into.
    fn beside_files(&self) -> &[(PathBuf, Option<BuildId>)] {
        self.beside_files.get_or_init(|| {
            let entries = self.beside.iter().flat_map(fs::read_dir).flatten().flatten().take(WALK_MAX);
            let wanted = |path: &PathBuf| is_vmlinux(path) || path.extension() == Some(OsStr::new("debug"));
            let mut paths: Vec<PathBuf> = entries.map(|e| e.path()).filter(wanted).collect();
            paths.sort();
            paths.truncate(BESIDE_MAX);
            let is_file = |path: &Path| fs::metadata(path).is_ok_and(|m| m.is_file());
            let id = |path: &PathBuf| File::open(path).ok()?.build_id().cloned();
            let with_id = |path: PathBuf| (Some(&path).filter(|p| is_file(p)).and_then(id), path);
            paths.into_iter().map(with_id).map(|(id, path)| (path, id)).collect()
        })
    }

    fn vmlinux_candidates(&self, release: &str) -> Vec<PathBuf> {
        let mut names = vec![format!("boot/vmlinux-{release}"), format!("boot/vmlinux-{release}.debug")];
        for modules in ["lib/modules", "usr/lib/modules"] {
            names.push(format!("{modules}/{release}/vmlinux"));
            names.push(format!("{modules}/{release}/vmlinux.debug"));
            names.push(format!("{modules}/{release}/build/vmlinux"));
        }
        let own = [
            format!("vmlinux-{release}"),
            format!("vmlinux-{release}.debug"),
            "vmlinux".to_owned(),
            "vmlinux.debug".to_owned(),
        ];
        let compressed = ["gz", "xz", "zst"].map(|ending| format!("boot/vmlinux-{release}.{ending}"));
        let mut all = Vec::new();
        for dir in &self.debug_dirs {
            all.extend(names.iter().map(|name| dir.join(name)));
            all.extend(names.iter().map(|name| dir.join("usr/lib/debug").join(name)));
            all.extend(own.iter().map(|name| dir.join(name)));
            all.extend(own.iter().map(|name| dir.join(release).join(name)));
        }
        let system = self.root.join("usr/lib/debug");
        all.extend(names.iter().map(|name| system.join(name)));
        all.extend(names.iter().chain(&compressed).map(|name| self.root.join(name)));
        all
    }

    /// The folders below which modules of that release lie, and how deep.
    fn module_folders(&self, release: &str) -> Vec<(PathBuf, usize)> {
        let system = self.root.join("usr/lib/debug");
        let mut all = Vec::new();
        for dir in self.debug_dirs.iter().chain([&system, &self.root]) {
            for tree in ["", "usr/lib/debug"] {
                for modules in ["lib/modules", "usr/lib/modules"] {
                    let folder = dir.join(tree).join(modules).join(release);
                    if !all.iter().any(|(known, _)| *known == folder) {
                        all.push((folder, DEPTH_MAX));
                    }
                }
            }
        }
        // Loose modules beside the dump, and in a folder that the user named.
        all.extend(self.beside.iter().map(|dir| (dir.clone(), 1)));
        let named = self.debug_dirs.iter().filter(|dir| *dir != Path::new(DEFAULT_DEBUG_DIR));
        all.extend(named.map(|dir| (dir.clone(), GIVEN_DEPTH)));
        all
    }

    /// The module files below `folder`, listed once.
    fn walk(&self, folder: &Path, depth: usize) -> Arc<Modules> {
        if let Some(known) = lock(&self.walked).get(folder) {
            return Arc::clone(known);
        }
        let (modules, complete) = list_modules(folder, depth);
        if !complete {
            tracing::warn!("{}: more than {WALK_MAX} entries, not all looked at", folder.display());
        }
        let modules = Arc::new(modules);
        lock(&self.walked).insert(folder.to_owned(), Arc::clone(&modules));
        modules
    }

    /// `None` if it is not to be asked.
    fn ask_debuginfod(&self, kind: Kind, what: &str, id: &BuildId) -> Option<Result<PathBuf, String>> {
        let found = self.debuginfod.as_ref()?.find(kind, what, id);
        Some(found.and_then(|path| match self.check(path, id) {
            (path, Verdict::Match { .. }) => Ok(path),
            (path, Verdict::Refused(why)) => Err(format!("debuginfod's {}: {why}", path.display())),
            (path, Verdict::Absent) => Err(format!("debuginfod's {} is gone", path.display())),
        }))
    }
}

fn verdict(file: &File, id: &BuildId) -> Verdict {
    match file.build_id() {
        Some(found) if found == id => Verdict::Match { dwarf: file.has_dwarf() },
        Some(found) => Verdict::Refused(format!("build-id {found} is not {id}")),
        None => Verdict::Refused("it has no build-id".into()),
    }
}

/// `vmlinux`, `vmlinux-6.1.0-56-amd64.debug`, also compressed.
fn is_vmlinux(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"vmlinux"))
}

/// Names from the dump become parts of paths.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() < 200
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-~".contains(&b))
}

fn list_modules(folder: &Path, depth: usize) -> (Modules, bool) {
    let mut modules = Modules::new();
    let mut pending = vec![(folder.to_owned(), depth)];
    let mut entries = 0;
    while let Some((folder, depth)) = pending.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            entries += 1;
            if entries > WALK_MAX {
                return (modules, false);
            }
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            match entry.file_type() {
                // Links to folders (`build`, `source`) lead out of the tree.
                Ok(kind) if kind.is_dir() => {
                    if depth > 1 && name != ".build-id" {
                        pending.push((entry.path(), depth - 1));
                    }
                }
                Ok(_) => {
                    if let Some(module) = module_name(name) {
                        modules.entry(module).or_default().push(entry.path());
                    }
                }
                Err(_) => {}
            }
        }
    }
    for paths in modules.values_mut() {
        // Debug files, then plain modules, then compressed ones; stable by path.
        paths.sort_by_key(|path| {
            let text = path.to_string_lossy();
            (Codec::of(path).is_some(), !text.contains(".ko.debug"), text.into_owned())
        });
    }
    (modules, true)
}

/// `snd_hda_intel` of `snd-hda-intel.ko.debug.xz`.
fn module_name(file: &str) -> Option<String> {
    let (name, ending) = file.split_once(".ko")?;
    let known =
        matches!(ending, "" | ".debug" | ".xz" | ".zst" | ".gz" | ".debug.xz" | ".debug.zst" | ".debug.gz");
    (known && !name.is_empty()).then(|| name.replace('-', "_"))
}

/// How a file is compressed, by its ending.
#[derive(Debug, Clone, Copy)]
enum Codec {
    Gzip,
    Xz,
    Zstd,
}

impl Codec {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "gz" => Some(Self::Gzip),
            "xz" => Some(Self::Xz),
            "zst" => Some(Self::Zstd),
            _ => None,
        }
    }

    fn decompress(self, path: &Path, to: &Path) -> Result<(), String> {
        let file = io::BufReader::new(fs::File::open(path).map_err(|error| error.to_string())?);
        let failed = |error: io::Error| format!("does not decompress: {error}");
        let mut stream: Box<dyn Read> = match self {
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(file, true, XZ_MEMORY_KIB)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(file).map_err(failed)?),
        };
        let cannot = |error: io::Error| format!("cannot be decompressed to {}: {error}", to.display());
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(cannot)?;
        }
        let mut out = fs::File::create(to).map_err(cannot)?;
        let copied = io::copy(&mut stream.by_ref().take(DECOMPRESSED_MAX + 1), &mut out).map_err(failed)?;
        if copied > DECOMPRESSED_MAX {
            return Err(format!("larger than {DECOMPRESSED_MAX:#x} bytes once decompressed"));
        }
        Ok(())
    }
}

/// `$XDG_CACHE_HOME/corestub/debug`.
fn cache_dir() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("corestub/debug"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "tests/locate.rs"]
mod tests;
