//! Types with holes, and what is derived in place of what they lost.

use std::sync::Arc;

use super::{Derived, Finder, Pages};
use crate::debuginfo::symbols::SymbolTable;
use crate::debuginfo::{Field, Types};
use crate::memory::AddressSpace;

/// The one before the other.
struct Over {
    own: Arc<dyn Types>,
    derived: Derived,
    origin: String,
}

impl Types for Over {
    fn size_of(&self, name: &str) -> Option<u64> {
        self.own.size_of(name).or_else(|| self.derived.size_of(name))
    }

    fn field(&self, name: &str, path: &str) -> Option<Field> {
        self.own.field(name, path).or_else(|| self.derived.field(name, path))
    }

    fn enumerator(&self, name: &str) -> Option<i64> {
        self.own.enumerator(name)
    }

    fn array_len(&self, name: &str, path: &str) -> Option<u64> {
        self.own.array_len(name, path)
    }

    fn origin(&self) -> &str {
        &self.origin
    }
}

/// `own` types, over what can be derived of tasks. `Err` says what could not be found.
pub(in super::super) fn over(
    own: Arc<dyn Types>,
    space: &dyn AddressSpace,
    symbols: &SymbolTable,
    pages: Pages<'_>,
) -> Result<Arc<dyn Types>, String> {
    let mut derived = Derived::default();
    Finder { space, symbols, holed: Some(&*own), pages }.tasks(&mut derived)?;
    let origin = format!("{}; those of tasks derived from memory", own.origin());
    Ok(Arc::new(Over { own, derived, origin }))
}
