"""The user-mode side of a task: its registers and its stack."""

import contextlib

import gdb

from . import stub

SYSTEM = ["cr0", "cr2", "cr3", "cr4", "efer", "cpu", "task"]
GENERAL = ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"] + [f"r{i}" for i in range(8, 16)] + ["rip"]
REST = ["eflags", "cs", "ss", "orig_rax", "fs_base", "gs_base"]


def user_register(name):
    """A `user_` register of the selected thread; None if the dump has it not."""
    try:
        value = gdb.newest_frame().read_register("user_" + name)
        int(value)
        return value
    except (gdb.error, ValueError):
        return None


def thread_or_complain():
    thread = gdb.selected_thread()
    if thread is None:
        raise gdb.GdbError("no thread is selected: not connected to a dump (try: vmcore HOST:PORT)")
    return thread


class select:
    """Runs a block with the thread of PID, and goes back."""

    def __init__(self, pid):
        self.pid = pid

    def __enter__(self):
        self.before, self.frame = thread_or_complain(), None
        with contextlib.suppress(gdb.error):
            self.frame = gdb.selected_frame()
        if self.pid is None:
            return self.before
        for thread in gdb.selected_inferior().threads():
            if (self.pid in (thread.ptid[1], thread.ptid[2]) and thread.ptid[1] != thread.inferior.pid) or \
                    self.pid == thread.ptid[2] or (thread.ptid[2] == 0 and thread.ptid[1] == self.pid):
                thread.switch()
                return thread
        raise gdb.GdbError(f"no thread has pid {self.pid}")

    def __exit__(self, *_):
        if self.before.is_valid():
            self.before.switch()
            if self.frame is not None and self.frame.is_valid():
                self.frame.select()


def pid_argument(argument):
    text = argument.strip()
    if not text:
        return None
    try:
        return int(gdb.parse_and_eval(text))
    except gdb.error:
        raise gdb.GdbError(f"the argument is a pid, not {text}") from None


def pid_of(thread):
    return thread.ptid[1] if thread.ptid[2] == 0 else thread.ptid[2]


class InfoRegisters(gdb.Command):
    """List of integer registers and their contents, for selected stack frame.

info registers [NAME|GROUP]...

One or more register names as argument means describe the given registers.
One or more register group names as argument means describe the registers
in the named register groups.

Of a corestub dump of a kernel, `info registers user` lists those of user mode,
and `info registers system` control registers, CPU and task; both are left out
of the list without a name. (gdb's command for x86 knows no groups of the target's.)"""

    def __init__(self):
        super().__init__("info registers", gdb.COMMAND_STATUS)

    @staticmethod
    def names(group):
        try:
            return [r.name for r in gdb.selected_frame().architecture().registers(group)]
        except (gdb.error, ValueError):
            return []

    def complete(self, text, word):
        groups = ["general", "float", "vector", "system", "user", "all"]
        return [name for name in self.names("all") + groups if name.startswith(word)]

    def invoke(self, argument, from_tty):
        general = self.names("general")
        user = [name for name in general if name.startswith("user_")]
        groups = {"user": user, "system": [n for n in SYSTEM if n in general]} if user else {}
        words = argument.split() or ["general"]
        if user and not argument.strip():
            words = [n for n in general if n not in user and n not in SYSTEM]
        words = [name for word in words for name in groups.get(word, [word])]
        # The same code of gdb's, which shows each that is named.
        try:
            gdb.execute("info all-registers " + " ".join(words), from_tty)
        except gdb.error as e:
            raise gdb.GdbError(str(e)) from None


class UserRegs(gdb.Command):
    """Show the user-mode registers of the selected task, or of a pid.

user-regs [PID]

They are what the kernel saved when the task entered it (struct pt_regs at the
top of its stack); in a system call rcx and r11 hold rip and eflags by design.
Each is also a register of gdb's: $user_rip, $user_rsp and so on, and
`info registers user` lists them. Kernel threads have none."""

    def __init__(self):
        super().__init__("user-regs", gdb.COMMAND_DATA)

    def invoke(self, argument, from_tty):
        with select(pid_argument(argument)) as thread:
            values = [(name, user_register(name)) for name in GENERAL + REST]
            if user_register("rip") is None and user_register("rsp") is None:
                gdb.write(f"thread {thread.num} has no user mode (a kernel thread, or its stack is not in the dump)\n")
                return
            for name, value in values:
                if value is None:
                    gdb.write(f"{name:<15}<unavailable>\n")
                    continue
                raw = int(value) & ((1 << (8 * value.type.sizeof)) - 1)
                text = str(value) if name in ("eflags", "rip") else ""
                if name == "orig_rax":
                    signed = raw - (1 << 64) if raw >> 63 else raw
                    text = f"system call {signed}" if signed >= 0 else "not in a system call"
                gdb.write(f"{name:<15}{raw:<#19x}{text}\n".rstrip() + "\n")


class UserBt(gdb.Command):
    """Show the user-mode stack of the selected task, or of a pid.

user-bt [PID]

Attaches to the process as a further inferior (its own memory and threads),
shows the backtrace, and leaves it again. Which program it runs is not looked
for, so names are missing: do it by hand for them, with `file PROGRAM` before
`attach PID`. This needs `target extended-remote`,
which is what `vmcore HOST:PORT` and `corestub gdb` use. To stay in the
process do the same by hand: `add-inferior`, `inferior 2`, `attach PID`.

Pages of user memory are usually left out of vmcores by their filter; the
backtrace ends where the stack does."""

    def __init__(self):
        super().__init__("user-bt", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        with select(pid_argument(argument)) as thread:
            pid = pid_of(thread)
            rip, rsp = user_register("rip"), user_register("rsp")
            if rip is None:
                gdb.write(f"pid {pid} has no user mode (a kernel thread, or its stack is not in the dump)\n")
                return
            where = stub.connection()
            if where is None or where.type != "extended-remote":
                gdb.write(f"user rip {int(rip):#x}, rsp {int(rsp):#x}; for the stack connect "
                          "with target extended-remote (or: vmcore HOST:PORT)\n")
                return
            self.attached(pid, int(rip), int(rsp))

    def attached(self, pid, rip, rsp):
        home = gdb.selected_inferior()
        with stub.unpaged():
            known = {i.num for i in gdb.inferiors()}
            gdb.execute("add-inferior", to_string=True)
            new = next((i for i in gdb.inferiors() if i.num not in known), None)
            try:
                gdb.execute(f"inferior {new.num}", to_string=True)
                try:
                    gdb.execute(f"attach {pid}", to_string=True)
                except gdb.error as why:
                    gdb.write(f"user rip {rip:#x}, rsp {rsp:#x}; the process cannot be shown: {why}\n")
                    return
                try:
                    for one in new.threads():
                        if pid_of(one) == pid:
                            one.switch()
                    gdb.write(gdb.execute("backtrace", to_string=True))
                finally:
                    gdb.execute("detach", to_string=True)
            finally:
                gdb.execute(f"inferior {home.num}", to_string=True)
                if new is not None:
                    gdb.execute(f"remove-inferiors {new.num}", to_string=True)


def load():
    InfoRegisters()
    UserRegs()
    UserBt()
