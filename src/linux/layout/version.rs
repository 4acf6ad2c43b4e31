//! The kernel's version, and every answer that depends on it.
//!
//! Nearly everything is told by types and symbols, which hold for kernels with
//! backports as well. What they do not tell, what a bit means or how a table is
//! packed, is asked here, by meaning: nobody else sees the numbers, and each
//! answer names the commit or version that changed it.

use crate::arch::{Levels, map};
use crate::debuginfo::orc;
use crate::dump::vmcoreinfo::VmcoreInfo;
use crate::elf::BuildId;

/// A kernel's version, as its release names it.
#[derive(Debug, Clone)]
pub struct KernelVersion {
    release: String,
    major: u32,
    minor: u32,
    patch: u32,
}

impl KernelVersion {
    /// Reads `6.12.117` out of `6.12.117+deb12-cloud-amd64`; what is not there is 0.
    #[must_use]
    pub fn parse(release: &str) -> Self {
        let mut numbers = release.splitn(3, '.').map(leading_number);
        let mut next = || numbers.next().unwrap_or(0);
        let (major, minor, patch) = (next(), next(), next());
        Self { release: release.to_owned(), major, minor, patch }
    }

    /// As `uname -r` says it; empty where nothing does.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    pub(super) fn before(&self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) < (major, minor)
    }

    /// Whether kallsyms marks names of more than 127 bytes: 6.1 and later
    /// (73bbb94466fd), and distributions that took it back.
    #[must_use]
    pub fn marks_long_names(&self) -> bool {
        !self.before(6, 1)
    }

    /// How ORC's rows are packed where the kernel has no `.orc_header` to say it.
    #[must_use]
    pub fn orc_layout(&self) -> orc::Layout {
        // Red Hat took 6.4's rows without its header.
        let build = self.release.split_once('-').map_or(0, |(_, build)| leading_number(build));
        let el9 = (self.major, self.minor) == (5, 14) && self.release.contains(".el9") && build >= 517;
        match (self.major, self.minor) {
            _ if el9 => orc::Layout::V6_4,
            v if v >= (7, 1) => orc::Layout::V7_1,
            v if v >= (6, 4) => orc::Layout::V6_4,
            (6, 3) => orc::Layout::V6_3,
            _ => orc::Layout::V4_14,
        }
    }

    /// Whether a system call saves all registers in its `pt_regs`. The fast path,
    /// which went with 4.16 (21d375b6b34f), left rbx, rbp and r12 to r15 to the
    /// compiler.
    #[must_use]
    pub fn system_calls_save_all(&self) -> bool {
        !self.before(4, 16)
    }

    /// Whether an interrupt saves all registers in its `pt_regs`. Before 4.3
    /// (ff467594f2a4) it left rbx and r12 to r15 to the compiler.
    #[must_use]
    pub fn interrupts_save_all(&self) -> bool {
        !self.before(4, 3)
    }

    /// Whether thread_info is a member of the task: 4.9 and later (15f4eae70d36). Before, it
    /// lay at the bottom of the stack.
    #[must_use]
    pub fn has_thread_info_in_task(&self) -> bool {
        !self.before(4, 9)
    }

    /// Whether a context switch leaves the callee-saved registers and no flags: 5.8 and later
    /// for certain (64604d54d311); what distributions took into older kernels differs.
    #[must_use]
    pub fn switch_frame_is_plain(&self) -> bool {
        !self.before(5, 8)
    }

    /// Whether what lies in the tail pages of compound pages, most of each slab, is there
    /// only if who filtered the dump knew how 7.1 marks them.
    #[must_use]
    pub fn needs_tails_of_compound_pages(&self) -> bool {
        !self.before(7, 1)
    }

    /// Whether objtool takes `NAME.cold`, as gcc 9 calls the cold part of a function, for a
    /// function of its own: before 4.20 (bcb6fb5da77c). The rules of ORC in it are wrong then.
    #[must_use]
    pub fn takes_cold_parts_for_functions(&self) -> bool {
        self.before(4, 20)
    }

    /// Where all of RAM is mapped if KASLR does not move it
    /// (`Documentation/arch/x86/x86_64/mm.rst`; until 4.20 it began lower).
    #[must_use]
    pub fn direct_map(&self, levels: Levels) -> u64 {
        match levels {
            Levels::Four if self.before(4, 20) => map::DIRECT_MAP_BEFORE_4_20,
            _ => levels.direct_map(),
        }
    }

    /// `BUILD-ID` of VMCOREINFO, if it can be trusted.
    ///
    /// Commit 905415ff3ffb ("lib/buildid: harden build ID parsing logic"), meant
    /// for 6.12, was backported to stable branches without the commits that make
    /// it work at boot, and these kernels write garbage there.
    #[must_use]
    pub fn build_id(&self, info: &VmcoreInfo) -> Option<BuildId> {
        // Debian's `6.1.0-ABI` hides the stable version: ABI 26 is 6.1.112, 27 is
        // 6.1.115, 28 is 6.1.119.
        let garbage = self.release.starts_with("6.1.0-27-")
            || match (self.major, self.minor) {
                (6, 11) => (3..10).contains(&self.patch),
                (6, 10) => self.patch >= 14,
                (6, 6) => (55..63).contains(&self.patch),
                (6, 1) => (113..119).contains(&self.patch),
                (5, 15) => self.patch >= 168,
                _ => false,
            };
        info.build_id().filter(|_| !garbage)
    }
}

