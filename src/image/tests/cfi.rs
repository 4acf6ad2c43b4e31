//! Steps of an imaginary machine, once by ORC as the kernel does it
//! (`unwind_next_frame`), and once by the emitted CFI as gimli reads it: the
//! caller must be the same.
#![allow(clippy::cast_possible_truncation, reason = "the test's own numbers")]

use std::collections::BTreeMap;

use gimli::{
    BaseAddresses, CfaRule, DebugFrame, EvaluationResult, LittleEndian, Location, Register, RegisterRule,
    UnwindContext, UnwindSection, Value,
};
use proptest::prelude::*;

use super::*;
use crate::debuginfo::orc::Layout;
use crate::debuginfo::symbols::{Builder, Symbol};
use crate::debuginfo::vmlinux;
use crate::image::tests::nm;

/// Memory in which every address holds something of its own.
fn memory(at: u64) -> u64 {
    (at ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) & !7
}

/// Registers by DWARF number.
fn registers() -> BTreeMap<u16, u64> {
    (0..=16).map(|r| (r, 0xffff_c900_0000_0000 + 0x1_0008 * u64::from(r))).collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Caller {
    pc: Option<u64>,
    sp: u64,
    bp: Option<u64>,
    /// rbx, of which ORC knows something only in pt_regs.
    bx: Option<u64>,
}

/// As `arch/x86/kernel/unwind_orc.c` has it.
fn by_orc(e: &OrcEntry) -> Option<Caller> {
    let r = registers();
    let plus = |a: u64, o: i16| a.wrapping_add_signed(i64::from(o));
    let sp = match e.sp_base {
        Base::Undefined | Base::PrevSp => 0,
        Base::Sp => plus(r[&7], e.sp_offset),
        Base::Bp => plus(r[&6], e.sp_offset),
        Base::Ax => r[&0],
        Base::Dx => r[&1],
        Base::Di => r[&5],
        Base::R10 => r[&10],
        Base::R13 => r[&13],
        Base::BpIndirect => memory(plus(r[&6], e.sp_offset)),
        Base::SpIndirect => plus(memory(r[&7]), e.sp_offset),
    };
    match e.kind {
        Kind::Undefined => None,
        Kind::End => Some(Caller { pc: None, sp: r[&7] + 8, bp: Some(r[&6]), bx: None }),
        Kind::Call => {
            let bp = match e.bp_base {
                Base::PrevSp => memory(plus(sp, e.bp_offset)),
                Base::Bp => memory(plus(r[&6], e.bp_offset)),
                _ => r[&6],
            };
            Some(Caller { pc: Some(memory(sp - 8)), sp, bp: Some(bp), bx: None })
        }
        Kind::Regs => Some(Caller {
            pc: Some(memory(sp + 128)),
            sp: memory(sp + 152),
            bp: Some(memory(sp + 32)),
            bx: Some(memory(sp + 40)),
        }),
        Kind::RegsPartial => {
            Some(Caller { pc: Some(memory(sp)), sp: memory(sp + 24), bp: Some(r[&6]), bx: Some(r[&3]) })
        }
    }
}

type Slice<'a> = gimli::EndianSlice<'a, LittleEndian>;

struct Stepper<'a> {
    section: DebugFrame<Slice<'a>>,
    fdes: BTreeMap<u64, gimli::FrameDescriptionEntry<Slice<'a>>>,
    context: UnwindContext<usize>,
}

