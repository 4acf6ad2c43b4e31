//! The stacks of all tasks as a flame graph: what many of them share is one wide bar.
//!
//! Drawn here: the crate `inferno`, which does it well, is under the CDDL, which `deny.toml`
//! does not let into the binary.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use super::asked::{list, text};
use super::escape::push;

/// Calls that are drawn.
const DEEPEST: usize = 48;
/// The picture's width, in tenths of its unit.
const WIDTH: usize = 12_000;
const ROW: usize = 17;
/// Tenths of a letter's width.
const LETTER: usize = 63;
/// Narrower bars are left out, in tenths.
const NARROW: usize = 10;

/// A function, called by what is above it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Node {
    pub(super) name: String,
    /// Whether it is of a module.
    pub(super) module: bool,
    /// Tasks.
    pub(super) count: usize,
    pub(super) calls: Vec<Node>,
}

impl Node {
    /// The graph of what `bt --summary` answers.
    pub(super) fn of(groups: &Value) -> Self {
        let mut root = Self { name: "all tasks".to_owned(), ..Self::default() };
        let mut stacks: Vec<(Vec<(String, bool)>, usize)> = list(groups).iter().map(stack).collect();
        // What begins alike stands together.
        stacks.sort_unstable();
        for (names, count) in stacks {
            root.add(names, count);
        }
        root
    }

    fn add(&mut self, names: Vec<(String, bool)>, count: usize) {
        self.count = self.count.saturating_add(count);
        let mut node = self;
        for (name, module) in names {
            if node.calls.last().is_none_or(|last| last.name != name) {
                node.calls.push(Self { name, module, ..Self::default() });
            }
            let Some(next) = node.calls.last_mut() else { return };
            next.count = next.count.saturating_add(count);
            node = next;
        }
    }

    fn depth(&self) -> usize {
        1 + self.calls.iter().map(Self::depth).max().unwrap_or(0)
    }

    /// Every name in it.
    pub(super) fn names(&mut self, to: &mut dyn FnMut(&mut String)) {
        to(&mut self.name);
        self.calls.iter_mut().for_each(|call| call.names(to));
    }

    /// The picture: callers above those that they call.
    pub(super) fn svg(&self) -> String {
        let height = self.depth() * ROW + 2;
        let mut svg = format!(
            "<svg class=\"flame\" role=\"img\" aria-label=\"Flame graph of all stacks\" viewBox=\"0 0 {} {height}\">",
            WIDTH / 10
        );
        self.draw(0, WIDTH, 0, &mut svg);
        svg.push_str("</svg>");
        svg
    }

    fn draw(&self, from: usize, width: usize, row: usize, svg: &mut String) {
        if width < NARROW {
            return;
        }
        let (x, w, y) = (tenths(from), tenths(width.saturating_sub(5)), row * ROW + 1);
        let class = if self.module { "m" } else { "k" };
        svg.push_str("<g><title>");
        push(svg, &self.name);
        let tasks = if self.count == 1 { "task" } else { "tasks" };
        // Writing to a string does not fail.
        let _ = write!(
            svg,
            ": {} {tasks}</title><rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{}\"/>",
            self.count,
            ROW - 1
        );
        let letters = width.saturating_sub(40) / LETTER;
        if letters > 3 {
            let fits = self.name.chars().count() <= letters;
            let name: String = self.name.chars().take(if fits { letters } else { letters - 1 }).collect();
            let _ = write!(svg, "<text x=\"{}\" y=\"{}\">", tenths(from + 30), y + ROW - 5);
            push(svg, &name);
            svg.push_str(if fits { "</text>" } else { "\u{2026}</text>" });
        }
        svg.push_str("</g>");
        let mut at = from;
        for call in &self.calls {
            let part = width.saturating_mul(call.count) / self.count.max(1);
            call.draw(at, part, row + 1, svg);
            at += part;
        }
    }
}

fn tenths(n: usize) -> String {
    format!("{}.{}", n / 10, n % 10)
}

/// The outermost calls of a group's stack, whether each is of a module, and how many tasks have it.
fn stack(group: &Value) -> (Vec<(String, bool)>, usize) {
    let count = group.get("count").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    let frames = group.get("frames").map_or(&[][..], list);
    let names = frames.iter().rev().take(DEEPEST).map(|frame| {
        let name = text(frame, "symbol").or_else(|| text(frame, "pc")).unwrap_or_default();
        (name, frame.get("module").is_some_and(|m| !m.is_null()))
    });
    (names.collect(), count.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stacks_share_is_one_bar_and_names_are_escaped() {
        let groups = serde_json::json!([
            { "count": 3, "frames": [{ "symbol": "sleep", "module": null }, { "symbol": "<main>", "module": null }] },
            { "count": 1, "frames": [{ "symbol": "spin", "module": "bad" }, { "symbol": "<main>", "module": null }] },
            { "count": 2, "frames": [] },
        ]);
        let graph = Node::of(&groups);
        assert_eq!((graph.count, graph.calls.len()), (6, 1));
        let main = &graph.calls[0];
        assert_eq!((main.count, main.calls[0].count, main.calls[1].count), (4, 3, 1));
        assert!(main.calls[1].module && !main.calls[0].module);
        let svg = graph.svg();
        assert!(svg.contains("<title>&lt;main&gt;: 4 tasks</title>"), "{svg}");
        assert!(!svg.contains("<main>"), "{svg}");
        assert!(svg.contains("width=\"799.5\""), "4 of 6 tasks are two thirds of 1200: {svg}");
    }
}
