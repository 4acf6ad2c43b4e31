//! What `--redact` masks: the names of the host, of tasks and of files, command lines, network
//! addresses, and addresses of memory. Each gets one stand-in wherever it comes up (`task-3`,
//! `addr-7`), so that what is equal stays so.
//!
//! Masked are texts, word by word, since a message of the log may have anything in it. Small
//! numbers stay (offsets, null pointers, error numbers), the names of functions and modules too.
//! Kernel threads that no user named keep their names. What user space wrote into the log is
//! left out as a whole.

use std::collections::HashMap;

use super::{Message, Part, Report};
use crate::linux::Kernel;

/// Values below it tell of nothing.
const SMALL: u64 = 1 << 16;
/// Digits from which on a bare word of them is an address.
const DIGITS: usize = 8;
/// What is behind one of these, up to the end of the line, is masked.
const LINES: [&str; 3] = ["Kernel command line:", "Command line:", "Hardware name:"];
/// What is behind one of these is the name of a task.
const NAMES: [&str; 3] = ["Comm:", "comm:", "COMMAND:"];

/// Masks all texts of the report.
pub(super) fn report(kernel: &Kernel, report: &mut Report) {
    let tasks = kernel.tasks().all().iter().filter(|t| !t.kthread).map(|t| ("task", t.comm.clone()));
    let host = Some(kernel.utsname().nodename).filter(|host| host != "(none)");
    // A path need not look like one, and the title has the last part of it alone.
    let paths = [Some(kernel.dump().path()), kernel.vmlinux().map(|v| v.path())];
    let files = paths.into_iter().flatten().flat_map(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        [Some(path.display().to_string()), name].into_iter().flatten()
    });
    let host = host.into_iter().map(|host| ("host", host));
    let mut masks = Masks::new(host.chain(files.map(|file| ("file", file))).chain(tasks));
    masks.mask(&mut report.title);
    let parts = report.sections.iter_mut().flat_map(|s| &mut s.parts);
    parts.for_each(|part| masks.part(part));
}

#[derive(Default)]
struct Masks {
    /// By what it stands for.
    known: HashMap<String, String>,
    /// How many there are of each kind.
    counts: HashMap<&'static str, usize>,
    /// Known names that are no single words.
    odd: Vec<String>,
}

impl Masks {
    fn new(names: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let mut masks = Self::default();
        for (kind, name) in names.into_iter().filter(|(_, name)| !name.is_empty()) {
            masks.stand_in(kind, &name);
            if name.contains(|c| !is_of_word(c)) && !masks.odd.contains(&name) {
                masks.odd.push(name);
            }
        }
        // The longest first: one name may begin with another.
        masks.odd.sort_by_key(|name| std::cmp::Reverse(name.len()));
        masks
    }

    fn part(&mut self, part: &mut Part) {
        match part {
            Part::Note(text) => self.mask(text),
            Part::Facts(facts) => {
                facts.iter_mut().filter(|f| !f.public).for_each(|f| self.mask(&mut f.value));
            }
            Part::Lines(lines) => lines.iter_mut().for_each(|line| self.mask(&mut line.text)),
            Part::Table { rows, .. } => rows.iter_mut().flatten().for_each(|cell| self.mask(cell)),
            Part::Stacks(stacks) => {
                for stack in stacks {
                    self.mask(&mut stack.heading);
                    stack.frames.iter_mut().for_each(|frame| self.mask(frame));
                }
            }
            Part::Flame(graph) => graph.names(&mut |name| self.mask(name)),
            Part::Bars(_) => {}
            Part::Log(log) => log.iter_mut().for_each(|message| self.message(message)),
        }
    }

    fn message(&mut self, message: &mut Message) {
        if !message.kernel {
            message.text = "(written by user space)".to_owned();
            return;
        }
        let mut lines: Vec<String> = message.text.split('\n').map(str::to_owned).collect();
        lines.iter_mut().for_each(|line| self.mask(line));
        message.text = lines.join("\n");
    }

    /// The stand-in for `name`.
    fn stand_in(&mut self, kind: &'static str, name: &str) -> String {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        let stand_in = format!("{kind}-{count}");
        self.known.insert(name.to_owned(), stand_in.clone());
        stand_in
    }

