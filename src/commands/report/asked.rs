//! Commands, asked by the words that a person types.

use serde_json::Value;

use crate::commands::{CommandError, Context, Result, Subject, find};
use crate::linux::Kernel;

/// What a command answered, for machines and for people.
pub(super) struct Asked {
    pub(super) value: Value,
    pub(super) rows: Vec<String>,
}

/// Asks `words`, the command's name first. An answer that has something to complain of is
/// an answer all the same.
pub(super) fn ask(kernel: &Kernel, context: Context<'_>, words: &[&str]) -> Result<Asked> {
    context.check()?;
    let (name, arguments) = words.split_first().ok_or_else(|| CommandError::unknown(""))?;
    let command = find(name).ok_or_else(|| CommandError::unknown(name))?;
    let subject = Subject::Kernel(kernel);
    let given = command
        .for_monitor(subject)
        .try_get_matches_from(arguments)
        .map_err(|e| CommandError::Usage(e.to_string()))?;
    let answer = command.answer(subject, &given, context)?;
    let mut json = Vec::new();
    answer.show(true, context, &mut json)?;
    let value = serde_json::from_slice(&json).map_err(std::io::Error::from)?;
    let mut rows = Vec::new();
    answer.show(false, context, &mut rows)?;
    Ok(Asked { value, rows: String::from_utf8_lossy(&rows).lines().map(str::to_owned).collect() })
}

/// A member as text; nothing where it is null or empty.
pub(super) fn text(value: &Value, name: &str) -> Option<String> {
    match value.get(name)? {
        Value::String(text) => Some(text.clone()).filter(|t| !t.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        _ => None,
    }
}

/// The elements of a list.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
