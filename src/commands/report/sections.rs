//! What is asked for, and how the answers stand on the page.

use serde_json::Value;

use super::asked::{Asked, ask, list, text};
use super::{Bar, Fact, Line, Message, Node, Part, Section, Stack};
use crate::addr::PAGE_SIZE;
use crate::commands::{CommandError, Context, Result};
use crate::linux::Kernel;

/// Instructions in front of the one that is marked, and from it on.
const BEFORE: usize = 14;
const AFTER: &str = "7";
/// Messages of the log, the last ones.
const MESSAGES: usize = 4000;
/// Different stacks that are written out below the flame graph.
const STACKS: usize = 12;
/// CPUs whose stacks are written out.
const CPUS: usize = 256;
/// Rows of the banner that stand in the first section.
const TOLD: [&str; 6] = ["PANIC", "PID", "COMMAND", "TASK", "CPU", "STATE"];

/// What the page is called.
pub(super) fn title(kernel: &Kernel) -> String {
    let dump = kernel.dump().path().file_name().map(|name| name.to_string_lossy().into_owned());
    format!("{}: {}", dump.unwrap_or_default(), kernel.utsname().release)
}

/// All sections. What cannot be told has a sentence in its section.
pub(super) fn all(kernel: &Kernel, context: Context<'_>) -> Result<Vec<Section>> {
    let ask = |words: &[&str]| match ask(kernel, context, words) {
        // Whoever asked has gone.
        Err(CommandError::Output(e)) => Err(CommandError::Output(e)),
        answer => Ok(answer.map_err(|why| Part::Note(format!("Not known: {why}")))),
    };
    let triage = ask(&["triage"])?;
    let task = kernel.panic_task().map(|task| format!("{:x}", task.addr.0));
    let pc = triage.as_ref().ok().and_then(|t| text(t.value.get("culprit")?, "pc"));
    let kernel_pc = pc.filter(|pc| address(pc).is_some_and(|pc| pc >= kernel.user_limit()));
    let mut stack = match &task {
        Some(task) => told(ask(&["bt", task])?, lines),
        None => vec![Part::Note("Nobody crashed here, as far as the dump tells.".to_owned())],
    };
    if let (Some(pc), Some(_)) = (&kernel_pc, &task) {
        let (up_to, from) = (ask(&["dis", "-r", pc])?, ask(&["dis", pc, AFTER])?);
        stack.extend(told(up_to, |up_to| told(from, |from| code(&up_to, &from))));
    }
    let section = |id, title, parts| Section { id, title, parts };
    Ok(vec![
        section("what", "What happened", told(triage, happened)),
        section("machine", "Machine and dump", told(ask(&["sys"])?, banner)),
        section("stack", "Stack and code", stack),
        section("cpus", "CPUs", told(ask(&["bt", "-a"])?, cpus)),
        section("blocked", "Blocked tasks", told(ask(&["locks"])?, lines)),
        section("stacks", "All stacks", told(ask(&["bt", "--summary"])?, stacks)),
        section("memory", "Memory", told(ask(&["kmem", "-i"])?, memory)),
        section("log", "Log", told(ask(&["log"])?, log)),
        section("modules", "Modules", told(ask(&["mod"])?, modules)),
    ])
}

type Answered = Result<Asked, Part>;

/// What stands for an answer: why there is none, if so.
fn told(asked: Answered, tell: impl FnOnce(Asked) -> Vec<Part>) -> Vec<Part> {
    asked.map_or_else(|note| vec![note], tell)
}

fn address(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}

fn plain(text: String) -> Line {
    Line { text, here: false }
}

/// The rows as they are.
fn lines(asked: Asked) -> Vec<Part> {
    vec![Part::Lines(asked.rows.into_iter().map(plain).collect())]
}

fn fact(name: &str, value: impl Into<String>) -> Fact {
    Fact { name: name.to_owned(), value: value.into(), public: false }
}