    /// Masks one line of text.
    fn mask(&mut self, text: &mut String) {
        if let Some((at, label)) = LINES.iter().find_map(|label| Some((text.find(label)?, *label))) {
            text.truncate(at + label.len());
            text.push_str(" (masked)");
        }
        for name in &self.odd {
            if let Some(stand_in) = self.known.get(name).filter(|_| text.contains(name.as_str())) {
                *text = text.replace(name.as_str(), stand_in);
            }
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text.as_str();
        let mut named = false;
        while let Some(c) = rest.chars().next() {
            let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
            if end == 0 {
                let end = c.len_utf8();
                out.push(c);
                rest = rest.get(end..).unwrap_or_default();
                continue;
            }
            let (word, behind) = rest.split_at(end);
            out.push_str(&if named { self.stand_in("task", word) } else { self.word(word) });
            named = NAMES.contains(&word);
            rest = behind;
        }
        *text = out;
    }

    fn word(&mut self, word: &str) -> String {
        if let Some(known) = self.known.get(word) {
            return known.clone();
        }
        // What is written around a word.
        let bare = word.trim_matches([':', '.', '@']);
        let Some((before, behind)) = word.split_once(bare).filter(|_| !bare.is_empty()) else {
            return word.to_owned();
        };
        let masked = match kind(bare) {
            Some(kind) => self.stand_in(kind, &canonical(kind, bare)),
            None => match self.known.get(bare) {
                Some(known) => known.clone(),
                None => return self.with_offset(word),
            },
        };
        format!("{before}{masked}{behind}")
    }

    /// `task:pid`, as messages of hung tasks have it, and addresses that are written to
    /// something else (`RSP: 0018:ffff888012345678`, ranges).
    fn with_offset(&mut self, word: &str) -> String {
        if let Some((known, pid)) = word.rsplit_once(':').and_then(|(n, pid)| Some((self.known.get(n)?, pid)))
        {
            return format!("{known}:{pid}");
        }
        let mut out = String::with_capacity(word.len());
        for piece in word.split_inclusive([':', '-']) {
            let bare = piece.trim_end_matches([':', '-']);
            match kind(bare) {
                Some("addr") => out.push_str(&self.stand_in("addr", &canonical("addr", bare))),
                _ => out.push_str(bare),
            }
            out.push_str(piece.strip_prefix(bare).unwrap_or_default());
        }
        out
    }
}

/// One number has several forms.
fn canonical(kind: &str, word: &str) -> String {
    if kind == "addr" {
        word.trim_start_matches("0x").trim_start_matches('0').to_lowercase()
    } else {
        word.to_owned()
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '@' | '~')
}

/// What kind of secret a word is.
fn kind(word: &str) -> Option<&'static str> {
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    let digits = word.strip_prefix("0x").unwrap_or(word);
    if hex(digits) && (word.len() > digits.len() || digits.len() >= DIGITS) {
        return match u64::from_str_radix(digits, 16) {
            Ok(n) if !(SMALL..=u64::MAX - 4096).contains(&n) => None,
            // A build-id.
            Err(_) if digits.len() == 40 => None,
            _ => Some("addr"),
        };
    }
    let groups: Vec<&str> = word.split('-').collect();
    if groups.iter().all(|g| hex(g)) && groups.iter().map(|g| g.len()).eq([8, 4, 4, 4, 12]) {
        return Some("uuid");
    }
    let pairs: Vec<&str> = word.split(':').collect();
    if pairs.len() == 6 && pairs.iter().all(|p| p.len() == 2 && hex(p)) {
        return Some("mac");
    }
    if word.parse::<std::net::Ipv4Addr>().is_ok()
        || pairs.len() > 2 && word.parse::<std::net::Ipv6Addr>().is_ok()
    {
        return Some("ip");
    }
    if word.contains('@') {
        return Some("user");
    }
    // `0x30/0x40` and `swapper/0` are no paths.
    let path = word.starts_with('/') || word.starts_with('~') || word.matches('/').count() > 1;
    (path && word.len() > 1).then_some("file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> String {
        let names = [
            ("host", "db1.example.org"),
            ("file", "my dump"),
            ("file", "vmcore"),
            ("task", "nginx"),
            ("task", "Web Content"),
            ("task", "sh"),
            ("task", "nginx"),
        ];
        let mut masks = Masks::new(names.map(|(kind, name)| (kind, name.to_owned())));
        let mut text = text.to_owned();
        masks.mask(&mut text);
        text
    }

    #[test]
    fn names_and_addresses_have_stand_ins() {
        for (text, wanted) in [
            ("PID: 7 COMMAND: \"nginx\"", "PID: 7 COMMAND: \"task-1\""),
            ("INFO: task nginx:77 blocked", "INFO: task task-1:77 blocked"),
            ("Web Content and sh, crash", "task-2 and task-3, crash"),
            ("CPU: 1 PID: 9 Comm: gone Tainted", "CPU: 1 PID: 9 Comm: task-4 Tainted"),
            ("db1.example.org: up", "host-1: up"),
            ("RAX: ffff888012345678 RBX: 0000000000000000", "RAX: addr-1 RBX: 0000000000000000"),
            ("0xffff888012345678 FFFF888012345678.", "addr-1 addr-1."),
            ("f+0x30/0x40 rax -22 ffffffffffffffea", "f+0x30/0x40 rax -22 ffffffffffffffea"),
            ("RSP: 0018:ffff888012345678 GS:ffff888012345678(0000)", "RSP: 0018:addr-1 GS:addr-1(0000)"),
            ("[mem 0x0000000100000000-0x8ffffffff] 6.1.0-56", "[mem addr-1-addr-2] 6.1.0-56"),
            ("fs 3f2504e0-4f89-41d3-9a0c-0305e82c3301: mounted", "fs uuid-1: mounted"),
            ("open /etc/secret: no", "open file-3: no"),
            ("vmcore: 6.1 of my dump", "file-2: 6.1 of file-1"),
            ("[    0.0] Kernel command line: root=/dev/sda pw=1", "[    0.0] Kernel command line: (masked)"),
            ("from 192.0.2.7 and 52:54:00:12:34:56 on 6.1.0-56", "from ip-1 and mac-1 on 6.1.0-56"),
        ] {
            assert_eq!(masked(text), wanted);
        }
    }

    #[test]
    fn what_user_space_wrote_is_left_out() {
        let mut message = Message { ts_ns: None, level: None, text: "password: x".to_owned(), kernel: false };
        Masks::default().message(&mut message);
        assert_eq!(message.text, "(written by user space)");
    }
}
