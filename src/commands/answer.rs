//! What a command answers: one value, which machines get as JSON and people as text.

use std::io::{self, Write};

use serde::Serialize;
use serde::ser::{Error as _, SerializeSeq, Serializer};

use super::{CommandError, Context, Result};
use crate::text::{self, Screen, row};

/// A value that people can read. What is long is written as it is found.
pub(super) trait Text {
    /// Writes the rows.
    fn text(&self, screen: &mut Screen<'_>) -> Result<()>;

    /// What could not be done, although there is something to show: a sentence.
    /// It is asked for after the value was shown, in either form.
    fn failure(&self) -> Option<String> {
        None
    }
}

/// One below the other, with an empty row between two.
pub(super) fn apart<T: Text>(all: &[T], screen: &mut Screen<'_>) -> Result<()> {
    for (i, one) in all.iter().enumerate() {
        if i > 0 {
            row!(screen)?;
        }
        one.text(screen)?;
    }
    Ok(())
}

/// A value of either form; every `T: Serialize + Text` becomes one by `into()`.
pub(super) struct Answer<'d>(Box<dyn Forms + 'd>);

trait Forms {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()>;
    fn json(&self, out: &mut dyn Write) -> io::Result<()>;
    fn failure(&self) -> Option<String>;
}

impl<T: Serialize + Text> Forms for T {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        Text::text(self, screen)
    }

    fn json(&self, out: &mut dyn Write) -> io::Result<()> {
        text::write_json(self, out)
    }

    fn failure(&self) -> Option<String> {
        Text::failure(self)
    }
}

impl<'d, T: Serialize + Text + 'd> From<T> for Answer<'d> {
    fn from(value: T) -> Self {
        Self(Box::new(value))
    }
}

impl Answer<'_> {
    /// Shows the answer, then says what of it failed.
    pub(super) fn write(&self, json: bool, context: Context<'_>, out: &mut dyn Write) -> Result<()> {
        self.show(json, context, out)?;
        self.0.failure().map_or(Ok(()), |why| Err(CommandError::Failed(why)))
    }

    /// Shows the answer.
    pub(super) fn show(&self, json: bool, context: Context<'_>, out: &mut dyn Write) -> Result<()> {
        if json {
            // An error of `out` and the end of patience look alike within JSON.
            return self.0.json(out).or_else(|e| context.check().and(Err(e.into())));
        }
        self.0.text(&mut Screen::new(out))
    }
}

/// Serializes a list while it is made, and no further once the caller gave up.
pub(super) fn streamed<S: Serializer, V: Serialize>(
    to: S,
    context: Context<'_>,
    values: impl IntoIterator<Item = V>,
) -> std::result::Result<S::Ok, S::Error> {
    let mut list = to.serialize_seq(None)?;
    for value in values {
        context.check().map_err(S::Error::custom)?;
        list.serialize_element(&value)?;
    }
    list.end()
}
