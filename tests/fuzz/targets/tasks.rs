//! Tasks by every way that leads to them, in lists that are changed.

use std::sync::OnceLock;

use corestub::linux::{View, tasks};

use super::patches::Sound;

pub fn run(bytes: &[u8]) {
    static SOUND: OnceLock<Sound> = OnceLock::new();
    SOUND.get_or_init(|| Sound::new(read)).run(bytes);
}

fn read(view: &View) {
    let _ = tasks::listed(view).all().len();
}
