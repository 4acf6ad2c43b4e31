//! What VMCOREINFO says of types: the log's rings, and some members that dump tools read.
//!
//! It is all there is where BTF is lost, and enough for `log`: since 5.10 the kernel
//! lists every member of the printk ring (`kernel/printk/printk.c`,
//! `log_buf_vmcoreinfo_setup()`), before that those of its records.

use std::sync::Arc;

use quick_cache::Equivalent;
use quick_cache::sync::Cache;

use super::{Field, Types};
use crate::dump::vmcoreinfo::VmcoreInfo;

/// Other types first, then VMCOREINFO.
pub struct VmcoreInfoTypes {
    first: Option<Arc<dyn Types>>,
    info: Arc<VmcoreInfo>,
    origin: String,
    /// What was asked for: who walks a list asks for the same few members of each of its structures.
    known: Cache<(Box<str>, Box<str>), Option<Field>>,
}

/// Members that are remembered; a client may ask for any.
const REMEMBERED: usize = 4096;

/// A type and the path of a member, as they are asked for.
#[derive(Hash)]
struct Asked<'a>(&'a str, &'a str);

impl Equivalent<(Box<str>, Box<str>)> for Asked<'_> {
    fn equivalent(&self, (name, path): &(Box<str>, Box<str>)) -> bool {
        *self.0 == **name && *self.1 == **path
    }
}

/// Of which type a member is that paths lead through.
const NESTED: [(&str, &str); 5] = [
    ("printk_ringbuffer.desc_ring", "prb_desc_ring"),
    ("printk_ringbuffer.text_data_ring", "prb_data_ring"),
    ("prb_desc.text_blk_lpos", "prb_data_blk_lpos"),
    ("prb_desc.state_var", "atomic_long_t"),
    ("printk_info.dev_info", "dev_printk_info"),
];

/// Members that are not words.
const SIZES: [(&str, u64); 6] = [
    ("prb_desc_ring.count_bits", 4),
    ("prb_data_ring.size_bits", 4),
    ("printk_info.text_len", 2),
    ("printk_info.caller_id", 4),
    ("printk_log.len", 2),
    ("printk_log.text_len", 2),
];

impl VmcoreInfoTypes {
    /// VMCOREINFO's types behind `first`, or alone, for this reason.
    #[must_use]
    pub fn new(first: Result<Arc<dyn Types>, &str>, info: Arc<VmcoreInfo>) -> Self {
        let origin = match &first {
            Ok(first) => first.origin().to_owned(),
            Err(why) => format!("VMCOREINFO alone ({why})"),
        };
        Self { first: first.ok(), info, origin, known: Cache::new(REMEMBERED) }
    }

    fn own_field(&self, name: &str, path: &str) -> Option<Field> {
        let (mut ty, mut offset) = (name, 0u64);
        let mut parts = path.split('.').peekable();
        while let Some(part) = parts.next() {
            let member = format!("{ty}.{part}");
            offset = offset.checked_add(self.info.offset(&member)?)?;
            if parts.peek().is_none() {
                let size = SIZES.iter().find(|(name, _)| *name == member).map_or(8, |(_, size)| *size);
                return Some(Field { offset, size, bits: None });
            }
            ty = NESTED.iter().find(|(name, _)| *name == member)?.1;
        }
        None
    }
}

impl Types for VmcoreInfoTypes {
    fn size_of(&self, name: &str) -> Option<u64> {
        self.first.as_ref().and_then(|t| t.size_of(name)).or_else(|| self.info.size(name))
    }

    fn field(&self, name: &str, path: &str) -> Option<Field> {
        if let Some(field) = self.known.get(&Asked(name, path)) {
            return field;
        }
        let found = self.first.as_ref().and_then(|t| t.field(name, path));
        let field = found.or_else(|| self.own_field(name, path));
        self.known.insert((name.into(), path.into()), field);
        field
    }

    fn enumerator(&self, name: &str) -> Option<i64> {
        self.first.as_ref()?.enumerator(name)
    }

    fn array_len(&self, name: &str, path: &str) -> Option<u64> {
        self.first.as_ref()?.array_len(name, path)
    }

    fn origin(&self) -> &str {
        &self.origin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rings_of_the_log_are_told_member_by_member() {
        let text = b"OFFSET(printk_ringbuffer.text_data_ring)=48\nOFFSET(prb_data_ring.size_bits)=4\n\
            SIZE(prb_desc)=24\nOFFSET(prb_desc.state_var)=8\nOFFSET(atomic_long_t.counter)=0\n";
        let types = VmcoreInfoTypes::new(Err("no BTF"), Arc::new(VmcoreInfo::parse(text)));
        let field = |ty, path| types.field(ty, path).map(|f| (f.offset, f.size));
        assert_eq!(field("printk_ringbuffer", "text_data_ring.size_bits"), Some((52, 4)));
        for _ in 0..2 {
            assert_eq!(field("prb_desc", "state_var"), Some((8, 8)));
            assert_eq!(field("prb", "desc.state_var"), None, "another type and path of the same letters");
        }
        assert_eq!((field("prb_desc", "nothing"), field("task_struct", "pid")), (None, None));
        assert_eq!((types.size_of("prb_desc"), types.origin()), (Some(24), "VMCOREINFO alone (no BTF)"));
    }
}
