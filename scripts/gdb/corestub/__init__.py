"""gdb's side of corestub: what a crash dump needs beyond stock gdb.

stub      asks the server (monitor commands as JSON)
kernel    $task_by_pid(), $per_cpu(), $per_cpu_ptr()
printers  list_head, hlist_head, xarray, rb_root
unwinder  the stack switches that vmlinux's own CFI does not know
user      user-regs, user-bt: the user-mode side of a task
connect   vmcore, and keeping symbols at their run-time addresses
"""


def load():
    """Registers everything with gdb."""
    from . import connect, kernel, printers, unwinder, user

    for part in (kernel, printers, unwinder, user, connect):
        part.load()
