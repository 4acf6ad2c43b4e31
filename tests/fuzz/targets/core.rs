//! A userspace core.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use corestub::bytes::source::InMemory;
use corestub::process::core_file::CoreFile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = CoreFile::parse(Path::new("core"), Arc::new(InMemory::new("core", bytes.to_vec())));
});
