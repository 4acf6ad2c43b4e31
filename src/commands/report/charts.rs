//! Small pictures: sizes as bars, and when messages were written.

use std::fmt::Write;

use super::escape::push;
use super::{Bar, Message};
use crate::linux::usage::size_text;

const ROW: u64 = 22;
/// Where bars begin, and how long the longest is.
const LEFT: u64 = 170;
const LONGEST: u64 = 420;
/// The time line's columns, their width and the height of the highest.
const COLUMNS: usize = 120;
const COLUMN: usize = 10;
const HIGHEST: usize = 48;

/// A bar for each size.
pub(super) fn bars(bars: &[Bar]) -> String {
    let most = bars.iter().map(|b| b.bytes).max().unwrap_or(0).max(1);
    let height = ROW * bars.len() as u64;
    let mut svg = format!(
        "<svg class=\"bars\" role=\"img\" aria-label=\"Memory by use\" viewBox=\"0 0 720 {height}\">"
    );
    for (bar, y) in bars.iter().zip((0..).step_by(22)) {
        let long = u64::try_from(u128::from(bar.bytes) * u128::from(LONGEST) / u128::from(most)).unwrap_or(0);
        let _ = write!(svg, "<text class=\"name\" x=\"{}\" y=\"{}\">", LEFT - 8, y + 15);
        push(&mut svg, &bar.name);
        let _ = write!(
            svg,
            "</text><rect x=\"{LEFT}\" y=\"{}\" width=\"{}\" height=\"16\"/><text x=\"{}\" y=\"{}\">{}</text>",
            y + 3,
            long.max(1),
            LEFT + long + 8,
            y + 15,
            size_text(bar.bytes)
        );
    }
    svg.push_str("</svg>");
    svg
}

/// How many messages were written when, and the worst of them. Nothing where times are not known.
pub(super) fn time_line(log: &[Message]) -> Option<String> {
    let times = || log.iter().filter_map(|m| m.ts_ns);
    let (first, last) = (times().min()?, times().max()?);
    let span = (last - first).max(1);
    let mut columns = [(0usize, u8::MAX); COLUMNS];
    for message in log {
        let Some(time) = message.ts_ns else { continue };
        let at = u128::from(time - first) * (COLUMNS as u128 - 1) / u128::from(span);
        let column = usize::try_from(at).ok().and_then(|at| columns.get_mut(at))?;
        *column = (column.0 + 1, column.1.min(message.level.unwrap_or(u8::MAX)));
    }
    let most = columns.iter().map(|c| c.0).max().unwrap_or(0).max(1);
    let mut svg = format!(
        "<svg class=\"time\" role=\"img\" aria-label=\"Messages by time\" viewBox=\"0 0 {} {}\">",
        COLUMNS * COLUMN,
        HIGHEST + 18
    );
    for (i, (count, worst)) in columns.iter().enumerate().filter(|(_, c)| c.0 > 0) {
        let high = (count * HIGHEST / most).max(2);
        let _ = write!(
            svg,
            "<g><title>{count} messages</title><rect class=\"{}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{high}\"/></g>",
            level(Some(*worst)),
            i * COLUMN,
            HIGHEST - high,
            COLUMN - 1
        );
    }
    let seconds = |ns: u64| format!("{}.{:03} s", ns / 1_000_000_000, ns % 1_000_000_000 / 1_000_000);
    let (end, y) = (COLUMNS * COLUMN, HIGHEST + 14);
    let _ = write!(
        svg,
        "<text x=\"0\" y=\"{y}\">{}</text><text class=\"name\" x=\"{end}\" y=\"{y}\">{}</text></svg>",
        seconds(first),
        seconds(last)
    );
    Some(svg)
}

/// How bad a message is, as a class of the page.
pub(super) fn level(level: Option<u8>) -> &'static str {
    match level {
        Some(0..=3) => "bad",
        Some(4) => "warn",
        _ => "info",
    }
}
