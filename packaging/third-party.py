#!/usr/bin/env python3
"""packaging/third-party.py < METADATA: the licences of all that is linked into the program.

METADATA is what `cargo metadata --filter-platform TARGET` prints. Of each crate the texts
that it brings are shown, those of C sources in it too; a crate that brings none is named
with the licence that it declares. Derive macros are among them: better one too many.
"""

import json
import sys
from pathlib import Path

WORDS = ("license", "licence", "copying", "copyright", "notice", "unlicense")


def texts(folder):
    """The licences below a crate's folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name.lower().startswith(WORDS) and path.suffix not in (".rs", ".c", ".h", ".html"):
            yield path


def main():
    metadata = json.load(sys.stdin)
    resolved = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    wanted, linked = [metadata["resolve"]["root"]], set()
    while wanted:
        node = resolved[wanted.pop()]
        for dependency in node["deps"]:
            if dependency["pkg"] not in linked and any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                linked.add(dependency["pkg"])
                wanted.append(dependency["pkg"])
    seen = {}
    for package in sorted(metadata["packages"], key=lambda p: (p["name"], p["version"])):
        if package["id"] not in linked:
            continue
        name = f"{package['name']} {package['version']}"
        print(f"{'=' * 78}\n{name}: {package['license'] or package['license_file']}")
        folder = Path(package["manifest_path"]).parent
        for path in texts(folder):
            text = path.read_text(errors="replace").strip()
            print(f"\n--- {path.relative_to(folder)}\n")
            print(f"(the same as {seen[text]})" if text in seen else text)
            seen.setdefault(text, f"{path.relative_to(folder)} of {name}")
        print()


main()
