//! Network devices and sockets of a made-up machine, whole and damaged.

use super::machine::Machine;
use crate::addr::VirtAddr;
use crate::linux::net::{self, Socket};
use crate::linux::open_files::OpenFile;

const NET: u64 = 0xffff_8880_0001_0000;
const DEVICE: u64 = NET + 0x1000;
const FOUR: u64 = NET + 0x2000;
const SIX: u64 = NET + 0x3000;
const SOCKET: u64 = NET + 0x4000;
const SOCK: u64 = NET + 0x5000;
const UNIX: u64 = NET + 0x6000;
const NOWHERE: u64 = NET + 0x40_0000;

/// Members as no kernel has them.
const MEMBERS: [(&str, &str, u64, u64); 26] = [
    ("net", "dev_base_head", 0x10, 16),
    ("net_device", "dev_list", 0x08, 16),
    ("net_device", "name", 0x20, 16),
    ("net_device", "flags", 0x30, 4),
    ("net_device", "ip_ptr", 0x38, 8),
    ("net_device", "ip6_ptr", 0x40, 8),
    ("in_device", "ifa_list", 0x08, 8),
    ("in_ifaddr", "ifa_next", 0x08, 8),
    ("in_ifaddr", "ifa_address", 0x10, 4),
    ("inet6_dev", "addr_list", 0x08, 16),
    ("inet6_ifaddr", "if_list", 0x18, 16),
    ("inet6_ifaddr", "addr", 0x00, 16),
    ("socket_alloc", "socket", 0x00, 0x80),
    ("socket_alloc", "vfs_inode", 0x80, 0x100),
    ("socket", "sk", 0x08, 8),
    ("socket", "type", 0x10, 2),
    ("sock", "__sk_common.skc_family", 0x00, 2),
    ("sock", "__sk_common.skc_num", 0x02, 2),
    ("sock", "__sk_common.skc_dport", 0x04, 2),
    ("sock", "__sk_common.skc_state", 0x06, 1),
    ("sock", "__sk_common.skc_rcv_saddr", 0x08, 4),
    ("sock", "__sk_common.skc_daddr", 0x0c, 4),
    ("sock", "__sk_common.skc_v6_rcv_saddr", 0x10, 16),
    ("sock", "__sk_common.skc_v6_daddr", 0x20, 16),
    ("unix_sock", "addr", 0x40, 8),
    ("unix_address", "len", 0x00, 4),
];

fn machine() -> Machine {
    let mut m = Machine::new();
    for (ty, path, offset, size) in MEMBERS {
        m.member(ty, path, offset, size);
    }
    m.member("unix_address", "name", 0x08, 0);
    for page in 0..8 {
        m.write(NET + page * 0x1000, &[0; 0x200]);
    }
    m
}

#[test]
fn devices_have_their_addresses() {
    let mut m = machine();
    m.circle(NET + 0x10, &[DEVICE + 0x08, DEVICE + 0x108]);
    for (at, name, flags) in [(DEVICE, "lo", 0x49), (DEVICE + 0x100, "eth0", 0x1002)] {
        m.write(at + 0x20, name.as_bytes());
        m.set(at, "net_device", "flags", flags);
    }
    m.set(DEVICE, "net_device", "ip_ptr", FOUR);
    m.set(FOUR, "in_device", "ifa_list", FOUR + 0x40);
    m.set(FOUR + 0x40, "in_ifaddr", "ifa_next", FOUR + 0x80);
    m.write(FOUR + 0x50, &[127, 0, 0, 1]);
    m.write(FOUR + 0x90, &[192, 0, 2, 7]);
    m.set(DEVICE, "net_device", "ip6_ptr", SIX);
    m.circle(SIX + 0x08, &[SIX + 0x40 + 0x18]);
    m.write(SIX + 0x40 + 15, &[1]);
    let told = |m: Machine| {
        let (devices, broken) = net::devices(&m.view(), VirtAddr(NET)).unwrap();
        let told = devices.into_iter().map(|d| {
            let addresses: Vec<_> = d.addresses.iter().map(ToString::to_string).collect();
            format!("{} {:?} {}", d.name.unwrap_or_default(), d.up, addresses.join(" "))
        });
        (told.collect::<Vec<_>>(), broken.is_some())
    };
    let wanted = ["lo Some(true) 127.0.0.1 192.0.2.7 ::1", "eth0 Some(false) "];
    assert_eq!(told(m), (wanted.map(str::to_owned).to_vec(), false));
    // An address behind one that cannot be read.
    let mut m = machine();
    m.circle(NET + 0x10, &[DEVICE + 0x08, DEVICE + 0x108]);
    m.set(DEVICE, "net_device", "ip_ptr", FOUR);
    m.set(FOUR, "in_device", "ifa_list", FOUR + 0x40);
    m.set(FOUR + 0x40, "in_ifaddr", "ifa_next", NOWHERE);
    m.write(FOUR + 0x50, &[127, 0, 0, 1]);
    let devices = net::devices(&m.view(), VirtAddr(NET)).unwrap().0;
    let lost: Vec<_> = devices.iter().map(|d| (d.addresses.len(), d.addresses_lost)).collect();
    assert_eq!(lost, [(1, true), (0, false)]);
    // Addresses that lead to each other end.
    let mut m = machine();
    m.circle(NET + 0x10, &[DEVICE + 0x08]);
    m.set(DEVICE, "net_device", "ip_ptr", FOUR);
    m.set(FOUR, "in_device", "ifa_list", FOUR + 0x40);
    m.set(FOUR + 0x40, "in_ifaddr", "ifa_next", FOUR + 0x40);
    m.word(DEVICE + 0x08, 0x1234);
    assert!(told(m).1, "the list of devices is broken");
}

