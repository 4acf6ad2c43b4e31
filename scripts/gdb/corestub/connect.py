"""`vmcore`: connecting, with what the user had loaded put where it belongs;
and keeping it there when something (lx-symbols) loads vmlinux anew."""

import os
import shutil
import socket
import stat
import subprocess
import tempfile

import gdb

from . import kernel, process, stub

# Lines of a Python stack in the greeting.
PYTHON_LINES = 12

_store = None
# Where `vmcore` connected last.
_last = None
# Servers that this gdb started.
_servers = []


def store():
    """A folder of .build-id links for gdb's debug-file-directory."""
    global _store
    if _store is None:
        _store = tempfile.mkdtemp(prefix="corestub-debug-")
        gdb.execute("set debug-file-directory {}:{}".format(_store, gdb.parameter("debug-file-directory")),
                    to_string=True)
    return _store


def drop_store(*_):
    global _store
    if _store is not None:
        shutil.rmtree(_store, ignore_errors=True)
        _store = None
    for _, folder in _servers:
        shutil.rmtree(folder, ignore_errors=True)


def link(path, build_id):
    """Makes gdb find PATH by its build-id."""
    folder = os.path.join(store(), ".build-id", build_id[:2])
    os.makedirs(folder, exist_ok=True)
    name = os.path.join(folder, build_id[2:] + ".debug")
    if not os.path.lexists(name):
        os.symlink(os.path.abspath(path), name)


def local(objfile):
    name = objfile.filename
    return name is not None and not name.startswith("target:") and os.path.isfile(name)


def kernel_files():
    """What the user loaded by hand and the dump may be of: vmlinux and modules
    with a build-id. Separate debug files go with their owner."""
    main = gdb.current_progspace().filename
    for objfile in gdb.objfiles():
        if not (objfile.is_valid() and objfile.owner is None and local(objfile) and objfile.build_id):
            continue
        name = os.path.basename(objfile.filename)
        if "vmlinux" in name or os.path.splitext(name)[1] in (".ko", ".debug"):
            yield objfile.filename, objfile.build_id, objfile.filename == main


def hand_over():
    """Takes the user's kernel files out of gdb and offers them by build-id
    instead: gdb then relocates them section by section against the image that
    the server makes, per-CPU symbols and modules included, whatever address
    they had been loaded at."""
    given = list(kernel_files())
    for path, build_id, is_main in given:
        link(path, build_id)
        if is_main:
            gdb.execute("file", to_string=True)
        else:
            for command in (f'remove-symbol-file "{path}"', f"remove-symbol-file {path}"):
                try:
                    gdb.execute(command, to_string=True)
                    break
                except gdb.error:
                    continue
    return given


def came_back(build_id):
    return any(o.is_valid() and o.build_id == build_id for o in gdb.objfiles())


def of_kernel(what):
    """The greeting's lines for a machine, and what to type next."""
    shown = "{} (pid {})".format(what.get("comm", "?"), what.get("pid", "?"))
    name = what.get("nodename")
    lines = ["Linux {}{}, {} CPUs, {} tasks (KASLR {})".format(
        what.get("release") or "of an unknown release", f" on {name}" if name not in (None, "", "(none)") else "",
        what.get("cpus", "?"), what.get("tasks", "?"), what.get("kaslr_offset", "unknown"))]
    if what.get("panic"):
        lines.append("Panic: {}".format(what["panic"].strip()))
    if what.get("pid") is not None:
        lines.append("{}: {} on CPU {}".format("Crashed" if what.get("panic") else "Shown first", shown,
                                               what.get("cpu", "?")))
    pid = gdb.selected_inferior().pid
    return lines, [("monitor triage", "one screen: what happened, the likely culprit, the evidence"),
                   ("bt", f"the stack of {shown}"),
                   ("info threads", f"every task, as Thread {pid}.PID: gdb wants a process, {pid} is the kernel")]


def place(where):
    """A function and its file, as far as they are known."""
    return " in ".join(w for w in (where.get("function") or where.get("symbol"), where.get("module")) if w)


