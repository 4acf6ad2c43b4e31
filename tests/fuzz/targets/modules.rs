//! The list of modules, their symbols and types, as they are changed.

use corestub::linux::{View, modules};

use super::patches::Sound;

static SOUND: Sound = Sound::new(read);

pub fn run(bytes: &[u8]) {
    SOUND.run(bytes);
}

fn read(view: &View) {
    let modules = modules::collect(view);
    let _ = (modules::all_symbols(view, &modules).len(), modules::btf(view).len());
}
