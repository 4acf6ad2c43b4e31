//! `corestub compare DUMP DUMP...`: what several dumps have in common.
//!
//! Each is opened, asked and closed again; one that cannot be opened costs its own row.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::dis::odd;
use super::triage;
use super::{CommandError, Context, Result};
use crate::addr::VirtAddr;
use crate::error;
use crate::linux::{Kernel, clock};
use crate::text::{Screen, row, write_json};

/// Values below this are equal by chance.
const SMALL: u64 = 1 << 16;

/// What one dump says.
#[derive(Serialize)]
struct Facts {
    dump: String,
    error: Option<String>,
    release: Option<String>,
    panic: Option<String>,
    exception: Option<String>,
    culprit: Option<String>,
    module: Option<String>,
    signature: Option<String>,
    coarse_signature: Option<String>,
    taint: Option<String>,
    uptime_s: Option<i64>,
    registers: BTreeMap<&'static str, VirtAddr>,
    damaged_caches: BTreeSet<String>,
    /// Links of free lists that were written over, as they are stored.
    smashed_links: BTreeSet<VirtAddr>,
    modules: BTreeMap<String, Option<String>>,
}

/// What all dumps that were opened have in common.
#[derive(Serialize)]
struct Alike {
    facts: BTreeMap<&'static str, String>,
    registers: BTreeMap<&'static str, VirtAddr>,
    smashed_links: Vec<VirtAddr>,
    /// In words, what the values above look like.
    looks: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Compared {
    dumps: Vec<Facts>,
    alike: Alike,
    /// Fact, value, and how many dumps have it.
    different: BTreeMap<&'static str, BTreeMap<String, usize>>,
}

/// Compares the dumps, each of which `open` opens; `None` is no kernel's. `Err` where one could
/// not be opened, when all else is written.
pub fn compare(
    dumps: &[PathBuf],
    open: &dyn Fn(&Path) -> error::Result<Option<Arc<Kernel>>>,
    json: bool,
    context: Context<'_>,
    out: &mut dyn Write,
) -> Result<()> {
    let mut looks = BTreeMap::new();
    let mut all = Vec::new();
    for path in dumps {
        context.check()?;
        let facts = match open(path) {
            Ok(Some(kernel)) => facts(&kernel, path, context, &mut looks),
            Ok(None) => Err(CommandError::failed("it is no kernel's dump")),
            Err(e) => Err(CommandError::Failed(e.to_string())),
        };
        all.push(facts.unwrap_or_else(|e| Facts::lost(path, e.to_string())));
    }
    let compared = Compared::of(all, looks);
    if json {
        write_json(&compared, out)?;
    } else {
        compared.text(&mut Screen::new(out))?;
    }
    let lost = compared.dumps.iter().filter(|d| d.error.is_some()).count();
    if lost > 0 {
        Err(CommandError::Failed(format!("{lost} of {} could not be read", dumps.len())))
    } else {
        Ok(())
    }
}

fn facts(
    kernel: &Kernel,
    path: &Path,
    context: Context<'_>,
    looks: &mut BTreeMap<String, String>,
) -> Result<Facts> {
    if let Some(lack) = kernel.lack() {
        return Err(CommandError::Failed(lack.to_string()));
    }
    let triage = triage::of(kernel, false, context)?;
    let registers: BTreeMap<_, _> = triage.registers().into_iter().collect();
    let links: BTreeSet<VirtAddr> = triage.smashed_links().collect();
    for value in registers.values().chain(&links) {
        if let Some(odd) = odd(kernel, value.0) {
            looks.insert(value.to_string(), odd);
        }
    }
    let modules = kernel.modules().iter();
    Ok(Facts {
        error: None,
        release: Some(kernel.utsname().release),
        taint: Some(triage.taint().to_owned()),
        uptime_s: clock::read(kernel).map(|c| c.uptime),
        registers,
        damaged_caches: triage.damaged_caches().collect(),
        smashed_links: links,
        modules: modules.map(|m| (m.name.clone(), m.build_id.as_ref().map(ToString::to_string))).collect(),
        ..triage.into_facts(path)
    })
}

impl Facts {
    fn lost(path: &Path, why: String) -> Self {
        Self { error: Some(why), ..Self::empty(path) }
    }

    fn empty(path: &Path) -> Self {
        Self {
            dump: path.display().to_string(),
            error: None,
            release: None,
            panic: None,
            exception: None,
            culprit: None,
            module: None,
            signature: None,
            coarse_signature: None,
            taint: None,
            uptime_s: None,
            registers: BTreeMap::new(),
            damaged_caches: BTreeSet::new(),
            smashed_links: BTreeSet::new(),
            modules: BTreeMap::new(),
        }
    }