def of_process(what):
    """The same for the core of a process."""
    threads = what.get("threads", 1)
    lines = ["{} (pid {}), {} thread{}".format(
        what.get("command_line") or what.get("executable") or what.get("comm") or "a process", what["pid"], threads,
        "" if threads == 1 else "s")]
    if what.get("died_of"):
        lines.append("Signal: {}".format(what["died_of"]))
    if what.get("refused"):
        lines.append("Refused: {}".format(what["refused"]))
    if what.get("abort_message"):
        lines.append("Message: {}".format(what["abort_message"]))
    if what.get("exception"):
        lines.append("Exception, not caught: " + ": ".join(w for w in what["exception"] if w))
    where = place(what)
    if where:
        lines.append(f"Thread {what.get('tid', '?')} was at {where}")
    for was in what.get("handling") or []:
        lines.append("It was handling {}, at {}".format(was["what"], place(was) or was["pc"]))
    lines += [f"warning: {text}" for text in what.get("warnings") or []]
    following = [("bt", "the stack of the thread that died")]
    if what.get("python"):
        frames = list(process.lines(process.python_frames()))
        if frames:
            lines += ["Python {}, most recent call first:".format(what["python"]), *frames[:PYTHON_LINES]]
            if len(frames) > PYTHON_LINES:
                lines.append(f"  ... {len(frames) - PYTHON_LINES} more: py-bt")
        following.append(("py-bt", "the Python stack of the selected thread"))
    if what.get("go") is not None:
        following.append(("monitor bt", "the same through Go's signal handler, where gdb's ends"))
    lost = len(what.get("files_missing") or [])
    return lines, [*following,
                   ("info threads", "every thread; `thread N` selects one"),
                   ("monitor sys", "the signal, the instruction, " +
                    ("and which files were not found" if lost else "the command line"))]


def banner():
    """What is in the dump, and the three next things to type."""
    what = stub.system()
    if not what:
        text = stub.monitor("sys")
        if text:
            gdb.write(text if text.endswith("\n") else text + "\n")
        return
    lines, following = of_process(what) if "core" in what else of_kernel(what)
    lines.append("Next:")
    lines += [f"  {command:<16} {what_for}" for command, what_for in following]
    lines.append("`monitor help` lists the server's commands, `help vmcore` tells of gdb's own.")
    gdb.write("\n".join(lines) + "\n")


def drop_half_read():
    """Forgets an image whose symbols were not read: Ctrl-C while connecting leaves
    its name behind, and gdb would take it for loaded the next time."""
    # Python tells the name of the symbols only, and of the executable since gdb 15.
    spaces = gdb.execute("maintenance info program-spaces", to_string=True).splitlines()
    here = next((line for line in spaces if line.startswith("*")), "")
    if gdb.current_progspace().filename is None and " target:" in here:
        with stub.unconfirmed():
            gdb.execute("file", to_string=True)


class WholeFile(gdb.Command):
    """Forgets what an interrupted `target remote` has left behind.

Runs by itself before `target remote` and `target extended-remote`."""

    def __init__(self):
        super().__init__("corestub-whole", gdb.COMMAND_FILES)

    def invoke(self, argument, from_tty):
        drop_half_read()


class Quit(gdb.Command):
    """Lets `quit` ask no question where only a dump would be left.

Runs by itself before `quit`."""

    def __init__(self):
        super().__init__("corestub-quit", gdb.COMMAND_RUNNING)

    def invoke(self, argument, from_tty):
        here = stub.connection()
        live = [i for i in gdb.inferiors() if i.pid]
        if here is not None and all(i.connection is not None and i.connection.num == here.num for i in live) \
                and stub.system():
            gdb.execute("set confirm off", to_string=True)


def serve(dump):
    """Starts a server for this gdb alone: the path of its socket. Of all ways a
    Unix socket costs gdb least; a pipe it polls for every byte."""
    program = os.environ.get("CORESTUB", "corestub")
    if shutil.which(program) is None:
        raise gdb.GdbError(f"{dump} is a file, and no corestub is in PATH to serve it")
    folder = tempfile.mkdtemp(prefix="corestub-serve-")
    path = os.path.join(folder, "gdb.sock")
    said = os.path.join(folder, "stderr")
    with open(said, "wb") as stderr:
        server = subprocess.Popen([program, "serve", "--once", "--unix", path, dump], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=stderr, start_new_session=True)
    if not server.stdout.readline():
        server.wait()
        with open(said, errors="replace") as stderr:
            why = stderr.read().strip()
        shutil.rmtree(folder, ignore_errors=True)
        raise gdb.GdbError(why or f"{program} ended without a word")
    _servers.append((server, folder))
    return path


def end_servers():
    """Forgets the servers whose client has left."""
    for server, folder in list(_servers):
        if server.poll() is not None:
            server.stdout.close()
            shutil.rmtree(folder, ignore_errors=True)
            _servers.remove((server, folder))


