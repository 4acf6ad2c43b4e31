"""The core of a process: the stack of a Python program."""

import gdb

from . import stub


def python_frames():
    """The Python functions that the selected thread was in, innermost first."""
    stacks = stub.ask_now("bt")
    if not isinstance(stacks, list) or not stacks:
        return []
    stack = stacks[0]
    within = [frame for row in stack.get("frames", []) for frame in row.get("python", [])]
    return within + stack.get("python", [])


def lines(frames):
    """As Python itself writes them."""
    for frame in frames:
        line = frame.get("line")
        yield '  File "{}", line {}, in {}'.format(frame.get("file"), "?" if line is None else line,
                                                  frame.get("function"))


class Backtrace(gdb.Command):
    """Print the Python functions that the selected thread was in, innermost first.

py-bt

The server reads them from the process's memory (CPython 3.8 to 3.13). Where
Python's own script for gdb is installed, its py-bt takes this one's place."""

    def __init__(self):
        super().__init__("py-bt", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        frames = python_frames()
        if not frames:
            raise gdb.GdbError("this thread was in no Python function that can be read")
        gdb.write("Traceback (most recent call first):\n" + "\n".join(lines(frames)) + "\n")


def load():
    try:
        gdb.execute("help py-bt", to_string=True)
    except gdb.error:
        Backtrace()