impl<'a> Stepper<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut section = DebugFrame::new(bytes, LittleEndian);
        section.set_address_size(8);
        let bases = BaseAddresses::default();
        let mut fdes = BTreeMap::new();
        let mut entries = section.entries(&bases);
        while let Some(entry) = entries.next().unwrap() {
            if let gimli::CieOrFde::Fde(fde) = entry {
                let fde = fde.parse(DebugFrame::cie_from_offset).unwrap();
                let old = fdes.insert(fde.initial_address(), fde);
                assert!(old.is_none(), "two FDEs for one address");
            }
        }
        Self { section, fdes, context: UnwindContext::new() }
    }

    fn expression(&self, e: &gimli::UnwindExpression<usize>, cfa: Option<u64>) -> u64 {
        let encoding = gimli::Encoding { address_size: 8, format: gimli::Format::Dwarf32, version: 4 };
        let mut run = e.get(&self.section).unwrap().evaluation(encoding);
        if let Some(cfa) = cfa {
            run.set_initial_value(cfa);
        }
        let mut state = run.evaluate().unwrap();
        loop {
            state = match state {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    run.resume_with_register(Value::Generic(registers()[&register.0])).unwrap()
                }
                EvaluationResult::RequiresMemory { address, .. } => {
                    run.resume_with_memory(Value::Generic(memory(address))).unwrap()
                }
                other => panic!("{other:?}"),
            };
        }
        match run.result()[0].location {
            Location::Address { address } => address,
            other => panic!("{other:?}"),
        }
    }

    /// The caller, and whether this is a signal frame. `None` if no FDE covers
    /// the address.
    fn step(&mut self, pc: u64) -> Option<(Caller, bool)> {
        let (_, fde) = self.fdes.range(..=pc).next_back()?;
        let fde = fde.clone();
        if !fde.contains(pc) {
            return None;
        }
        let mut context = std::mem::take(&mut self.context);
        let bases = BaseAddresses::default();
        let row = fde.unwind_info_for_address(&self.section, &bases, &mut context, pc).unwrap().clone();
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                registers()[&register.0].wrapping_add_signed(*offset)
            }
            CfaRule::Expression(e) => self.expression(e, None),
        };
        let value = |n: u16| match row.register(Register(n)) {
            Some(RegisterRule::Undefined) => None,
            Some(RegisterRule::SameValue) => Some(registers()[&n]),
            Some(RegisterRule::ValOffset(o)) => Some(cfa.wrapping_add_signed(o)),
            Some(RegisterRule::Offset(o)) => Some(memory(cfa.wrapping_add_signed(o))),
            Some(RegisterRule::Expression(e)) => Some(memory(self.expression(&e, Some(cfa)))),
            Some(RegisterRule::ValExpression(e)) => Some(self.expression(&e, Some(cfa))),
            None => panic!("register {n} has no rule: gdb would keep its value"),
            Some(other) => panic!("{other:?}"),
        };
        let sp = match row.register(Register(7)) {
            None => cfa,
            Some(_) => value(7).unwrap(),
        };
        let caller = Caller { pc: value(16), sp, bp: value(6), bx: value(3) };
        self.context = context;
        Some((caller, fde.is_signal_trampoline()))
    }
}

fn check(orc: &OrcTable, symbols: &SymbolTable, frames: &Frames) -> usize {
    let mut stepper = Stepper::new(&frames.bytes);
    assert_eq!(stepper.fdes.len(), frames.count);
    let mut rows = 0;
    for mut row in orc.rows() {
        if row.entry.kind == Kind::Undefined {
            row.entry = orc.bridged(row.range.start, symbols).unwrap_or(row.entry);
        }
        // Of the common ones every 20th: gimli in a debug build takes its time.
        let common =
            matches!(row.entry.kind, Kind::Call | Kind::Undefined) && row.entry.sp_base != Base::SpIndirect;
        rows += 1;
        if common && orc.len() > 1000 && rows % 20 != 0 {
            continue;
        }
        for pc in [row.range.start, row.range.end - 1] {
            let got = stepper.step(pc);
            if row.entry.kind == Kind::Undefined {
                let ends = matches!(&got, None | Some((Caller { pc: None, .. }, _)));
                assert!(ends, "{pc:#x} {got:?}");
                continue;
            }
            let want = by_orc(&row.entry).unwrap();
            let (got, signal) = got.unwrap();
            assert_eq!(got, want, "{pc:#x} {row:?}");
            let name = symbols.by_address(row.range.start).map_or("", |(s, _)| s.name);
            let switch = row.entry.sp_base == Base::SpIndirect && row.entry.kind == Kind::Call;
            let regs = matches!(row.entry.kind, Kind::Regs | Kind::RegsPartial);
            let expected = regs && !is_system_call(name) || switch && !is_interrupt_handler(name);
            assert_eq!(signal, expected, "{pc:#x} {name} {row:?}");
            assert_eq!(signal, frames.signal_ranges.iter().any(|r| r.contains(&pc)));
        }
    }
    rows
}

