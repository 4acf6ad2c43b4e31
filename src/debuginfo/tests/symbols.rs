use super::*;

fn table(symbols: &[(u64, u64, u8, &str)]) -> SymbolTable {
    let mut builder = Builder::new("test");
    for &(address, size, kind, name) in symbols {
        assert!(builder.push(address, size, kind, name.as_bytes()));
    }
    builder.finish()
}

#[test]
fn the_best_name_of_an_address_comes_first() {
    let t = table(&[
        (0x1000, 0, b'T', "__x64_sys_read"),
        (0x1000, 0, b'W', "read"),
        (0x1000, 0, b't', "ksys_read"),
        (0x1000, 0, b'T', "_stext"),
        (0x0ff0, 0, b't', "__pfx_ksys_read"),
        (0x1080, 0, b't', "other"),
    ]);
    let (symbol, offset) = t.by_address(0x1007).unwrap();
    assert_eq!((symbol.name, offset, symbol.size), ("ksys_read", 7, 0x80));
    assert_eq!(t.by_address(0xff4).unwrap().0.name, "__pfx_ksys_read");
    assert_eq!(t.by_address(0xfe0), None);
}

#[test]
fn gaps_are_capped_and_elf_sizes_kept() {
    let t = table(&[
        (0x0, 0, b'A', "percpu"),
        (0x100, 0x20, b'T', "f"),
        (0xffff_ffff_8100_0000, 0, b'B', "_end"),
    ]);
    let sizes: Vec<u64> = t.iter().map(|s| s.size).collect();
    assert_eq!(sizes, [0x100, 0x20, 4096]);
    assert_eq!(t.by_address(0x11f).unwrap().1, 0x1f);
    assert_eq!(t.by_address(0x120), None);
    assert_eq!(t.by_address(u64::MAX), None);
}

#[test]
fn what_lies_in_data_is_data_whatever_kallsyms_says() {
    let t = table(&[
        (0x0e00, 0, b'T', "schedule"),
        (0x1000, 0, b'T', "_sdata"),
        (0x1000, 0, b'T', "init_task"),
        (0x1800, 0, b't', "slab_caches"),
        (0x2000, 0, b'T', "_edata"),
        (0x3000, 0, b't', "do_one_initcall"),
    ]);
    let kinds: Vec<_> = t.iter().map(|s| (s.name, char::from(s.kind))).collect();
    let told = [("schedule", 'T'), ("init_task", 'D'), ("slab_caches", 'd'), ("do_one_initcall", 't')];
    assert!(told.iter().all(|one| kinds.contains(one)), "{kinds:?}");
}

#[test]
fn names_find_the_global_one_and_all() {
    let t = table(&[
        (0x30, 0, b't', "init"),
        (0x10, 0, b't', "init"),
        (0x20, 0, b'T', "init"),
        (0x40, 0, b'T', "x"),
    ]);
    assert_eq!(t.by_name("init").unwrap().address, 0x20);
    assert_eq!(t.all_by_name("init").map(|s| s.address).collect::<Vec<_>>(), [0x10, 0x20, 0x30]);
    assert_eq!(t.address("y"), None);
    assert_eq!(table(&[]).by_name("x"), None);
}

#[test]
fn a_name_that_is_not_text_is_replaced_not_fatal() {
    let mut builder = Builder::new("test");
    assert!(builder.push(1, 0, b'T', b"a\xff"));
    assert!(!builder.push(1, 0, b'T', b""));
    assert!(!builder.push(1, 0, b'T', &[b'x'; NAME_MAX + 1]));
    assert_eq!(builder.finish().iter().next().unwrap().name, "a\u{fffd}");
}
