use super::*;

#[test]
fn the_line_table_has_the_lengths_it_says() {
    let line = line_header("vmlinux");
    assert_eq!(u32::from_le_bytes(line[..4].try_into().unwrap()) as usize, line.len() - 4);
    assert_eq!(u32::from_le_bytes(line[6..10].try_into().unwrap()) as usize, line.len() - 10);
}