#[test]
fn every_row_of_the_kernels_steps_as_orc_does() {
    for (release, path) in vmlinux::all() {
        let orc = vmlinux::orc(&release, &path);
        let symbols = nm(&path);
        let frames = frames(&orc, &symbols, &[], Fdes::Long);
        assert!(check(&orc, &symbols, &frames) > 300_000);
        // Those that real DWARF has wrong, alone.
        let few = switch_frames(&orc, &symbols);
        assert_eq!(few.count, switches(&orc).count());
        let mut stepper = Stepper::new(&few.bytes);
        for s in switches(&orc) {
            let (caller, _) = stepper.step(s.range.start).unwrap();
            assert_eq!(caller.sp, memory(registers()[&7]).wrapping_add_signed(i64::from(s.offset)));
        }
    }
}

/// As LLDB takes them: by the function's first byte, to its last.
#[test]
fn a_function_has_an_fde_of_its_own() {
    for (release, path) in vmlinux::all() {
        let orc = vmlinux::orc(&release, &path);
        let symbols = nm(&path);
        let long = frames(&orc, &symbols, &[], Fdes::Long);
        let frames = frames(&orc, &symbols, &[], Fdes::PerFunction);
        let (mut those, mut these) = (Stepper::new(&long.bytes), Stepper::new(&frames.bytes));
        let (mut whole, mut parts) = (0, 0);
        let texts: Vec<u64> = symbols.iter().filter(Symbol::is_text).map(|s| s.address).collect();
        for (at, fde) in &these.fdes {
            let next = texts.get(texts.partition_point(|t| t <= at));
            assert!(next.is_none_or(|next| fde.end_address() <= *next), "{at:#x}");
            let is_start = texts.binary_search(at).is_ok();
            *if is_start { &mut whole } else { &mut parts } += 1;
        }
        // Assembly code changes its class on the way.
        assert!(whole > 30_000 && parts < 3_000, "{release}: {whole}, {parts}");
        for row in orc.rows().step_by(200).filter(|r| r.entry.kind != Kind::Undefined) {
            let pc = row.range.start;
            assert_eq!(these.step(pc), those.step(pc), "{release} {pc:#x}");
        }
    }
}

#[test]
fn an_override_comes_in_place_of_the_rows_it_covers() {
    let rows = [(0x1000_u64, 0x205_u16, 16_i16), (0x1100, 0, 0), (0x1400, 0x205, 8)];
    let orc = table(&rows, 0x1500);
    let symbols = Builder::new("t").finish();
    let over = Override { range: 0x1100..0x1400, from: CalledFrom::Call(184) };
    let frames = frames(&orc, &symbols, &[over], Fdes::Long);
    let mut stepper = Stepper::new(&frames.bytes);
    let sp = registers()[&7];
    assert_eq!(stepper.step(0x10ff).unwrap().0.sp, sp + 16);
    assert_eq!(stepper.step(0x1100).unwrap().0.sp, sp + 184);
    assert_eq!(stepper.step(0x13ff).unwrap().0.pc, Some(memory(sp + 176)));
    assert_eq!(stepper.step(0x1400).unwrap().0.sp, sp + 8);
}

#[test]
fn an_entry_without_orc_leads_to_user_mode() {
    // cld; mov rdi, rsp; call; jmp: entry_INT80_compat of 4.19
    let code = [0xfc, 0x48, 0x89, 0xe7, 0xe8, 1, 2, 3, 4, 0xe9, 0, 0, 0, 0];
    let call = call_with_registers(&code, 0x1100).unwrap();
    assert_eq!(call, 0x1104..0x110a);
    assert_eq!(call_with_registers(code.get(..8).unwrap(), 0x1100), None);
    assert_eq!(call_with_registers(&code, u64::MAX - 5), None);
    let rows = [(0x1000_u64, 0x205_u16, 16_i16), (0x1100, 0, 0), (0x1400, 0x205, 8)];
    let orc = table(&rows, 0x1500);
    let mut builder = Builder::new("t");
    builder.push(0x1100, 0, b'T', b"entry_INT80_compat");
    let over = Override { range: call, from: CalledFrom::User };
    let frames = frames(&orc, &builder.finish(), &[over], Fdes::Long);
    let mut stepper = Stepper::new(&frames.bytes);
    let sp = registers()[&7];
    let word = |n: u64| memory(sp + n * 8);
    // include/uapi/asm/ptrace.h: r15 r14 r13 r12 bp bx ... ip cs flags sp ss
    let user = Caller { pc: Some(word(16)), sp: word(19), bp: Some(word(4)), bx: Some(word(5)) };
    for pc in [0x1104, 0x1109] {
        let (caller, signal) = stepper.step(pc).unwrap();
        assert_eq!((&caller, signal), (&user, false), "{pc:#x}");
    }
    assert_ne!(stepper.step(0x1103).unwrap().0.pc, Some(word(16)));
    assert!(frames.signal_ranges.is_empty());
}

