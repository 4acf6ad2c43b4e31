"""gdb's side of corestub: what a crash dump needs beyond stock gdb.

stub      asks the server (monitor commands as JSON)
kernel    $task_by_pid(), $per_cpu(), $per_cpu_ptr()
printers  list_head, hlist_head, xarray, rb_root
unwinder  the stack switches that vmlinux's own CFI does not know
user      user-regs, user-bt: the user-mode side of a task
process   py-bt where no script of Python's own brings one
connect   vmcore, and keeping symbols at their run-time addresses
"""


def load():
    """Registers everything with gdb; of a process, which `corestub gdb` knows it has,
    only what serves there."""
    import gdb

    from . import connect, kernel, printers, process, unwinder, user

    of_process = gdb.convenience_variable("corestub_process") is not None
    for part in (process, connect) if of_process else (kernel, printers, unwinder, user, process, connect):
        part.load()
