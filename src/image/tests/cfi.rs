#![allow(clippy::cast_possible_truncation, reason = "the test's own numbers")]

use super::*;

#[test]
fn the_caller_of_a_function_without_orc_is_found_on_the_stack() {
    let function = 0xffff_ffff_8110_0000_u64;
    let call = 0xffff_ffff_8120_0010_u64;
    let rel = (function.wrapping_sub(call + 5) as i64) as i32;
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
