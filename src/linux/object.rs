//! One structure in dumped memory, its members read by the types found.

use super::View;
use crate::addr::VirtAddr;
use crate::debuginfo::Field;

/// A structure of type `ty` at `base`.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a> {
    view: &'a View,
    ty: &'a str,
    /// Where it lies.
    pub base: VirtAddr,
}

impl<'a> Object<'a> {
    /// The structure of type `ty` at `base`.
    #[must_use]
    pub(crate) fn new(view: &'a View, ty: &'a str, base: VirtAddr) -> Self {
        Self { view, ty, base }
    }

    /// What it is read through.
    #[must_use]
    pub(crate) fn view(&self) -> &'a View {
        self.view
    }

    /// The variable `symbol` as a structure of type `ty`.
    #[must_use]
    pub(crate) fn of_symbol(view: &'a View, symbol: &str, ty: &'a str) -> Option<Self> {
        Some(Self::new(view, ty, view.symbol(symbol)?))
    }

    /// CPU `cpu`'s copy of the per-CPU variable `symbol`.
    #[must_use]
    pub(crate) fn of_cpu(view: &'a View, symbol: &str, cpu: u32, ty: &'a str) -> Option<Self> {
        Some(Self::new(view, ty, view.percpu().address(view.symbol(symbol)?, cpu)?))
    }

    /// Where a member is, in the types.
    #[must_use]
    pub(crate) fn field(&self, path: &str) -> Option<Field> {
        self.view.types().field(self.ty, path)
    }

    /// Address of a member.
    #[must_use]
    pub(crate) fn address(&self, path: &str) -> Option<VirtAddr> {
        self.base.checked_add(self.field(path)?.offset)
    }

    /// A number of up to 8 bytes, not sign-extended; bit-fields included.
    #[must_use]
    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        self.value(self.field(path)?)
    }

    /// [`Self::number`] of a member that was looked up for many structures.
    #[must_use]
    pub(crate) fn value(&self, field: Field) -> Option<u64> {
        number(self.view, self.base.checked_add(field.offset)?, field)
    }

    /// A signed number of 2, 4 or 8 bytes.
    #[must_use]
    pub(crate) fn signed(&self, path: &str) -> Option<i64> {
        let size = self.field(path)?.size;
        let raw = self.number(path)?;
        Some(match size {
            2 => i64::from(u16::try_from(raw).ok()?.cast_signed()),
            4 => i64::from(u32::try_from(raw).ok()?.cast_signed()),
            _ => raw.cast_signed(),
        })
    }

    /// A pointer into the kernel's half; `None` for null.
    #[must_use]
    pub(crate) fn pointer(&self, path: &str) -> Option<VirtAddr> {
        self.number(path).filter(|&p| p >= self.view.user_limit()).map(VirtAddr)
    }

    /// What a pointer member points to, as a structure of type `ty`.
    #[must_use]
    pub(crate) fn follow(&self, path: &str, ty: &'a str) -> Option<Self> {
        Some(Self::new(self.view, ty, self.pointer(path)?))
    }
}

/// The number in `field` of what lies at `at` (the member's own address).
#[must_use]
pub(crate) fn number(view: &View, at: VirtAddr, field: Field) -> Option<u64> {
    let mut raw = [0; 8];
    // Of a type that is lost it is not known how much to read.
    let len = usize::try_from(field.size).ok().filter(|&len| len > 0)?.min(8);
    view.space().read_exact(at, raw.get_mut(..len)?).ok()?;
    let value = u64::from_le_bytes(raw);
    Some(match field.bits {
        Some((start, width)) if width < 64 => value.checked_shr(start.into())? & ((1 << width) - 1),
        _ => value,
    })
}
