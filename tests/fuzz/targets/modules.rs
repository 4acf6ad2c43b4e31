//! The list of modules, their symbols and types, as they are changed.

use std::sync::OnceLock;

use corestub::linux::{View, modules};

use super::patches::Sound;

pub fn run(bytes: &[u8]) {
    static SOUND: OnceLock<Sound> = OnceLock::new();
    SOUND.get_or_init(|| Sound::new(read)).run(bytes);
}

fn read(view: &View) {
    let modules = modules::collect(view);
    let _ = (modules::all_symbols(view, &modules).len(), modules::btf(view).len());
}
