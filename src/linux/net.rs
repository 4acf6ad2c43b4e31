//! Network devices with their addresses, and the sockets of a task.
//!
//! A namespace (`struct net`) has its devices on a list; a device's addresses hang below
//! `ip_ptr` and `ip6_ptr`. A socket's `struct socket` lies in front of its inode. Sources:
//! `include/linux/netdevice.h`, `include/linux/inetdevice.h`, `include/net/if_inet6.h`,
//! `include/net/sock.h`, `include/net/inet_sock.h`, `include/net/af_unix.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use super::list::{Broken, List};
use super::object::Object;
use super::open_files::OpenFile;
use super::{Task, View};
use crate::addr::VirtAddr;

/// Devices of one namespace.
const MAX_DEVICES: usize = 1 << 16;
/// Addresses of one device.
const MAX_ADDRESSES: usize = 1 << 12;
/// `IFNAMSIZ`.
const NAME_MAX: usize = 16;
/// `UNIX_PATH_MAX`.
const PATH_MAX: usize = 108;
/// `IFF_UP`.
const UP: u64 = 1;

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Device {
    pub(crate) device: VirtAddr,
    pub(crate) name: Option<String>,
    pub(crate) up: Option<bool>,
    pub(crate) addresses: Vec<IpAddr>,
    /// Not all of them can be read.
    pub(crate) addresses_lost: bool,
}

/// The devices of the namespace at `net`, and what broke their list. `None` where the types
/// do not tell.
#[must_use]
pub(crate) fn devices(view: &View, net: VirtAddr) -> Option<(Vec<Device>, Option<Broken>)> {
    let head = Object::new(view, "net", net).address("dev_base_head")?;
    let link = view.types().field("net_device", "dev_list")?;
    let mut list = List::circular(view, head, link.offset, MAX_DEVICES);
    let devices = list.by_ref().map(|at| device(view, at)).collect();
    Some((devices, list.broken()))
}

/// The namespace that a task sees, `None` for one that has ended or cannot be read.
#[must_use]
pub(crate) fn namespace(view: &View, task: &Task) -> Option<VirtAddr> {
    Object::new(view, "task_struct", task.addr).follow("nsproxy", "nsproxy")?.pointer("net_ns")
}

fn device(view: &View, at: VirtAddr) -> Device {
    let object = Object::new(view, "net_device", at);
    let name = object.address("name").and_then(|at| view.space().read_cstr(at, NAME_MAX).ok());
    let mut addresses = Vec::new();
    let all = [four(&object, &mut addresses), six(&object, &mut addresses)];
    let up = object.number("flags").map(|flags| flags & UP != 0);
    Device { device: at, name, up, addresses, addresses_lost: all.contains(&None) }
}

/// The IPv4 addresses; `None` where not all can be read.
fn four(device: &Object<'_>, all: &mut Vec<IpAddr>) -> Option<()> {
    let Some(list) = below(device, "ip_ptr", "in_device")? else { return Some(()) };
    let mut at = list.number("ifa_list")?;
    while at != 0 && all.len() < MAX_ADDRESSES {
        let address = Object::new(device.view(), "in_ifaddr", VirtAddr(at));
        // It is in network order, as it lies in memory.
        all.push(ip4(u32::try_from(address.number("ifa_address")?).ok()?));
        at = address.number("ifa_next")?;
    }
    (at == 0).then_some(())
}

/// The same of IPv6.
fn six(device: &Object<'_>, all: &mut Vec<IpAddr>) -> Option<()> {
    let Some(inet6) = below(device, "ip6_ptr", "inet6_dev")? else { return Some(()) };
    let view = device.view();
    let link = view.types().field("inet6_ifaddr", "if_list")?;
    let mut list = List::circular(view, inet6.address("addr_list")?, link.offset, MAX_ADDRESSES);
    for at in list.by_ref() {
        all.push(ip6(view, Object::new(view, "inet6_ifaddr", at).address("addr")?)?);
    }
    list.broken().is_none().then_some(())
}

/// What hangs below a pointer of a device's: nothing where it is null, or the kernel was
/// built without that protocol. `None` where it cannot be read.
fn below<'a>(device: &Object<'a>, pointer: &str, ty: &'a str) -> Option<Option<Object<'a>>> {
    let Some(field) = device.field(pointer) else { return Some(None) };
    let at = device.value(field)?;
    Some((at != 0).then(|| Object::new(device.view(), ty, VirtAddr(at))))
}

fn ip4(raw: u32) -> IpAddr {
    Ipv4Addr::from(raw.to_le_bytes()).into()
}

fn ip6(view: &View, at: VirtAddr) -> Option<IpAddr> {
    let mut bytes = [0; 16];
    view.space().read_exact(at, &mut bytes).ok()?;
    Some(Ipv6Addr::from(bytes).into())
}

