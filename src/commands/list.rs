//! `corestub list`: the dumps that this machine keeps.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::{CommandError, Result};
use crate::linux::clock;
use crate::linux::usage::size_text;
use crate::process::signal;
use crate::stores::{self, Kept};
use crate::text::{Screen, row, write_json};

#[derive(Serialize)]
struct List {
    dumps: Vec<Kept>,
    unread: Vec<Unread>,
}

#[derive(Serialize)]
struct Unread {
    path: String,
    why: String,
}

/// Lists what is kept below `root`, or of this the dumps that `word` means. `Err` where there
/// is none.
pub fn list(root: Option<&Path>, word: Option<&str>, json: bool, out: &mut dyn Write) -> Result<()> {
    let found = stores::all(root);
    let mut dumps = found.kept;
    dumps.retain(|kept| word.is_none_or(|word| kept.is_called(word)));
    for kept in &mut dumps {
        let number = kept.signal.as_ref().and_then(|signal| signal.parse().ok());
        kept.signal = number.map(signal::name).or_else(|| kept.signal.take());
    }
    let unread = found.unread.into_iter();
    let unread = unread.map(|(path, why)| Unread { path: path.display().to_string(), why: why.to_string() });
    let list = List { dumps, unread: unread.collect() };
    if json {
        write_json(&list, out)?;
    } else {
        list.text(&mut Screen::new(out))?;
    }
    match list.dumps.is_empty() {
        true => Err(CommandError::failed("no dump of that kind is kept here")),
        false => Ok(()),
    }
}

impl List {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        if !self.dumps.is_empty() {
            row!(
                screen,
                "{:<28} {:>8} {:>6} {:<8} {:>10}  {:<15} PATH",
                "TIME (UTC)",
                "PID",
                "UID",
                "SIGNAL",
                "SIZE",
                "NAME"
            )?;
        }
        for kept in &self.dumps {
            let number = |n: Option<u32>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
            let time = kept.time.map_or_else(|| "-".to_owned(), clock::date);
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            row!(
                screen,
                "{time:<28} {:>8} {:>6} {:<8} {:>10}  {:<15} {}{}",
                number(kept.pid),
                number(kept.uid),
                text(&kept.signal),
                size_text(kept.size),
                text(&kept.comm),
                kept.path.display(),
                if kept.report { "  (apport-unpack first)" } else { "" }
            )?;
        }
        for unread in &self.unread {
            row!(screen, "{}: not read: {}", unread.path, unread.why)?;
        }
        Ok(())
    }
}