    /// The facts that are compared as texts.
    fn texts(&self) -> [(&'static str, Option<String>); 8] {
        let modules = self.modules.keys().cloned().collect::<Vec<_>>().join(" ");
        let caches = self.damaged_caches.iter().cloned().collect::<Vec<_>>().join(" ");
        [
            ("signature", self.signature.clone()),
            ("coarse signature", self.coarse_signature.clone()),
            ("culprit", self.culprit.clone()),
            ("exception", self.exception.clone()),
            ("release", self.release.clone()),
            ("taint", self.taint.clone()),
            ("damaged caches", Some(caches)),
            ("modules", Some(modules)),
        ]
    }
}

impl triage::Triage<'_> {
    fn into_facts(self, path: &Path) -> Facts {
        let (culprit, module) = self.culprit_and_module();
        Facts {
            culprit,
            module,
            panic: self.panic,
            exception: self.exception,
            signature: self.signature,
            coarse_signature: self.coarse_signature,
            ..Facts::empty(path)
        }
    }
}

impl Compared {
    fn of(dumps: Vec<Facts>, looks: BTreeMap<String, String>) -> Self {
        let read: Vec<&Facts> = dumps.iter().filter(|d| d.error.is_none()).collect();
        let mut counts: BTreeMap<&'static str, BTreeMap<String, usize>> = BTreeMap::new();
        for (name, value) in read.iter().flat_map(|d| d.texts()) {
            let value = value.filter(|v| !v.is_empty()).unwrap_or_else(|| "none".to_owned());
            *counts.entry(name).or_default().entry(value).or_default() += 1;
        }
        let (same, different): (BTreeMap<_, _>, BTreeMap<_, _>) =
            counts.into_iter().partition(|(_, values)| values.len() == 1);
        let facts = same.into_iter().filter_map(|(name, values)| Some((name, values.into_keys().next()?)));
        let first = read.first();
        let in_all = |name: &&'static str, value: &VirtAddr| {
            value.0 >= SMALL && read.iter().all(|d| d.registers.get(*name) == Some(value))
        };
        let registers = first.map(|d| d.registers.clone()).unwrap_or_default();
        let links = first.map(|d| d.smashed_links.clone()).unwrap_or_default();
        let alike = Alike {
            facts: facts.filter(|(_, value)| value != "none").collect(),
            registers: registers.into_iter().filter(|(name, value)| in_all(name, value)).collect(),
            smashed_links: links
                .into_iter()
                .filter(|link| read.iter().all(|d| d.smashed_links.contains(link)))
                .collect(),
            looks,
        };
        Self { dumps, alike, different }
    }

    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        for d in &self.dumps {
            match &d.error {
                Some(why) => row!(screen, "{}: NOT READ: {why}", d.dump)?,
                None => {
                    let none = || "-".to_owned();
                    let signature = d.signature.clone().unwrap_or_else(none);
                    let culprit = d.culprit.clone().unwrap_or_else(none);
                    let release = d.release.clone().unwrap_or_else(none);
                    row!(screen, "{signature:<16}  {culprit:<32}  {release:<28}  {}", d.dump)?;
                }
            }
        }
        let looks = |value: &VirtAddr| {
            self.alike.looks.get(&value.to_string()).map(|looks| format!("  ({looks})")).unwrap_or_default()
        };
        row!(screen)?;
        row!(screen, "ALIKE")?;
        for (name, value) in &self.alike.facts {
            row!(screen, "    {name:<18} {value}")?;
        }
        for (name, value) in &self.alike.registers {
            row!(screen, "    {name:<18} {value}{}", looks(value))?;
        }
        for link in &self.alike.smashed_links {
            row!(screen, "    smashed link       {link}{}", looks(link))?;
        }
        if !self.different.is_empty() {
            row!(screen)?;
            row!(screen, "DIFFERENT")?;
        }
        for (name, values) in &self.different {
            for (value, count) in values {
                row!(screen, "    {name:<18} {count} x {value}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(name: &str, culprit: &str, rbp: u64) -> Facts {
        Facts {
            culprit: Some(culprit.to_owned()),
            registers: [("rbp", VirtAddr(rbp)), ("rax", VirtAddr(0))].into(),
            ..Facts::empty(Path::new(name))
        }
    }

    #[test]
    fn what_all_have_is_alike_and_one_bad_dump_costs_its_row() {
        let text = 0x0072_0069_0056_0338;
        let lost = Facts::lost(Path::new("c"), "no dump".to_owned());
        let all = vec![dump("a", "f", text), lost, dump("b", "f", text)];
        let compared = Compared::of(all, BTreeMap::new());
        assert_eq!(compared.alike.facts.get("culprit").map(String::as_str), Some("f"));
        assert_eq!(compared.alike.registers.get("rbp"), Some(&VirtAddr(text)));
        assert_eq!(compared.alike.registers.get("rax"), None, "zero says nothing");
        assert!(compared.different.is_empty());
        let compared = Compared::of(vec![dump("a", "f", text), dump("b", "g", 1 << 40)], BTreeMap::new());
        assert_eq!(compared.different["culprit"], [("f".to_owned(), 1), ("g".to_owned(), 1)].into());
        assert!(compared.alike.registers.is_empty());
    }
}
