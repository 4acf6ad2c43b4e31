//! Registers of a thread of a core, beyond the general ones: x87, SSE, AVX,
//! AVX-512, protection keys.
//!
//! `NT_X86_XSTATE` is an XSAVE area in the standard (not compacted) format
//! (Intel SDM volume 1, 13.4): legacy FXSAVE image, header at 512 whose first
//! word tells which parts are not in their initial state, then the parts. The
//! kernel puts XCR0 into the software-reserved bytes at 464
//! (`arch/x86/kernel/fpu/xstate.c`). Where the parts beyond AVX stand, the CPU decides:
//! Intel and AMD differ. `NT_X86_XSAVE_LAYOUT` tells (Linux 6.12, entries of
//! `{u32 type, size, offset, flags}`); without it the two known layouts are told
//! apart by the size of the area, as gdb does (`gdb/i387-tdep.c`).

use super::description::Extra;
use super::{Description, RegisterFile};
use crate::bytes::{array_at, u16_at, u32_at, u64_at};

const XCR0_AT: usize = 464;
const XSTATE_BV_AT: usize = 512;
const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
const AVX512: u64 = 0b111 << 5;
const PKRU: u64 = 1 << 9;

/// Offsets of the parts in the XSAVE area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    avx: usize,
    opmask: usize,
    zmm_high: usize,
    zmm_upper: usize,
    pkru: usize,
}

impl Layout {
    /// CPUs that have, or leave room for, MPX.
    const INTEL: Self = Self { avx: 576, opmask: 1088, zmm_high: 1152, zmm_upper: 1664, pkru: 2688 };
    const AMD: Self = Self { avx: 576, opmask: 832, zmm_high: 896, zmm_upper: 1408, pkru: 2432 };

    /// The layout of an area of `size` bytes, from the core's own note if it has one.
    #[must_use]
    pub(super) fn of(size: usize, note: Option<&[u8]>) -> Self {
        let mut layout = if (2432..2688).contains(&size) { Self::AMD } else { Self::INTEL };
        for entry in note.unwrap_or_default().chunks_exact(16) {
            let (Some(kind), Some(offset)) = (u32_at(entry, 0), u32_at(entry, 8)) else { continue };
            let Ok(offset) = usize::try_from(offset) else { continue };
            match kind {
                2 => layout.avx = offset,
                5 => layout.opmask = offset,
                6 => layout.zmm_high = offset,
                7 => layout.zmm_upper = offset,
                9 => layout.pkru = offset,
                _ => {}
            }
        }
        layout
    }
}

/// Which groups of registers the CPU had, by the XCR0 in an XSAVE area.
#[must_use]
pub(super) fn extras(xsave: &[u8]) -> Vec<Extra> {
    let xcr0 = u64_at(xsave, XCR0_AT).unwrap_or_default();
    let has = |bits| xcr0 & bits == bits;
    let mut extras = Vec::new();
    if has(AVX) {
        extras.push(Extra::Avx);
    }
    if has(AVX | AVX512) {
        extras.push(Extra::Avx512);
    }
    if has(AVX | AVX512 | PKRU) {
        extras.push(Extra::Pkeys);
    }
    extras
}

/// Sets x87 and SSE from an FXSAVE image (`NT_FPREGSET`, or the front of an XSAVE area).
pub(super) fn set_fxsave(file: &mut RegisterFile, d: &Description, image: &[u8]) {
    set_x87(file, d, image);
    set_sse(file, d, image);
    set_mxcsr(file, d, image);
}

fn set_x87(file: &mut RegisterFile, d: &Description, image: &[u8]) {
    let word = |at| u64::from(u16_at(image, at).unwrap_or_default());
    let (Some(last), status) = (image.get(..160), word(2)) else { return };
    for i in 0..8usize {
        if let Some(st) = array_at::<10>(last, 32 + 16 * i) {
            file.set(d, &format!("st{i}"), &st);
        }
    }
    file.set_u64(d, "fctrl", word(0));
    file.set_u64(d, "fstat", status);
    file.set_u64(d, "ftag", full_tag_word(image).into());
    file.set_u64(d, "fioff", u32_at(image, 8).unwrap_or_default().into());
    file.set_u64(d, "fiseg", word(12));
    file.set_u64(d, "fooff", u32_at(image, 16).unwrap_or_default().into());
    file.set_u64(d, "foseg", word(20));
    // Only eleven bits of the opcode exist.
    file.set_u64(d, "fop", word(6) & 0x7ff);
}