#[test]
fn a_hole_in_a_function_has_the_rule_around_it() {
    const HOLE: (u16, i16) = (0, 0);
    let rows = [(0x1000, (0x205, 8)), (0x1004, (0x205, 24)), (0x1010, HOLE), (0x1050, (0x205, 24))];
    // Between functions, and where the rules around it are not the same.
    let more = [(0x1060, HOLE), (0x1070, (0x205, 24)), (0x1080, HOLE), (0x10e0, (0x205, 32))];
    let rows: Vec<_> = rows.iter().chain(&more).map(|&(at, (flags, sp))| (at, flags, sp)).collect();
    let orc = table(&rows, 0x1100);
    let mut builder = Builder::new("t");
    builder.push(0x1000, 0, b'T', b"first");
    builder.push(0x1070, 0, b'T', b"second");
    let symbols = builder.finish();
    let around = orc.bridged(0x104f, &symbols).unwrap();
    assert_eq!((around.kind, around.sp_offset), (Kind::Call, 24));
    for none in [0xfff, 0x1000, 0x100f, 0x1050, 0x1060, 0x106f, 0x1080, 0x10e0, 0x1200] {
        assert_eq!(orc.bridged(none, &symbols), None, "{none:#x}");
    }
    let frames = frames(&orc, &symbols, &[], Fdes::Long);
    assert_eq!(Stepper::new(&frames.bytes).step(0x1010).unwrap().0.sp, registers()[&7] + 24);
    check(&orc, &symbols, &frames);
}

#[test]
fn the_world_outside_has_rules() {
    let kernel = 0xffff_ffff_8100_0000..0xffff_ffff_8400_0000;
    let frames = world(None, &Builder::new("t").finish(), &[], Code::default(), &kernel, Fdes::Long);
    let mut stepper = Stepper::new(&frames.bytes);
    let (sp, bp) = (registers()[&7], registers()[&6]);
    let caller = |pc, sp, bp| Some((Caller { pc, sp, bp: Some(bp), bx: None }, false));
    let call = caller(Some(memory(sp)), sp + 8, bp);
    assert_eq!(stepper.step(0), call);
    assert_eq!(stepper.step(0xffff_8880_0000_1000), call);
    for user in [1, 0x47_b7a0, 0x7fff_ffff_ffff, 0x00ff_ffff_ffff_ffff] {
        assert_eq!(stepper.step(user), caller(None, sp + 8, bp));
    }
    assert_eq!(stepper.step(0xffff_ffff_c000_0000), caller(Some(memory(bp + 8)), bp + 16, memory(bp)));
    assert_eq!(stepper.step(kernel.start), None);
    assert_eq!(stepper.step(kernel.end - 1), None);
}

