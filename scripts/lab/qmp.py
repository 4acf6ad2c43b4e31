#!/usr/bin/env python3
"""Tiny QMP client for make-vmcores (standard library only).

  qmp.py SOCK stop|cont|quit|formats|kvm
  qmp.py SOCK hmp COMMAND...
  qmp.py SOCK dump FORMAT FILE [paging]   FORMAT: elf kdump-zlib kdump-lzo kdump-snappy
  qmp.py SERIAL-SOCK go                   no QMP: write one line to a guest's serial port
"""
import json
import socket
import sys
import time


class Qmp:
    def __init__(self, path, wait=20.0):
        end = time.time() + wait
        while True:
            try:
                self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self.sock.connect(path)
                break
            except OSError:
                self.sock.close()
                if time.time() > end:
                    raise
                time.sleep(0.1)
        self.f = self.sock.makefile("rwb")
        self.f.readline()
        self.cmd("qmp_capabilities")

    def cmd(self, name, **args):
        msg = {"execute": name}
        if args:
            msg["arguments"] = args
        self.f.write(json.dumps(msg).encode() + b"\n")
        self.f.flush()
        while True:
            line = self.f.readline()
            if not line:
                if name == "quit":
                    return {}
                raise SystemExit("qmp: connection closed during " + name)
            obj = json.loads(line)
            if "return" in obj:
                return obj["return"]
            if "error" in obj:
                raise SystemExit("qmp: {}: {}".format(name, obj["error"]))


def main():
    sock, what, rest = sys.argv[1], sys.argv[2], sys.argv[3:]
    if what == "go":
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.connect(sock)
        s.sendall(b"go\n")
        time.sleep(1)
        return
    q = Qmp(sock, 0.5 if what == "quit" else 20.0)  # a guest to quit may be gone already
    if what in ("stop", "cont", "quit"):
        q.cmd(what)
    elif what == "hmp":
        sys.stdout.write(q.cmd("human-monitor-command", **{"command-line": " ".join(rest)}).replace("\r\n", "\n"))
    elif what == "formats":
        print("\n".join(q.cmd("query-dump-guest-memory-capability")["formats"]))
    elif what == "kvm":
        print("kvm" if q.cmd("query-kvm")["enabled"] else "tcg")
    elif what == "dump":
        fmt, path = rest[0], rest[1]
        paging = len(rest) > 2 and rest[2] == "paging"
        args = {"paging": paging, "protocol": "file:" + path}
        if fmt != "elf":
            args["format"] = fmt
        q.cmd("dump-guest-memory", **args)
    else:
        raise SystemExit("qmp: unknown command " + what)


main()
