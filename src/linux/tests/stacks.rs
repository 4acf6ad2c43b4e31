//! The exception stacks of a made-up CPU, by its TSS.

use super::machine::Machine;
use crate::linux::stacks::{Kind, Stacks};

const TSS: u64 = 0xffff_ffff_8500_0000;
const AREA: u64 = 0xffff_fe00_0000_5000;

/// Names and sizes of the stacks, of 8 KiB each and with a page between them.
fn told(prepare: impl FnOnce(&mut Machine)) -> Vec<(&'static str, u64)> {
    let mut m = Machine::new();
    m.symbol("cpu_tss_rw", TSS);
    m.member("tss_struct", "x86_tss.ist", 0x24, 56);
    for i in 0..7 {
        m.word(TSS + 0x24 + 8 * i, if i < 5 { AREA + 0x3000 * (i + 1) } else { 0 });
    }
    prepare(&mut m);
    let stacks = Stacks::read(&m.view());
    let named = stacks.all().iter().filter_map(|s| match s.kind {
        Kind::Exception(name) => Some((name, s.range.end - s.range.start)),
        _ => None,
    });
    named.collect()
}

#[test]
fn exception_stacks_have_their_names_where_their_type_is_lost() {
    let names = ["DOUBLEFAULT", "NMI", "DEBUG", "MCE", "VC"];
    let typed = told(|m| {
        m.symbol("cea_exception_stacks", TSS + 0x100);
        m.size("exception_stacks", 0xa000);
        for member in ["DF_stack", "NMI_stack", "DB_stack", "MCE_stack", "VC_stack"] {
            m.member("exception_stacks", member, 0, 0x2000);
        }
    });
    assert_eq!(typed, names.map(|name| (name, 0x2000)));
    assert_eq!(told(|m| m.symbol("cea_exception_stacks", TSS + 0x100)), typed);
    // Before 3.18.
    let names = ["STACKFAULT", "DOUBLEFAULT", "NMI", "DEBUG", "MCE"];
    assert_eq!(told(|_| ()).iter().map(|(name, _)| *name).collect::<Vec<_>>(), names);
}