#[test]
fn code_with_frame_pointers_has_rules_at_each_instruction() {
    use crate::arch::prologue::Prologue;
    use crate::arch::stub::Stub;
    let start = 0xffff_ffff_8100_0000;
    let kernel = start..start + 0x10000;
    let functions = [
        Prologue { start: start + 0x100, pushed: start + 0x106, framed: start + 0x109 },
        Prologue { start: start + 0x200, pushed: start + 0x201, framed: start + 0x208 },
    ];
    let stubs = [
        (start + 0x1000..start + 0x1080, Stub::Exception),
        (start + 0x1080..start + 0x1100, Stub::Interrupt),
        (start + 0x1100..start + 0x1180, Stub::Other),
    ];
    let code = Code { functions: &functions, stubs: &stubs };
    let symbols = Builder::new("t").finish();
    let frames = world(None, &symbols, &[], code, &kernel, Fdes::Long);
    let mut stepper = Stepper::new(&frames.bytes);
    let (sp, bp) = (registers()[&7], registers()[&6]);
    let mut at = |offset| stepper.step(start + offset).unwrap();
    let call = |pc, sp, bp| (Caller { pc: Some(pc), sp, bp: Some(bp), bx: None }, false);
    let framed = call(memory(bp + 8), bp + 16, memory(bp));
    for offset in [0, 0xff, 0x109, 0x1ff, 0x208, 0xfff, 0x1180, 0xffff] {
        assert_eq!(at(offset), framed, "{offset:#x}");
    }
    for offset in [0x100, 0x105, 0x200] {
        assert_eq!(at(offset), call(memory(sp), sp + 8, bp), "{offset:#x}");
    }
    for offset in [0x106, 0x108, 0x201, 0x207] {
        assert_eq!(at(offset), call(memory(sp + 8), sp + 16, memory(sp)), "{offset:#x}");
    }
    let saved = |regs: u64, bx| {
        let [pc, sp, bp] = [128, 152, 32].map(|offset| memory(regs + offset));
        (Caller { pc: Some(pc), sp, bp: Some(bp), bx }, true)
    };
    assert_eq!(at(0x1028), saved(sp, Some(memory(sp + 40))));
    // An interrupt leaves a pointer to bp, and rbx to the compiler.
    assert_eq!(at(0x10f0), saved(memory(sp) - 32, None));
    assert_eq!(at(0x1116).0.pc, None);
    // With vmlinux's own rules only the interrupts' are needed; a module has no stubs.
    let frames = interrupt_frames(code, &symbols);
    let mut stepper = Stepper::new(&frames.bytes);
    assert_eq!(stepper.step(start + 0x10f0), Some(saved(memory(sp) - 32, None)));
    assert_eq!(stepper.step(start + 0x1028), None);
    let frames = module_frames(Code { stubs: &[], ..code }, &symbols, &kernel, Fdes::Long);
    assert_eq!(Stepper::new(&frames.bytes).step(start + 0x1028), Some(framed));
}

#[test]
fn the_caller_of_a_function_without_orc_is_found_on_the_stack() {
    let function = 0xffff_ffff_8110_0000_u64;
    let call = 0xffff_ffff_8120_0010_u64;
    let rel = function.wrapping_sub(call + 5) as i32;
    let mut stack = vec![0u8; 64];
    stack[24..32].copy_from_slice(&(call + 5).to_le_bytes());
    let code = |at| {
        let [a, b, c, d] = rel.to_le_bytes();
        (at == call).then_some([0xe8, a, b, c, d])
    };
    assert_eq!(frame_by_caller(&stack, function, code), Some(32));
    assert_eq!(frame_by_caller(&stack, function + 1, code), None);
    assert_eq!(frame_by_caller(&stack[..24], function, code), None);
}

/// A table in 6.4's layout from (address, flags, sp_offset).
fn table(rows: &[(u64, u16, i16)], end: u64) -> OrcTable {
    let ip: Vec<u8> =
        rows.iter().enumerate().flat_map(|(i, (at, ..))| (*at as i32 - 4 * i as i32).to_le_bytes()).collect();
    let entries: Vec<u8> = rows
        .iter()
        .flat_map(|(_, flags, sp)| {
            let (s, b, f) = (sp.to_le_bytes(), (-16_i16).to_le_bytes(), flags.to_le_bytes());
            [s[0], s[1], b[0], b[1], f[0], f[1]]
        })
        .collect();
    OrcTable::parse(Layout::V6_4, &ip, 0, &entries, end, "t").unwrap()
}

const NAMES: [&str; 6] = [
    "plain",
    "sysvec_thing",
    "entry_SYSCALL_64_after_hwframe",
    "do_softirq.part.0",
    "asm_exc_page_fault",
    "common_interrupt",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any table: in each CIE class, next to each other in any order.
    #[test]
    fn any_row_steps_as_orc_does(
        rows in prop::collection::vec((1u64..200, any::<u16>(), any::<i16>()), 1..60),
        names in prop::collection::vec(0usize..6, 1..10),
    ) {
        let mut at = 0x1000;
        let rows: Vec<_> = rows.into_iter().map(|(len, flags, sp)| { at += len; (at, flags & 0xfff, sp) }).collect();
        let orc = table(&rows, at + 100);
        let mut builder = Builder::new("t");
        for (i, n) in names.iter().enumerate() {
            builder.push(0x1000 + 0x300 * i as u64, 0, b'T', NAMES[*n].as_bytes());
        }
        let symbols = builder.finish();
        let frames = frames(&orc, &symbols, &[], Fdes::Long);
        check(&orc, &symbols, &frames);
    }
}