def reach(where):
    """Fails where nobody listens, before gdb lets go of what it has."""
    host, colon, port = where.rpartition(":")
    try:
        if os.path.exists(where) and stat.S_ISSOCK(os.stat(where).st_mode):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(where)
        elif colon and port.isdigit() and not host.startswith(("udp", "|")):
            host = host[4:] if host.startswith("tcp:") else host
            socket.create_connection((host.strip("[]") or "localhost", int(port)), 20).close()
    except OSError as e:
        raise gdb.GdbError(f"{where}: {e.strerror or e}; is `corestub serve` running there?") from None


class Vmcore(gdb.Command):
    """Connect to corestub and put everything in its place.

vmcore HOST:PORT
vmcore SOCKET
vmcore DUMP
vmcore            the same once more

Like `target extended-remote`, but first takes a vmlinux and modules that were
loaded by hand (`gdb vmlinux`, add-symbol-file, with or without an offset) and
lets gdb find them by build-id, so that they end at their run-time addresses:
KASLR, per-CPU symbols and modules. A file of another kernel is named and left out.

With the path of a dump it starts a server of its own. What cannot be reached or
opened leaves the connection that is there as it is."""

    def __init__(self):
        super().__init__("vmcore", gdb.COMMAND_RUNNING, gdb.COMPLETE_FILENAME)

    def invoke(self, argument, from_tty):
        self.dont_repeat()
        global _last
        where = argument.strip() or _last
        if not where:
            raise gdb.GdbError("vmcore needs HOST:PORT, the path of a socket, or a dump (help vmcore)")
        _last = where
        plain = os.path.expanduser(where)
        if os.path.isfile(plain):
            where = serve(plain)
        else:
            where = plain if os.path.exists(plain) else where
            reach(where)
        # A server on a slow disk may be late; it is never wrong.
        if 0 <= gdb.parameter("remotetimeout") < 60:
            gdb.execute("set remotetimeout 60")
        with stub.unpaged():
            stub.forget()
            given = hand_over()
            if stub.connection() is not None:
                gdb.execute("disconnect", to_string=True)
            try:
                gdb.execute("target extended-remote " + where, to_string=True)
            except KeyboardInterrupt:
                drop_half_read()
                raise gdb.GdbError("interrupted while connecting; `vmcore` alone begins again") from None
            end_servers()
            for path, build_id, _ in given:
                if not came_back(build_id):
                    gdb.write(f"warning: {path} (build-id {build_id}) belongs to nothing in this dump; "
                              "it is not loaded\n")
            banner()


def misplaced():
    """The vmlinux that the user's main file is, if its symbols stand at link
    addresses while the dump's kernel was moved."""
    moved = stub.slide()
    main = gdb.current_progspace().filename
    if not moved or main is None or main.startswith("target:"):
        return None
    text = kernel.symbol("_stext")
    true_text = stub.system().get("stext")
    if text is None:
        return None
    if true_text is not None:
        return main if text != stub.number(true_text) else None
    # Link addresses lie in [0xffffffff80000000, +16 MiB of kernel alignment].
    return main if text - 0xFFFFFFFF80000000 < min(moved, 0x2000000) else None


class AfterSymbolFile(gdb.Command):
    """Puts right what `symbol-file` and `file` leave behind.

Runs by itself after these commands (lx-symbols uses the former): a vmlinux is
moved to where KASLR had put it, and the modules, which gdb forgets together
with the old symbols, are loaded again."""

    def __init__(self):
        super().__init__("corestub-relocate", gdb.COMMAND_FILES)

    def invoke(self, argument, from_tty):
        try:
            main = misplaced() if stub.connection() is not None else None
        except (gdb.error, gdb.MemoryError, ValueError, TypeError):
            main = None
        with stub.unpaged():
            if main is not None:
                gdb.execute(f"symbol-file -o {stub.slide():#x} {main}", to_string=True)
            if stub.connection() is not None and gdb.objfiles():
                gdb.execute("sharedlibrary", to_string=True)


def load():
    Vmcore()
    AfterSymbolFile()
    WholeFile()
    Quit()
    gdb.execute("define hook-quit\ncorestub-quit\nend", to_string=True)
    for target in ("remote", "extended-remote"):
        gdb.execute(f"define target hook-{target}\ncorestub-whole\nend", to_string=True)
    gdb.execute("define hookpost-symbol-file\ncorestub-relocate\nend", to_string=True)
    gdb.execute("define hookpost-file\ncorestub-relocate\nend", to_string=True)
    import atexit
    atexit.register(drop_store)
