"""The opening of the scripts that ask drgn about sampled addresses of one kernel dump."""
import argparse
import os
import random

import drgn


def opened(count):
    """The arguments (dump, out, count), the dump in drgn, and the source of its sample,
    which is the same for the same dump."""
    ap = argparse.ArgumentParser()
    ap.add_argument("dump")
    ap.add_argument("out")
    ap.add_argument("--vmlinux", required=True)
    ap.add_argument("--count", type=int, default=count)
    ap.add_argument("--all", action="store_true")
    args = ap.parse_args()
    prog = drgn.Program()
    prog.set_core_dump(args.dump)
    prog.load_debug_info([args.vmlinux])
    return args, prog, random.Random(os.path.basename(args.dump))
