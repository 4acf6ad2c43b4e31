"""Pretty printers for the kernel's containers.

A list_head cannot be told from the head of its list and does not know what it
links, so it is summarised in one line (with the places where it is broken);
xarrays and trees show their entries. `print/r` shows the struct itself.
"""

import gdb
import gdb.printing

from .kernel import unsigned

# How far a list is counted: printing a task_struct must stay quick.
COUNTED = 64
# include/linux/poison.h with CONFIG_ILLEGAL_POINTER_VALUE of x86-64.
LIST_POISON1 = 0xDEAD000000000100
LIST_POISON2 = 0xDEAD000000000122


def words(address, count):
    data = bytes(gdb.selected_inferior().read_memory(address, 8 * count))
    return [int.from_bytes(data[i:i + 8], "little") for i in range(0, 8 * count, 8)]


class ListHead:
    """struct list_head {next, prev}: doubly linked, circular."""

    def __init__(self, value):
        self.value = value

    def to_string(self):
        following, previous = unsigned(self.value["next"]), unsigned(self.value["prev"])
        own = self.value.address
        ends = f"next {following:#x}, prev {previous:#x}"
        if following == 0 and previous == 0:
            return "list_head, never initialised"
        if following == LIST_POISON1:
            return f"list_head, removed ({ends})"
        if own is None:
            return f"list_head ({ends})"
        own = unsigned(own)
        if following == own and previous == own:
            return "list_head, empty"
        count, at, back = 0, following, own
        while at != own:
            if count == COUNTED:
                return f"list_head, more than {COUNTED} others ({ends})"
            try:
                after, before = words(at, 2)
            except gdb.MemoryError:
                return f"list_head, {count} others, then {at:#x} cannot be read ({ends})"
            if before != back:
                return f"list_head, broken: {at:#x}->prev is {before:#x}, not {back:#x} ({ends})"
            count, back, at = count + 1, at, after
        return "list_head, {} other{} ({})".format(count, "" if count == 1 else "s", ends)


class HlistHead:
    """struct hlist_head {first}: nodes {next, pprev}."""

    def __init__(self, value):
        self.value = value

    def to_string(self):
        first = unsigned(self.value["first"])
        if first == 0:
            return "hlist_head, empty"
        count, at = 0, first
        # Bit 0 ends the nulls variant of the list.
        while at and not at & 1:
            if count == COUNTED:
                return f"hlist_head, more than {COUNTED} nodes (first {first:#x})"
            try:
                at = words(at, 1)[0]
            except gdb.MemoryError:
                return f"hlist_head, {count} nodes, then {at:#x} cannot be read (first {first:#x})"
            count += 1
        return "hlist_head, {} node{} (first {:#x})".format(count, "" if count == 1 else "s", first)


class Xarray:
    """struct xarray and what is built on it (idr, radix trees, page caches).

    include/linux/xarray.h: the two low bits tell pointers (00), internal
    entries (10: nodes, and siblings below 64) and values (x1) apart."""

    DEEPEST = 11

    def __init__(self, value):
        self.value = value
        self.head = unsigned(value["xa_head"])

    def to_string(self):
        return "xarray, empty" if self.head == 0 else "xarray"

    @staticmethod
    def is_node(entry):
        return entry & 3 == 2 and entry > 4096

    def entries(self, entry, index, deepest):
        if self.is_node(entry):
            if deepest == 0:
                return
            node = gdb.Value(entry - 2).cast(gdb.lookup_type("struct xa_node").pointer())
            try:
                shift = int(node["shift"])
                slots = [unsigned(node["slots"][i]) for i in range(node["slots"].type.range()[1] + 1)]
            except gdb.MemoryError:
                yield index, f"<node {entry - 2:#x} cannot be read>"
                return
            if shift > 60:
                yield index, f"<node {entry - 2:#x} is damaged: shift {shift}>"
                return
            for i, slot in enumerate(slots):
                yield from self.entries(slot, index + (i << shift), deepest - 1)
        elif entry & 1:
            yield index, gdb.Value(entry >> 1)
        elif entry & 3 == 2:
            return  # a sibling of the entry before, or an entry being changed
        elif entry:
            yield index, gdb.Value(entry).cast(gdb.lookup_type("void").pointer())

    def children(self):
        for index, entry in self.entries(self.head, 0, self.DEEPEST):
            yield "key", index
            yield "value", entry

    def display_hint(self):
        return "map"


class RbRoot:
    """struct rb_root: nodes {parent and colour, right, left}, in order."""

    DEEPEST = 128

    def __init__(self, value):
        self.top = unsigned(value["rb_node"])

    def to_string(self):
        return "rb_root, empty" if self.top == 0 else "rb_root"

    def children(self):
        kind = gdb.lookup_type("struct rb_node").pointer()
        stack, at, count = [], self.top, 0
        while at or stack:
            while at:
                if len(stack) >= self.DEEPEST:
                    yield str(count), "<deeper than any red-black tree: damaged>"
                    return
                try:
                    _, right, left = words(at, 3)
                except gdb.MemoryError:
                    yield str(count), f"<node {at:#x} cannot be read>"
                    return
                stack.append((at, right))
                at = left
            node, at = stack.pop()
            yield str(count), gdb.Value(node).cast(kind)
            count += 1

    def display_hint(self):
        return "array"


class RbRootCached(RbRoot):
    """struct rb_root_cached {rb_root, rb_leftmost}."""

    def __init__(self, value):
        super().__init__(value["rb_root"])


SHAPES = {
    "list_head": (ListHead, ["next", "prev"]),
    "hlist_head": (HlistHead, ["first"]),
    "xarray": (Xarray, ["xa_lock", "xa_flags", "xa_head"]),
    "rb_root": (RbRoot, ["rb_node"]),
    "rb_root_cached": (RbRootCached, ["rb_root", "rb_leftmost"]),
}


class Containers(gdb.printing.PrettyPrinter):
    """Chosen by struct tag and members, so that a program's own `list_head`
    of another shape stays as it is."""

    def __init__(self):
        super().__init__("corestub", [gdb.printing.SubPrettyPrinter(n) for n in SHAPES])

    def __call__(self, value):
        kind = value.type.strip_typedefs()
        if kind.code != gdb.TYPE_CODE_STRUCT or kind.tag not in SHAPES:
            return None
        printer, members = SHAPES[kind.tag]
        enabled = next((s.enabled for s in self.subprinters if s.name == kind.tag), True)
        if not enabled or [f.name for f in kind.fields()] != members:
            return None
        return printer(value)


def load():
    gdb.printing.register_pretty_printer(None, Containers(), replace=True)

