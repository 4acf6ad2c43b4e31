//! An opened dump of either kind, as the program's verbs take it.

use std::path::PathBuf;
use std::sync::Arc;

use crate::commands::Subject;
use crate::debuginfo::locate::Locator;
use crate::dump::{self, Opened, Vmcore};
use crate::error::Result;
use crate::inferior::Inferior;
use crate::inferior::kernel::KernelInferior;
use crate::inferior::process::ProcessInferior;
use crate::linux::{self, Kernel};
use crate::process::core_file::CoreFile;
use crate::process::{self, Process};
use crate::sandbox::Needs;
use crate::session::Shown;
use crate::stores;

/// What the user says beside the name of the dump.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// For the files themselves.
    pub dump: dump::Options,
    /// For a vmcore.
    pub kernel: linux::Options,
    /// For a userspace core.
    pub process: process::Options,
}

/// An opened dump.
#[derive(Clone)]
pub enum Snapshot {
    /// A vmcore.
    Kernel(Arc<Kernel>),
    /// A userspace core.
    Process(Arc<Process>),
}

impl Snapshot {
    /// Opens the dump in `paths` (several are the pieces of a split vmcore).
    pub fn open(paths: &[PathBuf], options: Options) -> Result<Self> {
        Self::open_by(paths, options, Kernel::open)
    }

    /// The same of a vmcore whose kernel may not be recognised: commands tell what it lacks.
    pub fn open_partly(paths: &[PathBuf], options: Options) -> Result<Self> {
        Self::open_by(paths, options, Kernel::open_partly)
    }

    fn open_by(
        paths: &[PathBuf],
        options: Options,
        kernel: fn(Vmcore, linux::Options) -> Result<Kernel>,
    ) -> Result<Self> {
        let mut paths = paths.to_vec();
        if let [word] = paths.as_mut_slice()
            && let Some(found) = stores::find(word)?
        {
            *word = found;
        }
        match dump::open(&paths, &options.dump)? {
            Opened::Vmcore(vmcore) => kernel(*vmcore, options.kernel).map(Arc::new).map(Self::Kernel),
            Opened::Core(source) => {
                let core = CoreFile::parse(Arc::clone(&source).path(), source)?;
                Ok(Self::Process(Arc::new(Process::new(core, &options.process))))
            }
        }
    }

    /// The kernel, if it is a vmcore.
    #[must_use]
    pub fn kernel(&self) -> Option<&Arc<Kernel>> {
        match self {
            Self::Kernel(kernel) => Some(kernel),
            Self::Process(_) => None,
        }
    }

    /// For the commands.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        match self {
            Self::Kernel(kernel) => Subject::Kernel(kernel),
            Self::Process(process) => Subject::Process(process),
        }
    }

    /// What a server of it may still open; it is asked before [`Self::inferior`], which begins to look.
    #[must_use]
    pub fn needs(&self) -> Needs {
        let (mut needs, given) = match self {
            Self::Kernel(kernel) => {
                let options = kernel.options();
                let locator = Locator::new(options.debug_dirs.clone(), kernel.dump().path());
                (locator.needs(), options.vmlinux.clone())
            }
            Self::Process(process) => {
                let places = process.places();
                // Its files are looked for by the names that they had.
                let mut needs = places.locator.needs();
                needs.read.extend(places.named());
                (needs, Some(places.sysroot.clone().unwrap_or_else(|| "/".into())))
            }
        };
        needs.read.extend(given);
        needs
    }

    /// For gdb.
    #[must_use]
    pub fn inferior(&self, shown: Shown) -> Arc<dyn Inferior> {
        match self {
            Self::Kernel(kernel) => {
                let inferior = Arc::new(KernelInferior::new(kernel.clone(), shown));
                // gdb asks for the images first of all: they are made while it
                // connects, and a search for debug files need not end within the
                // patience that it has with a packet.
                let early = Arc::clone(&inferior);
                std::thread::spawn(move || drop(early.libraries()));
                inferior
            }
            Self::Process(process) => {
                if process.places().locator.may_be_slow() {
                    let early = Arc::clone(process);
                    std::thread::spawn(move || early.find_files());
                }
                Arc::new(ProcessInferior::new(process.clone()))
            }
        }
    }
}
