"""Asking the server: its monitor commands, with JSON where they have it."""

import json
from contextlib import contextmanager

import gdb

_answers = {}


def forget(*_):
    """Another target may answer otherwise."""
    _answers.clear()


def connection():
    """The connection of the selected inferior, if it is a remote one."""
    found = gdb.selected_inferior().connection
    return found if found is not None and "remote" in found.type else None


def monitor(line):
    """The text of a monitor command, or None if the target has no such thing."""
    if connection() is None:
        return None
    try:
        return gdb.execute("monitor " + line, to_string=True)
    except gdb.error:
        return None


def ask(line):
    """The value of `monitor LINE --json`, or None. A dump does not change, so
    each question is asked once for a connection."""
    where = connection()
    if where is None:
        return None
    key = (where.num, line)
    if key not in _answers:
        answer = ask_now(line)
        # No answer is not kept: gdb may just be in the middle of connecting.
        if answer is None:
            return None
        _answers[key] = answer
    return _answers[key]


def ask_now(line):
    """The same of what the selected thread decides: never an answer from before."""
    try:
        return json.loads(monitor(line + " --json") or "")
    except ValueError:
        return None


def system():
    """What `monitor sys` says of the dump: a dict, empty if there is none."""
    value = ask("sys")
    return value if isinstance(value, dict) else {}


def number(value):
    """A number of the stub's JSON: addresses are "0x..." strings."""
    return int(value, 0) if isinstance(value, str) else int(value)


def slide():
    """How far KASLR moved the kernel, or None if this is no kernel dump."""
    value = system().get("kaslr_offset")
    return None if value is None else number(value)


@contextmanager
def off(setting):
    """Without it, whatever the user has set."""
    before = gdb.parameter(setting)
    gdb.execute(f"set {setting} off", to_string=True)
    try:
        yield
    finally:
        if before:
            gdb.execute(f"set {setting} on", to_string=True)


def unpaged():
    """Output that must not stop at a pager."""
    return off("pagination")


def unconfirmed():
    """Without gdb's questions."""
    return off("confirm")


def load():
    for name in ("connection_removed", "exited"):
        event = getattr(gdb.events, name, None)
        if event is not None:
            event.connect(forget)
