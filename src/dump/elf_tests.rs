use super::*;

#[test]
fn overlaps_leave_each_byte_in_one_place() {
    let e = |start, len, offset| Extent { start, len, offset };
    let got = disjoint(vec![
        e(0x3000, 0x2000, 0x9000),
        e(0x1000, 0x1000, 0x100),
        e(0x1000, 0x3000, 0x4000),
        e(0x2000, 0x800, 0x5000),
    ]);
    // The longer of the two at 0x1000 wins; the one at 0x3000 keeps only its second page.
    assert_eq!(got, [e(0x1000, 0x3000, 0x4000), e(0x4000, 0x1000, 0xa000)]);
    // What joins in memory and in the file is one.
    assert_eq!(
        disjoint(vec![e(0x2000, 0x1000, 0x6000), e(0x1000, 0x1000, 0x5000)]),
        [e(0x1000, 0x2000, 0x5000)]
    );
    assert_eq!(disjoint(vec![e(0x2000, 0x1000, 0x7000), e(0x1000, 0x1000, 0x5000)]).len(), 2);
    assert_eq!(union(vec![(5, 5), (0, 5), (20, 1), (21, 4), (6, 1)]), [(0, 10), (20, 5)]);
}
