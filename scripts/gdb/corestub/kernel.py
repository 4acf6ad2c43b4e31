"""Finding a task by pid and a CPU's copy of a per-CPU variable."""

import gdb

from . import stub

# Per-CPU symbols of x86-64 count from 0 before Linux 6.15 (they do not move
# with KASLR) and are ordinary kernel addresses since. The copy of a CPU is at
# symbol + __per_cpu_offset[cpu] in both cases.
KERNEL_HALF = 1 << 63
MASK = (1 << 64) - 1


def unsigned(value):
    """A gdb value as an address."""
    return int(value) & MASK


def symbol(name):
    """The address of a symbol, with or without debug info; None if unknown."""
    try:
        return unsigned(gdb.parse_and_eval("&" + name))
    except (gdb.error, gdb.MemoryError):
        return None


def struct(name):
    """`struct NAME`, if any types are known."""
    try:
        return gdb.lookup_type("struct " + name)
    except gdb.error:
        return None


def read_u64(address):
    """Eight bytes of the dump. Raises gdb.MemoryError."""
    return int.from_bytes(bytes(gdb.selected_inferior().read_memory(address, 8)), "little")


def pointer_to(name, address):
    """ADDRESS as `struct NAME *`, or `void *` without types."""
    target = struct(name) or gdb.lookup_type("void")
    return gdb.Value(address).cast(target.pointer())


def task_address(pid):
    """The task_struct of a pid, as the server's list of tasks has it."""
    if pid == 0:
        return symbol("init_task")
    for task in stub.ask("ps") or []:
        if int(task.get("pid", -1)) == pid:
            return stub.number(task["task"])
    return None


class TaskByPid(gdb.Function):
    """$task_by_pid(PID): the task with this pid, a `struct task_struct *`.

Without types it is a `void *`. Pid 0 is CPU 0's idle task. The task of the
selected thread is the register $task.

    (gdb) p $task_by_pid(1)->comm
    (gdb) p $task_by_pid(1)->mm->pgd"""

    def invoke(self, pid):
        wanted = int(pid)
        if stub.connection() is None:
            raise gdb.GdbError("not connected to a dump (try: vmcore HOST:PORT)")
        address = task_address(wanted)
        if address is None:
            raise gdb.GdbError(f"no task has pid {wanted}")
        return pointer_to("task_struct", address)


def this_cpu():
    """The CPU of the selected thread."""
    try:
        return int(gdb.newest_frame().read_register("cpu"))
    except (gdb.error, ValueError, AttributeError):
        raise gdb.GdbError("which CPU? the selected thread has no register $cpu") from None


def per_cpu_offset(cpu):
    table = symbol("__per_cpu_offset")
    if table is None:
        raise gdb.GdbError("no symbol __per_cpu_offset: are the kernel's symbols loaded?")
    none = gdb.GdbError(f"there is no CPU {cpu}")
    if not 0 <= cpu < 8192:
        raise none
    try:
        offset = read_u64(table + 8 * cpu)
    except gdb.MemoryError:
        raise none from None
    # Impossible CPUs keep what the table was linked with.
    if offset == symbol("__per_cpu_load"):
        raise none
    return offset


def is_per_cpu(address):
    """Whether an address is that of a per-CPU symbol."""
    if address < KERNEL_HALF:
        return True
    start, end = symbol("__per_cpu_start"), symbol("__per_cpu_end")
    if start is None or end is None or start < KERNEL_HALF:
        return False
    return start <= address < end


def per_cpu_address(address, cpu):
    """Where CPU's copy is. A symbol that was moved along with the kernel (gdb
    applies one offset to a whole vmlinux) is moved back."""
    moved = stub.slide() or 0
    if moved <= address < KERNEL_HALF:
        address -= moved
    return (address + per_cpu_offset(cpu)) & MASK


def per_cpu_pointer(variable, cpu):
    """What $per_cpu and $per_cpu_ptr have in common."""
    if variable.address is not None and is_per_cpu(unsigned(variable.address)):
        place, kind = unsigned(variable.address), variable.type
    elif variable.type.strip_typedefs().code == gdb.TYPE_CODE_PTR:
        # `&runqueues`, or a pointer from alloc_percpu().
        place, kind = unsigned(variable), variable.type.strip_typedefs().target()
    else:
        raise gdb.GdbError("not a per-CPU variable, nor a pointer to one")
    if kind.code in (gdb.TYPE_CODE_ERROR, gdb.TYPE_CODE_VOID) or kind.sizeof == 0 or "no debug info" in str(kind):
        kind = gdb.lookup_type("void")
    cpu = this_cpu() if cpu is None else int(cpu)
    return gdb.Value(per_cpu_address(place, cpu)).cast(kind.pointer())


def named(variable):
    """The argument itself, or what the string in it names."""
    kind = variable.type.strip_typedefs()
    if kind.code == gdb.TYPE_CODE_ARRAY and kind.target().sizeof == 1 and variable.address is None:
        return gdb.parse_and_eval("&" + variable.string())
    return variable


class PerCpuPtr(gdb.Function):
    """$per_cpu_ptr(VAR[, CPU]): pointer to CPU's copy of a per-CPU variable.

VAR is the variable, a pointer to it, its name in quotes, or a pointer that
alloc_percpu() gave. It does not matter whether gdb moved the symbol together
with the kernel. CPU is by default that of the selected thread.

    (gdb) p $per_cpu_ptr(runqueues, 1)->curr->comm
    (gdb) p *$per_cpu_ptr(kmalloc_caches[0][5]->cpu_slab, 0)"""

    def invoke(self, variable, cpu=None):
        return per_cpu_pointer(named(variable), cpu)


class PerCpu(gdb.Function):
    """$per_cpu(VAR[, CPU]): CPU's copy of a per-CPU variable.

Like *$per_cpu_ptr(VAR, CPU), see there. Of a variable whose type is not known
the address is given, as a `void *`.

    (gdb) p $per_cpu(runqueues, 1).nr_running
    (gdb) p $per_cpu("current_task", 0)->comm"""

    def invoke(self, variable, cpu=None):
        pointer = per_cpu_pointer(named(variable), cpu)
        return pointer if pointer.type.target().code == gdb.TYPE_CODE_VOID else pointer.dereference()


def load():
    stub.load()
    TaskByPid("task_by_pid")
    # Heard only by targets that have no register of this name: gdb takes
    # registers first, and corestub's $task is one.
    TaskByPid("task")
    PerCpuPtr("per_cpu_ptr")
    PerCpu("per_cpu")
