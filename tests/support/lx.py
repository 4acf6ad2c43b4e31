"""Runs gdb commands, each by itself, and prints one JSON object: command to
{"ok": bool, "text": str}. Run inside gdb; LX_COMMANDS holds them, a line each."""

import json
import os

import gdb

seen = {}
for command in os.environ["LX_COMMANDS"].splitlines():
    try:
        seen[command] = {"ok": True, "text": gdb.execute(command, to_string=True)}
    except (gdb.error, gdb.MemoryError, AttributeError, TypeError, ValueError) as why:
        seen[command] = {"ok": False, "text": str(why)}
print("LX " + json.dumps(seen))
