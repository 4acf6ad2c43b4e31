"""`vmcore` in every gdb of this machine: it brings corestub's helpers when it is first used.

Packages lay this file into the folder of the system's gdbinits, which gdb reads at
each start, so it does nothing but name the command; `corestub gdb` does not need it.
"""

import gdb


class Vmcore(gdb.Command):
    """Look at a crash dump with corestub: load its helpers, and connect.

vmcore HOST:PORT
vmcore SOCKET
vmcore DUMP"""

    def __init__(self):
        super().__init__("vmcore", gdb.COMMAND_RUNNING, gdb.COMPLETE_FILENAME)

    def invoke(self, argument, from_tty):
        gdb.execute("source /usr/share/corestub/gdbinit")
        # Now it is the helpers' own.
        gdb.execute("vmcore " + argument, from_tty)


Vmcore()
