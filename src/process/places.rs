//! Where the files of a core are looked for, beside build-id trees: files and
//! folders that the user named.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::found::FoundFile;
use super::proof::Given;
use crate::debuginfo::locate::Locator;
use crate::elf::BuildId;

/// Entries of a named folder that are looked at, and how deep.
const ENTRIES_MAX: usize = 100_000;
const DEPTH_MAX: usize = 8;

/// Where files are looked for, and what was found.
pub struct Places {
    /// The root of the dead process's file system; without it, our own.
    pub sysroot: Option<PathBuf>,
    /// By build-id, as for a kernel.
    pub locator: Locator,
    /// Files by the user's word.
    pub given: Given,
    search_dirs: Vec<PathBuf>,
    searched: OnceLock<HashMap<OsString, Vec<PathBuf>>>,
    searched_ids: OnceLock<HashMap<BuildId, PathBuf>>,
    given_ids: OnceLock<HashMap<BuildId, PathBuf>>,
}

impl Places {
    /// Nothing is looked at yet.
    pub(super) fn new(options: &super::Options, core: &Path) -> Self {
        Self {
            sysroot: options.sysroot.clone(),
            locator: Locator::new(options.debug_dirs.clone(), core),
            given: options.given.clone(),
            search_dirs: options.search_dirs.clone(),
            searched: OnceLock::new(),
            searched_ids: OnceLock::new(),
            given_ids: OnceLock::new(),
        }
    }

    /// What the user named: files and folders.
    #[must_use]
    pub fn named(&self) -> Vec<PathBuf> {
        self.given.exec.iter().chain(&self.given.libs).chain(&self.search_dirs).cloned().collect()
    }

    /// The `--lib` for a mapped file: by build-id, else by the file's name.
    pub(super) fn library(&self, id: Option<&BuildId>, name: Option<&OsStr>) -> Option<&Path> {
        let libs = &self.given.libs;
        let ids = self.given_ids.get_or_init(|| by_build_id(libs.iter()));
        let by_id = id.and_then(|id| ids.get(id)).map(PathBuf::as_path);
        by_id.or_else(|| libs.iter().find(|l| name.is_some() && l.file_name() == name).map(PathBuf::as_path))
    }

    /// Files of that name below the `--search-dir`s.
    pub(super) fn by_name(&self, name: &OsStr) -> &[PathBuf] {
        self.searched().get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// The file below the `--search-dir`s with that build-id, whatever its name.
    pub(super) fn by_build_id(&self, id: &BuildId) -> Option<&Path> {
        let ids = self.searched_ids.get_or_init(|| by_build_id(self.searched().values().flatten()));
        ids.get(id).map(PathBuf::as_path)
    }

    fn searched(&self) -> &HashMap<OsString, Vec<PathBuf>> {
        self.searched.get_or_init(|| {
            let mut found: HashMap<OsString, Vec<PathBuf>> = HashMap::new();
            let mut todo: Vec<(PathBuf, usize)> = self.search_dirs.iter().map(|d| (d.clone(), 0)).collect();
            let mut left = ENTRIES_MAX;
            while let Some((dir, depth)) = todo.pop() {
                for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                    let Some(rest) = left.checked_sub(1) else {
                        tracing::warn!(
                            "more than {ENTRIES_MAX} files below --search-dir: not all are looked at"
                        );
                        return found;
                    };
                    left = rest;
                    match entry.file_type() {
                        Ok(t) if t.is_dir() && depth < DEPTH_MAX => todo.push((entry.path(), depth + 1)),
                        Ok(t) if t.is_file() || t.is_symlink() => {
                            found.entry(entry.file_name()).or_default().push(entry.path());
                        }
                        _ => {}
                    }
                }
            }
            found.values_mut().for_each(|paths| paths.sort());
            found
        })
    }
}

/// The files that hold code: a debug file has the build-id of its program, too.
fn by_build_id<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> HashMap<BuildId, PathBuf> {
    let id = |path: &PathBuf| {
        let file = FoundFile::open(path).ok()?;
        let code = file.elf.sections().iter().any(|s| s.is_code() && !s.is_nobits());
        (code || file.elf.sections().is_empty()).then(|| file.elf.build_id().cloned())?
    };
    paths.filter_map(|path| Some((id(path)?, path.clone()))).collect()
}
