//! What becomes of copies, refusals and questions given up, packet by packet;
//! tests/late.rs has the clients that send them.

use super::packets::client;
use super::synthetic::MEMORY;

#[test]
fn nothing_is_sent_twice_and_a_damaged_frame_is_asked_for() {
    let mut client = client(3);
    client.raw(b"+");
    client.send("qC");
    client.send("qC");
    assert_eq!(client.byte(), b'+');
    assert_eq!(client.frame(), b"QC3");
    // The line loses nothing: what is asked for again is on its way whole.
    client.raw(&[b'-'; 2]);
    client.send("qC");
    assert!(client.silent());
    client.raw(b"+$qC#00");
    assert_eq!(client.byte(), b'-');
    assert_eq!(client.ask("qC"), "QC3");
}

#[test]
fn a_long_reply_that_came_by_halves_is_sent_again() {
    let mut client = client(3);
    client.raw(b"+");
    client.send(&format!("m{:x},1000", MEMORY.start));
    let reply = client.reply();
    client.send(&format!("m{:x},2000", MEMORY.start));
    assert_eq!(client.byte(), b'+');
    let whole = client.frame();
    assert!(whole.starts_with(&reply));
    client.raw(b"-");
    assert_eq!(client.frame(), whole);
    client.raw(b"+");
    assert_eq!(client.ask("?"), "T00thread:3;");
}

#[test]
fn a_question_that_crosses_a_reply_is_asked_for_again() {
    let mut client = client(3);
    client.raw(b"+");
    client.send("qC");
    assert_eq!(client.byte(), b'+');
    assert_eq!(client.frame(), b"QC3");
    client.send("?");
    assert_eq!(client.byte(), b'-');
    client.raw(b"+");
    assert_eq!(client.ask("?"), "T00thread:3;");
    assert_eq!(client.ask("qEcho:7"), "qEcho:7");
}

#[test]
fn a_question_given_up_gets_no_answer_and_the_next_one_its_own() {
    let mut client = client(3);
    client.raw(b"+$qC#b4---+$qC#b4$?#3f");
    assert_eq!(client.reply(), b"T00thread:3;");
    assert!(client.silent());
}
