# gdb's side of corestub: `source gdbinit`, or `corestub gdb` does it.
#
# It loads the Python of scripts/gdb beside this file and changes nothing else
# until something is connected. Works with gdb 12 and later, with and without
# types of the kernel. What it brings: `help user-defined`, `help vmcore`.

python
def _corestub_load():
    import os
    import sys

    import gdb

    def beside_this_file():
        # gdb tells a script's Python blocks nothing of the file they stand in,
        # but it holds that file open while it reads it. What the kernel says of
        # it has no links in it.
        fds = "/proc/self/fd"
        for fd in sorted(os.listdir(fds), key=int, reverse=True) if os.path.isdir(fds) else []:
            try:
                path = os.readlink(os.path.join(fds, fd))
            except OSError:
                continue
            if os.path.basename(path) in ("gdbinit", ".gdbinit"):
                yield os.path.dirname(path)

    # Not the folder that gdb was started in: it may be that of a dump, and anybody's.
    places = [os.environ.get("CORESTUB_GDB", ""), *beside_this_file(), "/usr/local/share/corestub", "/usr/share/corestub"]
    for top in places:
        folder = os.path.join(top, "scripts", "gdb")
        if top and os.path.isfile(os.path.join(folder, "corestub", "__init__.py")):
            if folder not in sys.path:
                sys.path.insert(0, folder)
            # Sourced again: take what is in the files now.
            for name in [m for m in sys.modules if m == "corestub" or m.startswith("corestub.")]:
                del sys.modules[name]
            sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
            try:
                import corestub
                corestub.load()
            finally:
                sys.dont_write_bytecode = before
            return
    gdb.write("corestub: scripts/gdb/corestub is not beside this gdbinit, and no package has installed it; "
              "source the file that `corestub gdbinit` names\n", gdb.STDERR)

_corestub_load()
del _corestub_load
end
