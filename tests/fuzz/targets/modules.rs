//! The list of modules, their symbols and types, as they are changed.

use std::sync::LazyLock;

use corestub::linux::{Kernel, modules};

use super::patches::Sound;

static SOUND: LazyLock<Sound> = LazyLock::new(|| Sound::new(read));

pub fn run(bytes: &[u8]) {
    SOUND.run(bytes);
}

fn read(kernel: &Kernel) {
    let modules = modules::collect(kernel);
    let _ = (modules::all_symbols(kernel, &modules).len(), modules::btf(kernel).len());
}