/// `name+0x5 [module]`
fn place(of: &Value) -> Option<String> {
    let Some(symbol) = text(of, "symbol") else { return text(of, "pc") };
    let offset = of.get("offset").and_then(Value::as_u64).unwrap_or(0);
    let module = text(of, "module").map(|m| format!(" [{m}]")).unwrap_or_default();
    Some(format!("{symbol}+{offset:#x}{module}"))
}

/// Of what `triage` tells the facts.
fn happened(asked: Asked) -> Vec<Part> {
    let triage = &asked.value;
    let of = |name| text(triage, name);
    let culprit = triage.get("culprit").filter(|c| !c.is_null());
    let at = of("fault_address").map(|at| format!(" at address {at}")).unwrap_or_default();
    let task = of("pid").zip(of("comm")).map(|(pid, comm)| {
        let cpu = of("cpu").map(|cpu| format!(" on CPU {cpu}")).unwrap_or_default();
        format!("pid {pid} \"{comm}\"{cpu}")
    });
    let public = |name, value| Fact { public: true, ..fact(name, value) };
    let facts = [
        of("panic").map(|panic| fact("Panic", panic)),
        of("exception").filter(|_| task.is_some()).map(|by| fact("By", format!("{by}{at}"))),
        culprit.and_then(place).map(|place| fact("Likely culprit", place)),
        culprit.and_then(|c| text(c, "rule")).map(|rule| fact("By rule", rule)),
        task.map(|task| fact("Task", task)),
        of("taint").map(|taint| fact("Tainted", taint)),
        of("blocked").map(|n| fact("Blocked tasks (state D)", n)),
        of("signature").map(|s| public("Signature", s)),
        of("coarse_signature").map(|s| public("Coarse signature", s)),
    ];
    let facts: Vec<Fact> = facts.into_iter().flatten().collect();
    let mut parts = Vec::new();
    if of("panic").is_none() && of("pid").is_none() {
        parts.push(Part::Note(
            "No crash is told of: the dump is of a running machine, or does not say.".to_owned(),
        ));
    }
    parts.push(Part::Facts(facts));
    let damage = triage.get("slab_damage").map_or(&[][..], list);
    if !damage.is_empty() {
        parts.push(Part::Note("Slab caches are damaged:".to_owned()));
        // What the objects hold is left out.
        let row =
            |d: &Value| ["cache", "place", "what"].map(|name| text(d, name).unwrap_or_default()).to_vec();
        parts.push(Part::Table {
            head: vec!["Cache", "Where", "What"],
            rows: damage.iter().map(row).collect(),
        });
    }
    parts
}

fn banner(asked: Asked) -> Vec<Part> {
    let split = |row: &String| {
        let (name, value) = row.split_once(": ")?;
        (!TOLD.contains(&name.trim())).then(|| fact(name.trim(), value))
    };
    vec![Part::Facts(asked.rows.iter().filter_map(split).collect())]
}

/// The instructions around the one of the culprit.
fn code(up_to: &Asked, from: &Asked) -> Vec<Part> {
    let up_to = list(&up_to.value);
    let at = up_to.last().and_then(|r| text(r, "address"));
    let from = list(&from.value).iter().filter(|r| text(r, "address") != at);
    let rows = up_to.iter().skip(up_to.len().saturating_sub(BEFORE)).chain(from);
    let mut lines = Vec::new();
    for row in rows {
        let [address, what] = ["address", "text"].map(|name| text(row, name).unwrap_or_default());
        let offset = row.get("offset").and_then(Value::as_u64);
        let symbol = text(row, "symbol").zip(offset).map(|(symbol, offset)| format!(" <{symbol}+{offset}>"));
        let target = text(row, "target").map(|t| format!(" <{t}>")).unwrap_or_default();
        let site = text(row, "site").map(|s| format!("  [{s}]")).unwrap_or_default();
        let here = at.as_ref() == Some(&address);
        let (mark, symbol) = (if here { "=>" } else { "  " }, symbol.unwrap_or_default());
        lines.push(Line { text: format!("{mark} {address}{symbol}:  {what}{target}{site}"), here });
        for operand in row.get("operands").map_or(&[][..], list) {
            let [name, value] = ["name", "value"].map(|name| text(operand, name).unwrap_or_default());
            let note = text(operand, "note").map(|note| format!(" is {note}")).unwrap_or_default();
            lines.push(Line { text: format!("       ; {name} {value}{note}"), here });
        }
    }
    vec![Part::Lines(lines)]
}

