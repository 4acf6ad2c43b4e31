//! Tasks by every way that leads to them, in lists that are changed.

use corestub::linux::{View, tasks};

use super::patches::Sound;

static SOUND: Sound = Sound::new(read);

pub fn run(bytes: &[u8]) {
    SOUND.run(bytes);
}

fn read(view: &View) {
    let _ = tasks::listed(view).all().len();
}
