"""Unwinding over the stack switches that vmlinux's own CFI does not describe.

Since Linux 5.12 the x86 entry code changes to the IRQ stack in inline
assembly (arch/x86/include/asm/irq_stack.h): it leaves the old stack pointer in
the top word of the new stack, and for the few instructions around the call
the compiler's CFI computes the frame from the wrong stack. The kernel's ORC
data has these rows right (sp_reg SP_INDIRECT), and the server gives them out.

The images that the server makes know this by themselves. This unwinder is for
whoever brought a vmlinux: gdb asks that file's CFI first.
"""

import bisect

import gdb
import gdb.unwinder

from . import stub

MASK = (1 << 64) - 1


class FrameId:
    """What create_unwind_info wants: attributes sp and pc."""

    def __init__(self, sp, pc):
        self.sp = sp
        self.pc = pc


class StackSwitch(gdb.unwinder.Unwinder):
    """Frames whose caller is on another stack."""

    def __init__(self):
        super().__init__("corestub-stack-switch")
        self.forget()

    def forget(self, *_):
        self.starts = None
        self.rows = []
        self.tries = 0

    def wanted(self):
        """Whether a vmlinux with CFI of its own stands before the server's."""
        space = gdb.current_progspace()
        main = space.filename
        if main is None:
            return False
        if not main.startswith("target:"):
            return True
        served = [o for o in space.objfiles() if o.filename == main]
        # Without a build-id the served image is the one that goes before the
        # debug file, and has these rows.
        if not served or served[0].build_id is None:
            return False
        return any(o.owner == served[0] and not o.filename.startswith("target:") for o in space.objfiles())

    def table(self):
        if self.starts is None:
            # First, lest the question below asks for a frame again.
            self.starts, rows, known = [], [], True
            if stub.connection() is not None and self.wanted():
                rows = stub.ask("orc-switch-rows")
                # While gdb connects, it unwinds but cannot ask.
                self.tries += 1
                known, rows = rows is not None or self.tries > 5, rows or []
            try:
                self.rows = sorted(
                    (stub.number(r["start"]), stub.number(r["end"]), int(r["off"]), r["bp_reg"], int(r["bp_off"]))
                    for r in rows)
            except (KeyError, TypeError, ValueError):
                self.rows = []
            starts = [r[0] for r in self.rows]
            self.starts = starts if known else None
            return starts
        return self.starts

    def __call__(self, pending):
        try:
            return self.unwind(pending)
        except (gdb.error, gdb.MemoryError, ValueError):
            return None  # a thread without registers, or a stack that is not in the dump

    def unwind(self, pending):
        starts = self.table()
        if not starts:
            return None
        pc = int(pending.read_register("rip")) & MASK
        # The pc of a caller is the return address: it may be the first byte
        # after the row that made the call.
        at = bisect.bisect_right(starts, pc - 1) - 1
        if at < 0 or not self.rows[at][0] < pc <= self.rows[at][1]:
            return None
        _, _, offset, bp_reg, bp_offset = self.rows[at]
        word = gdb.lookup_type("unsigned long").pointer()

        def load(address):
            return gdb.Value(address & MASK).cast(word).dereference()

        sp = int(pending.read_register("rsp")) & MASK
        caller = (int(load(sp)) + offset) & MASK
        # The frame stays on the stack on which it is: gdb takes a frame that
        # lies further in than the one it called for a damaged stack.
        info = pending.create_unwind_info(
            FrameId(pending.read_register("rsp") + 8, pending.read_register("rip")))
        info.add_saved_register("rip", load(caller - 8))
        info.add_saved_register("rsp", gdb.Value(caller).cast(pending.read_register("rsp").type))
        if bp_reg in ("prev_sp", "PREV_SP", 1):
            info.add_saved_register("rbp", load(caller + bp_offset))
        else:
            info.add_saved_register("rbp", pending.read_register("rbp"))
        for name in ("rbx", "r12", "r13", "r14", "r15"):
            info.add_saved_register(name, pending.read_register(name))
        return info


def load():
    unwinder = StackSwitch()
    gdb.unwinder.register_unwinder(None, unwinder, replace=True)
    for name in ("new_objfile", "clear_objfiles", "connection_removed"):
        event = getattr(gdb.events, name, None)
        if event is not None:
            event.connect(unwinder.forget)