/// FXSAVE keeps one bit a register ("not empty"); gdb shows the x87's own two:
/// 0 valid, 1 zero, 2 special, 3 empty (Intel SDM volume 1, 8.1.7 and 10.5.1).
fn full_tag_word(image: &[u8]) -> u16 {
    let abridged = image.get(4).copied().unwrap_or_default();
    let top = usize::from(u16_at(image, 2).unwrap_or_default() >> 11 & 7);
    (0..8usize).rev().fold(0, |tags, physical| {
        let tag = if abridged & 1 << physical == 0 {
            3
        } else {
            let logical = (physical + 8 - top) % 8;
            tag_of(&array_at(image, 32 + 16 * logical).unwrap_or_default())
        };
        tags << 2 | tag
    })
}

fn tag_of(st: &[u8; 10]) -> u16 {
    let exponent = u16_at(st, 8).unwrap_or_default() & 0x7fff;
    let mantissa = u64_at(st, 0).unwrap_or_default();
    match (exponent, mantissa) {
        (0x7fff, _) => 2,
        (0, 0) => 1,
        (0, _) => 2,
        (_, m) if m >> 63 == 1 => 0,
        _ => 2,
    }
}

fn set_sse(file: &mut RegisterFile, d: &Description, image: &[u8]) {
    for i in 0..16usize {
        if let Some(xmm) = array_at::<16>(image, 160 + 16 * i) {
            file.set(d, &format!("xmm{i}"), &xmm);
        }
    }
}

fn set_mxcsr(file: &mut RegisterFile, d: &Description, image: &[u8]) {
    if let Some(mxcsr) = u32_at(image, 24) {
        file.set_u64(d, "mxcsr", mxcsr.into());
    }
}

/// Sets everything that an XSAVE area holds.
pub(super) fn set_xsave(file: &mut RegisterFile, d: &Description, area: &[u8], layout: Layout) {
    let Some(in_use) = u64_at(area, XSTATE_BV_AT) else { return set_fxsave(file, d, area) };
    if in_use & X87 != 0 {
        set_x87(file, d, area);
    } else {
        // The initial state: FINIT's.
        set_x87(file, d, &[0; 160]);
        file.set_u64(d, "fctrl", 0x37f);
    }
    let zeros = [0; 416];
    set_sse(file, d, if in_use & SSE != 0 { area } else { &zeros });
    if in_use & (SSE | AVX) != 0 {
        set_mxcsr(file, d, area);
    } else {
        file.set_u64(d, "mxcsr", 0x1f80);
    }
    let mut part = |bit: u64, name: String, at: usize, len: usize| {
        if in_use & bit == 0 {
            file.set(d, &name, &[]);
        } else if let Some(value) = at.checked_add(len).and_then(|end| area.get(at..end)) {
            file.set(d, &name, value);
        }
    };
    for i in 0..16usize {
        part(AVX, format!("ymm{i}h"), layout.avx + 16 * i, 16);
        part(1 << 6, format!("zmm{i}h"), layout.zmm_high + 32 * i, 32);
        let upper = layout.zmm_upper + 64 * i;
        part(1 << 7, format!("xmm{}", 16 + i), upper, 16);
        part(1 << 7, format!("ymm{}h", 16 + i), upper + 16, 16);
        part(1 << 7, format!("zmm{}h", 16 + i), upper + 32, 32);
    }
    for i in 0..8usize {
        part(1 << 5, format!("k{i}"), layout.opmask + 8 * i, 8);
    }
    part(PKRU, "pkru".to_owned(), layout.pkru, 4);
}
