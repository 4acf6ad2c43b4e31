"""Types of globals as gdb sees them: `GLOBAL name<TAB>type<TAB>size` for each of GLOBALS."""
import os

import gdb

for name in os.environ["GLOBALS"].split():
    found = gdb.lookup_global_symbol(name)
    found = [found] if found else list(gdb.lookup_static_symbols(name))
    if len(found) == 1:
        type_ = found[0].type
        # an anonymous struct by its members; arrays by their elements
        text = str(type_)
        if type_.code == gdb.TYPE_CODE_STRUCT and not type_.name:
            text = ",".join(f.name or "" for f in type_.fields())
        while type_.code == gdb.TYPE_CODE_ARRAY:
            type_ = type_.target()
        print("GLOBAL", f"{name}\t{text}\t{type_.sizeof}")
