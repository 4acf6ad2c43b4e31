"""Drives gdb/MI through pygdbmi, as IDEs that speak MI do: connect, look at
everything, try to continue, step and write. Prints one JSON object.

    python mi.py GDB HOST:PORT GLOBAL SECONDS

SECONDS is how long it waits for what must come.
"""

import json
import sys

from pygdbmi.gdbcontroller import GdbController

gdb, where, global_, seconds = sys.argv[1:5]
patience = int(seconds)
mi = GdbController([gdb, "-nx", "--interpreter=mi3"])


def ask(command, until=("done", "error", "running", "connected", "exit")):
    """The records up to the result, and the result."""
    records = mi.write(command, timeout_sec=patience)
    while not any(r["type"] == "result" and r["message"] in until for r in records):
        records += mi.get_gdb_response(timeout_sec=patience)
    return records, next(r for r in records if r["type"] == "result" and r["message"] in until)


def result(command):
    return ask(command)[1]


def until_stopped(command):
    records, answer = ask(command)
    while answer["message"] == "running" and not any(
            r["type"] == "notify" and r["message"] == "stopped" for r in records):
        records += mi.get_gdb_response(timeout_sec=patience)
    return {
        "result": answer["message"],
        "log": "".join(str(r["payload"]) for r in records if r["type"] in ("log", "console", "target")),
        "stopped": [r["payload"] for r in records if r["type"] == "notify" and r["message"] == "stopped"],
    }


seen = {}
result("-gdb-set mi-async on")
result("-gdb-set pagination off")
result("-gdb-set remotetimeout " + seconds)
seen["connect"] = result("-target-select remote " + where)["message"]
threads = result("-thread-info")["payload"]
seen["current"] = threads.get("current-thread-id")
seen["threads"] = threads["threads"]
seen["frames"] = result("-stack-list-frames 0 20")["payload"]["stack"]
seen["registers"] = result("-data-list-register-values x 16 7")["payload"]["register-values"]
seen["names"] = result("-data-list-register-names 16 7")["payload"]["register-names"]
seen["value"] = result("-data-evaluate-expression " + global_)["payload"]
seen["memory"] = result("-data-read-memory-bytes $sp 64")["payload"]["memory"]
seen["variables"] = result("-stack-list-variables --simple-values")["payload"]
seen["console"] = "".join(str(r["payload"]) for r in ask('-interpreter-exec console "monitor sys"')[0]
                          if r["type"] in ("console", "target"))
seen["continue"] = until_stopped("-exec-continue")
seen["step"] = until_stopped("-exec-step-instruction")
# An interrupt of a stopped target must not upset the conversation.
ask("-exec-interrupt")
seen["write"] = ask("-data-write-memory-bytes $sp 00")[1]
seen["valueAfter"] = result("-data-evaluate-expression " + global_)["payload"]
mi.write("-gdb-exit", raise_error_on_timeout=False, timeout_sec=5)
mi.exit()
print(json.dumps(seen))
