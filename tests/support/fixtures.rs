//! The small dumps in tests/fixtures, and ways to damage them.
//!
//! Each is a real dump of the lab, cut down to the pages that `tests/matrix.rs` reads;
//! `scripts/lab/record-fixtures` makes them. What is stored as `NAME.zst` is
//! unpacked into cargo's folder for tests. `CORESTUB_FIXTURES` names another
//! folder: the recorder's, with the whole dumps under the same names.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::Value;

use super::kdump::Kdump;
use super::program::{corestub, output};

/// The vmcores.
pub const VMCORES: [&str; 4] =
    ["k6.1-zstd.kdump", "k6.12-zlib.kdump", "k6.1-makedumpfile.elf", "k6.12-qemu.elf"];

/// Where the fixtures lie.
pub fn folder() -> PathBuf {
    std::env::var_os("CORESTUB_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"), PathBuf::from)
}

/// A folder for what is made of a fixture; each kind of thing has its own.
fn scratch(kind: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fixtures").join(kind);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A file appears at `path` at once: other test processes may read it just now.
fn at_once(path: &Path, write: impl FnOnce(&Path)) {
    let part = path.with_extension(format!("part{}", std::process::id()));
    write(&part);
    fs::rename(&part, path).unwrap();
}

/// The fixture of that name.
pub fn fixture(name: &str) -> PathBuf {
    static UNPACKED: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    let plain = folder().join(name);
    if plain.exists() {
        return plain;
    }
    let mut unpacked = UNPACKED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let known = unpacked.get_or_insert_default();
    let path = known.entry(name.to_owned()).or_insert_with(|| {
        let packed = folder().join(format!("{name}.zst"));
        let bytes = fs::read(&packed).unwrap_or_else(|e| panic!("{}: {e}", packed.display()));
        let path = scratch("unpacked").join(name);
        at_once(&path, |part| fs::write(part, zstd::decode_all(&bytes[..]).unwrap()).unwrap());
        path
    });
    path.clone()
}

/// A copy of the kdump at `sound`, changed, under its own name in a folder called `kind`.
pub fn changed(sound: &Path, kind: &str, change: impl FnOnce(&mut Kdump)) -> PathBuf {
    let mut kdump = Kdump::open(sound);
    change(&mut kdump);
    let path = scratch(kind).join(sound.file_name().unwrap());
    at_once(&path, |part| kdump.write(part));
    path
}

/// Where kernel memory lies physically, as the program itself says it.
pub fn physical(dump: &Path, address: u64) -> u64 {
    let text = output(corestub().args(["vtop", "--json"]).arg(dump).arg(format!("{address:x}"))).unwrap();
    let rows: Value = serde_json::from_str(&text).unwrap();
    hex(&rows[0]["physical"])
}

/// A number of a JSON answer.
pub fn hex(value: &Value) -> u64 {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no address"));
    super::dumps::number(text)
}