/// The frames of a stack, one a line.
fn frames(of: &Value) -> Vec<String> {
    let frame = |frame: &Value| match text(frame, "kind").as_deref() {
        Some("user") => Some("user mode".to_owned()),
        _ => place(frame),
    };
    let mut all: Vec<String> = of.get("frames").map_or(&[][..], list).iter().filter_map(frame).collect();
    all.extend(text(of, "incomplete").map(|why| format!("({why})")));
    all
}

fn cpus(asked: Asked) -> Vec<Part> {
    let stack = |s: &Value| {
        let [cpu, pid, comm] = ["cpu", "pid", "comm"].map(|name| text(s, name).unwrap_or_default());
        Stack { heading: format!("CPU {cpu}: pid {pid} \"{comm}\""), frames: frames(s) }
    };
    vec![Part::Stacks(list(&asked.value).iter().take(CPUS).map(stack).collect())]
}

fn stacks(asked: Asked) -> Vec<Part> {
    let groups = list(&asked.value);
    let stack = |group: &Value| {
        let [count, states] = [text(group, "count").unwrap_or_default(), counts(group, "states")];
        let comms = group.get("comms").and_then(Value::as_object);
        let names: Vec<String> =
            comms.into_iter().flatten().take(4).map(|(name, _)| format!("\"{name}\"")).collect();
        let more = if comms.is_some_and(|c| c.len() > 4) { ", ..." } else { "" };
        let heading = format!("{count} ({states}): {}{more}", names.join(", "));
        Stack { heading, frames: frames(group) }
    };
    let told = format!("{} different stacks; the most frequent:", groups.len());
    let graph = Node::of(&asked.value);
    vec![Part::Flame(graph), Part::Note(told), Part::Stacks(groups.iter().take(STACKS).map(stack).collect())]
}

/// `3 D, 1 S`
fn counts(of: &Value, name: &str) -> String {
    let all = of.get(name).and_then(Value::as_object).into_iter().flatten();
    all.map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

fn memory(asked: Asked) -> Vec<Part> {
    let bar = |of: &Value| {
        let bytes = of.get("pages")?.as_u64()?.checked_mul(PAGE_SIZE)?;
        Some(Bar { name: text(of, "what")?, bytes })
    };
    let bars = asked.value.get("use").map_or(&[][..], list).iter().filter_map(bar).collect();
    let table = asked.rows.iter().take_while(|row| *row != "BY USE").cloned().map(plain).collect();
    vec![Part::Bars(bars), Part::Lines(table)]
}

fn log(asked: Asked) -> Vec<Part> {
    let all = list(&asked.value);
    let message = |record: &Value| {
        let number = |name: &str| record.get(name).and_then(Value::as_u64);
        Message {
            ts_ns: number("ts_ns"),
            level: number("level").and_then(|n| u8::try_from(n).ok()),
            text: text(record, "text").unwrap_or_default(),
            kernel: number("facility").unwrap_or(0) == 0,
        }
    };
    let skipped = all.len().saturating_sub(MESSAGES);
    let mut parts = Vec::new();
    if skipped > 0 {
        parts.push(Part::Note(format!("The last {MESSAGES} of {} messages.", all.len())));
    }
    parts.push(Part::Log(all.iter().skip(skipped).map(message).collect()));
    parts
}

fn modules(asked: Asked) -> Vec<Part> {
    let row = |m: &Value| {
        ["name", "base", "size", "state", "taint", "build_id"]
            .map(|n| text(m, n).unwrap_or_default())
            .to_vec()
    };
    let head = vec!["Name", "Base", "Size", "State", "Taint", "Build ID"];
    vec![Part::Table { head, rows: list(&asked.value).iter().map(row).collect() }]
}