fn socket(m: Machine) -> Option<Socket> {
    let file = |kind, inode| OpenFile {
        fd: 3,
        file: VirtAddr(NET + 0x7000),
        dentry: None,
        inode: Some(VirtAddr(inode)),
        kind,
        path: None,
    };
    let files = [file("REG", NET), file("SOCK", SOCKET + 0x80)];
    net::sockets(&m.view(), &files).next()
}

fn with(family: u64, kind: u64) -> Machine {
    let mut m = machine();
    m.set(SOCKET, "socket", "sk", SOCK);
    m.set(SOCKET, "socket", "type", kind);
    m.set(SOCK, "sock", "__sk_common.skc_family", family);
    m
}

#[test]
fn sockets_have_two_ends_or_a_name() {
    let mut m = with(2, 1);
    m.set(SOCK, "sock", "__sk_common.skc_num", 22);
    m.write(SOCK + 0x04, &50000u16.to_be_bytes());
    m.write(SOCK + 0x08, &[192, 0, 2, 1, 192, 0, 2, 2]);
    m.set(SOCK, "sock", "__sk_common.skc_state", 1);
    let s = socket(m).unwrap();
    assert_eq!((s.fd, s.socket, s.sock), (3, VirtAddr(SOCKET), Some(VirtAddr(SOCK))));
    assert_eq!(
        (s.family.as_deref(), s.kind.as_deref(), s.state),
        (Some("INET"), Some("STREAM"), Some("ESTABLISHED"))
    );
    let end = |end: Option<net::End>| end.map(|end| format!("{} {}", end.address, end.port));
    assert_eq!(end(s.source).as_deref(), Some("192.0.2.1 22"));
    assert_eq!(end(s.destination).as_deref(), Some("192.0.2.2 50000"));

    let mut m = with(10, 2);
    m.write(SOCK + 0x10, &[0; 32]);
    m.write(SOCK + 0x1f, &[1]);
    let s = socket(m).unwrap();
    assert_eq!((s.family.as_deref(), end(s.source).as_deref()), (Some("INET6"), Some("::1 0")));

    for (name, wanted) in [(b"/run/s\0".as_slice(), "/run/s"), (b"\0hid", "@hid")] {
        let mut m = with(1, 5);
        m.set(SOCK, "unix_sock", "addr", UNIX);
        m.set(UNIX, "unix_address", "len", 2 + name.len() as u64);
        m.write(UNIX + 0x0a, name);
        let s = socket(m).unwrap();
        assert_eq!((s.kind.as_deref(), s.path.as_deref()), (Some("SEQPACKET"), Some(wanted)));
    }
    // Nothing behind it, and a family that has no name here.
    let s = socket(with(77, 9)).unwrap();
    assert_eq!((s.family.as_deref(), s.kind.as_deref(), s.path), (Some("77"), Some("9"), None));
    let mut m = with(2, 1);
    m.forget(SOCK, 0x40);
    let s = socket(m).unwrap();
    assert_eq!((s.family, s.source, s.sock.is_some()), (None, None, true));
}
