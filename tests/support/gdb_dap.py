"""Drives gdb's own Debug Adapter Protocol (gdb 14 and later), as an editor does:
attach, look at everything, try to go on. Prints one JSON object.

    python gdb_dap.py GDB HOST:PORT EXPRESSION SECONDS

SECONDS is how long it waits for each answer.
"""

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time

program, target, expression, seconds = sys.argv[1:5]
patience = int(seconds)
log = tempfile.NamedTemporaryFile()  # noqa: SIM115 # as long as all of this
settings = ["debuginfod enabled off", "remotetimeout " + seconds, "debug dap-log-file " + log.name]
gdb = subprocess.Popen(
    [program, "-nx", *(word for s in settings for word in ("-iex", "set " + s)), "-i", "dap"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
messages = queue.Queue()
console = []
events = []
sent = 0


def read():
    while True:
        length = 0
        for line in iter(lambda: gdb.stdout.readline().strip(), b""):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if not length:
            messages.put(None)
            return
        messages.put(json.loads(gdb.stdout.read(length)))


def send(command, arguments=None):
    global sent
    sent += 1
    message = {"seq": sent, "type": "request", "command": command}
    if arguments is not None:
        message["arguments"] = arguments
    body = json.dumps(message).encode()
    gdb.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
    gdb.stdin.flush()
    return sent


def wait(fits):
    """The first message that fits; what gdb prints is kept."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            message = messages.get(timeout=1)
        except queue.Empty:
            continue
        if message is None:
            sys.exit("gdb has ended")
        if message.get("event") == "output":
            console.append(message["body"]["output"])
        if message["type"] == "event":
            events.append(message["event"])
        if fits(message):
            return message
    sys.exit(f"no answer in {seconds} s; gdb said {''.join(console)!r}")


def answer(number):
    message = wait(lambda m: m["type"] == "response" and m["request_seq"] == number)
    return message.get("body") if message["success"] else {"refused": message.get("message")}


def ask(command, arguments=None):
    return answer(send(command, arguments))


threading.Thread(target=read, daemon=True).start()
seen = {"capabilities": ask("initialize", {"clientID": "test", "adapterID": "gdb"})}
attached = send("attach", {"target": target})
# Only some versions wait for it.
configured = send("configurationDone")
seen["attach"] = answer(attached)
seen["threads"] = ask("threads")["threads"]
thread = seen["threads"][0]["id"]
for candidate in seen["threads"]:
    stack = ask("stackTrace", {"threadId": candidate["id"], "levels": 20})
    if any(f["name"].startswith("labcrash_level") for f in stack.get("stackFrames", [])):
        thread = candidate["id"]
        break
seen["stack"] = stack["stackFrames"]
frame = seen["stack"][0]["id"]
seen["scopes"] = [s["name"] for s in ask("scopes", {"frameId": frame})["scopes"]]
registers = [s for s in ask("scopes", {"frameId": frame})["scopes"] if s["name"] == "Registers"]
variables = ask("variables", {"variablesReference": registers[0]["variablesReference"]})["variables"]
seen["registers"] = {v["name"]: v["value"] for v in variables}
evaluate = {"expression": expression, "frameId": frame, "context": "watch"}
seen["value"] = ask("evaluate", evaluate)["result"]
pointer = seen["stack"][0]["instructionPointerReference"]
seen["memory"] = ask("readMemory", {"memoryReference": pointer, "count": 16})
seen["code"] = ask("disassemble", {"memoryReference": pointer, "instructionCount": 4})["instructions"]
seen["repl"] = ask("evaluate", {"expression": "monitor sys", "frameId": frame, "context": "repl"})
seen["continue"] = ask("continue", {"threadId": thread})
seen["next"] = ask("next", {"threadId": thread})
time.sleep(0.5)
# Frames are numbered anew where it believed to have run.
seen["after"] = ask("evaluate", {"expression": expression, "context": "watch"})
seen["stackAfter"] = ask("stackTrace", {"threadId": thread, "levels": 3})
seen["events"] = events
seen["disconnect"] = ask("disconnect", {})
# A warning is not sent to the editor by each version.
warnings = [line for line in log.read().decode(errors="replace").splitlines() if line.startswith("warning: ")]
seen["console"] = "".join(console + warnings)
print(json.dumps(seen))