/// A socket that a task has open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Socket {
    pub(crate) fd: u64,
    pub(crate) socket: VirtAddr,
    pub(crate) sock: Option<VirtAddr>,
    /// `INET`, as in `AF_INET`; a number where that has no name here.
    pub(crate) family: Option<String>,
    /// `STREAM`, as in `SOCK_STREAM`.
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) source: Option<End>,
    pub(crate) destination: Option<End>,
    /// Of a Unix socket that has a name; an abstract one begins with `@`.
    pub(crate) path: Option<String>,
    /// Of INET and INET6 (`include/net/tcp_states.h`).
    pub(crate) state: Option<&'static str>,
}

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct End {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
}

/// The sockets among open files.
pub(crate) fn sockets<'a>(view: &'a View, files: &'a [OpenFile]) -> impl Iterator<Item = Socket> + 'a {
    files.iter().filter(|file| file.kind == "SOCK").filter_map(|file| socket(view, file))
}

fn socket(view: &View, file: &OpenFile) -> Option<Socket> {
    let types = view.types();
    let inside = types.field("socket_alloc", "vfs_inode").zip(types.field("socket_alloc", "socket"));
    let by_inode = || {
        let (inode, socket) = inside?;
        Some(VirtAddr(file.inode?.0.checked_sub(inode.offset)?.checked_add(socket.offset)?))
    };
    let at = by_inode().or_else(|| Object::new(view, "file", file.file).pointer("private_data"))?;
    let socket = Object::new(view, "socket", at);
    let sock = socket.follow("sk", "sock");
    let family = sock.and_then(|sock| sock.number("__sk_common.skc_family"));
    let (source, destination) = match family {
        Some(2) => ends(sock, &|sock, member| {
            Some(ip4(u32::try_from(sock.number(&format!("__sk_common.skc_{member}"))?).ok()?))
        }),
        Some(10) => {
            ends(sock, &|sock, member| ip6(view, sock.address(&format!("__sk_common.skc_v6_{member}"))?))
        }
        _ => (None, None),
    };
    let state = sock.filter(|_| source.is_some()).and_then(|sock| sock.number("__sk_common.skc_state"));
    Some(Socket {
        fd: file.fd,
        socket: at,
        sock: sock.map(|sock| sock.base),
        family: family.map(|family| named(&FAMILIES, family)),
        kind: socket.number("type").map(|kind| named(&KINDS, kind)),
        source,
        destination,
        path: sock.filter(|_| family == Some(1)).and_then(|sock| unix_path(view, sock.base)),
        state: state.and_then(|state| STATES.get(usize::try_from(state).ok()?).copied()),
    })
}

/// Where a socket of the internet's is, and where its peer.
fn ends(
    sock: Option<Object<'_>>,
    address: &dyn Fn(&Object<'_>, &str) -> Option<IpAddr>,
) -> (Option<End>, Option<End>) {
    let end = |member, port: &dyn Fn(&Object<'_>) -> Option<u64>| {
        let sock = sock?;
        Some(End { address: address(&sock, member)?, port: u16::try_from(port(&sock)?).ok()? })
    };
    // The own port is kept in the machine's order, too.
    let source = end("rcv_saddr", &|sock| sock.number("__sk_common.skc_num"));
    let network = |sock: &Object<'_>| {
        Some(u16::try_from(sock.number("__sk_common.skc_dport")?).ok()?.swap_bytes().into())
    };
    (source, end("daddr", &network))
}

/// `unix_sock.addr`: how long it is, and a `struct sockaddr_un`.
fn unix_path(view: &View, sock: VirtAddr) -> Option<String> {
    let address = Object::new(view, "unix_sock", sock).follow("addr", "unix_address")?;
    let length = usize::try_from(address.number("len")?).ok()?.min(PATH_MAX + 2).checked_sub(2)?;
    // Behind `sun_family`.
    let bytes = view.space().read_vec(address.address("name")?.checked_add(2)?, length).ok()?;
    let (mark, name) = match bytes.split_first() {
        Some((0, name)) => ("@", name),
        _ => ("", bytes.as_slice()),
    };
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(format!("{mark}{}", String::from_utf8_lossy(name)))
}

fn named(names: &[(u64, &str)], number: u64) -> String {
    let known = names.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

/// `include/linux/socket.h`
const FAMILIES: [(u64, &str); 12] = [
    (0, "UNSPEC"),
    (1, "UNIX"),
    (2, "INET"),
    (10, "INET6"),
    (15, "KEY"),
    (16, "NETLINK"),
    (17, "PACKET"),
    (29, "CAN"),
    (31, "BLUETOOTH"),
    (38, "ALG"),
    (40, "VSOCK"),
    (44, "XDP"),
];

/// `include/linux/net.h`
const KINDS: [(u64, &str); 7] =
    [(1, "STREAM"), (2, "DGRAM"), (3, "RAW"), (4, "RDM"), (5, "SEQPACKET"), (6, "DCCP"), (10, "PACKET")];

/// `include/net/tcp_states.h`
const STATES: [&str; 13] = [
    "?",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
];