/// The number that `text` begins with, or 0.
fn leading_number(text: &str) -> u32 {
    text.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_out_of_distribution_names() {
        let numbers = |release| {
            let v = KernelVersion::parse(release);
            (v.major, v.minor, v.patch)
        };
        assert_eq!(numbers("3.10.0-1160.el7.x86_64"), (3, 10, 0));
        assert_eq!(numbers("6.12.117+deb12-cloud-amd64"), (6, 12, 117));
        assert_eq!(numbers("5.15-168-generic"), (5, 15, 0));
        assert_eq!(numbers(""), (0, 0, 0));
    }

    #[test]
    fn the_release_decides_where_orc_has_no_header() {
        let by = |release| KernelVersion::parse(release).orc_layout();
        assert_eq!(by("4.18.0-553.el8.x86_64"), orc::Layout::V4_14);
        assert_eq!(by("5.14.0-503.11.1.el9_5.x86_64"), orc::Layout::V4_14);
        assert_eq!(by("5.14.0-570.12.1.el9_6.x86_64"), orc::Layout::V6_4);
        assert_eq!(by("6.1.0-56-cloud-amd64"), orc::Layout::V4_14);
        assert_eq!(by("6.3.4"), orc::Layout::V6_3);
        assert_eq!(by("7.0.1"), orc::Layout::V6_4);
        assert_eq!(by("7.1"), orc::Layout::V7_1);
        assert_eq!(by("6.12.117+deb12-cloud-amd64"), orc::Layout::V6_4);
    }

    #[test]
    fn build_ids_of_the_broken_backports_are_not_trusted() {
        let info = VmcoreInfo::parse(b"BUILD-ID=00ff\n");
        let build_id = |release| KernelVersion::parse(release).build_id(&info);
        for bad in
            ["6.11.3", "6.11.9-1", "6.10.14-200.fc40", "6.6.62", "6.1.118+", "5.15.180", "6.1.0-27-amd64"]
        {
            assert_eq!(build_id(bad), None, "{bad}");
        }
        for good in [
            "6.11.2",
            "6.11.10",
            "6.12.3",
            "6.6.63",
            "6.1.0-56-cloud-amd64",
            "5.15.167",
            "5.14.0-503.el9",
            "",
        ] {
            assert_eq!(build_id(good).unwrap().to_string(), "00ff", "{good}");
        }
    }

    /// Pairs of numbers compared, or a release taken apart, are knowledge of versions.
    #[test]
    fn nobody_else_compares_versions() {
        let pair = |text: &str| {
            let inside = text.split_once(')').map_or("", |(inside, _)| inside);
            let pair = inside.split_once(", ").map(|(a, b)| (a.parse::<u32>(), b.parse::<u32>()));
            matches!(pair, Some((Ok(2..), Ok(_))))
        };
        let compares = |line: &str| {
            let after =
                |op: &'static str| line.match_indices(op).filter_map(move |(i, _)| line.get(i + op.len()..));
            ["< (", "> (", "<= (", ">= (", "== (", "!= ("].into_iter().flat_map(after).any(pair)
                || ["split", "starts_with", "contains", "strip_prefix", "parse", "cmp"]
                    .iter()
                    .any(|verb| line.contains(&format!("release.{verb}")))
        };
        let mut folders = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
                if path.is_dir() {
                    folders.extend(
                        (!path.ends_with("linux/layout") && !path.ends_with("tests")).then_some(path),
                    );
                } else if path.extension().is_some_and(|e| e == "rs") {
                    files += 1;
                    let text = std::fs::read_to_string(&path).unwrap();
                    let found = text.lines().find(|line| compares(line));
                    assert_eq!(found, None, "{}", path.display());
                }
            }
        }
        assert!(files > 100, "{files}");
        assert!(compares("if version < (4, 14) {") && !compares("let x = (4, 14);"));
    }
}
