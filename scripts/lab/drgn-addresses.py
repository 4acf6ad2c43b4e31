#!/usr/bin/env python3
"""What drgn reads at sampled addresses of one kernel dump, as JSON.

  drgn-addresses.py DUMP OUT.json --vmlinux VMLINUX [--count 10000]

Run with the venv that has drgn. OUT: {"dump", "size", "samples": [[kind, address,
pid, bytes], ...]}: `pid` 0 is the kernel's address space, else that process's own;
`bytes` is hex, or null where drgn cannot read all `size` bytes. The sample is the
same for the same dump.

To bear in mind when comparing: drgn reads zeros, without a word, where an ELF dump
leaves a page out (p_memsz above p_filesz). In an ELF dump by QEMU, whose segments
have p_vaddr 0, it reads physical memory at low addresses: written as null here.
"""
import contextlib
import json
import os

from drgn import FaultError
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import access_remote_vm, for_each_vma, for_each_vmap_area
from drgn.helpers.linux.pid import for_each_task
from sampled import opened

SIZE = 32

args, prog, rnd = opened(10000)


def within(ranges, wide=0):
    """a random address in one of the ranges, or up to `wide` bytes beside it"""
    lo, hi = rnd.choice(ranges)
    return rnd.randrange(max(lo - wide, 0), hi + wide)


def symbol(name):
    return prog.symbol(name).address


def module_ranges():
    out = []
    for m in list_for_each_entry("struct module", prog["modules"].address_of_(), "list"):
        try:
            parts = [(int(p.base), int(p.size)) for p in m.mem]
        except AttributeError:
            parts = [(int(m.core_layout.base), int(m.core_layout.size))]
        out += [(b, b + n) for b, n in parts if b and n]
    return out


def percpu_ranges():
    size = symbol("__per_cpu_end") - symbol("__per_cpu_start")
    out = []
    for cpu in for_each_online_cpu(prog):
        # since 6.15 per-CPU symbols do not begin at zero, and the sum goes round
        base = (int(prog["__per_cpu_offset"][cpu]) + symbol("__per_cpu_start")) % (1 << 64)
        out.append((base, base + size))
    return out


def processes():
    """the memory of some processes: (pid, mm, ranges)"""
    seen, out = set(), []
    for task in for_each_task(prog):
        mm = task.mm.read_()
        if not mm or int(mm) in seen or int(task.pid) != int(task.tgid):
            continue
        seen.add(int(mm))
        with contextlib.suppress(FaultError):
            out.append((int(task.pid), mm, [(int(v.vm_start), int(v.vm_end)) for v in for_each_vma(mm)]))
        if len(out) == 40:
            break
    return [p for p in out if p[2]]


direct = int(prog["page_offset_base"])
memmap = int(prog["vmemmap_base"])
pages = int(prog["max_pfn"])
struct_page = prog.type("struct page").size
try:
    areas = [(int(v.va_start), int(v.va_end)) for v in for_each_vmap_area(prog)]
except Exception as error:  # a list that was filtered out, or is new to this drgn
    print(f"drgn: no vmap areas: {error}")
    areas = []
stacks = [(int(t.stack.value_()), int(t.stack.value_()) + 16384) for t in for_each_task(prog)]
modules, user = module_ranges(), processes()
kinds = {
    "direct": (20, lambda: (0, within([(direct, direct + pages * 4096)], 1 << 20))),
    "text": (15, lambda: (0, within([(symbol("_stext"), symbol("_end"))], 4096))),
    "vmalloc": (10, lambda: (0, within(areas or stacks, 64))),
    "stack": (10, lambda: (0, within(stacks, 64))),
    "vmemmap": (10, lambda: (0, within([(memmap, memmap + pages * struct_page)]))),
    "module": (10, lambda: (0, within(modules, 4096))) if modules else (0, None),
    "percpu": (5, lambda: (0, within(percpu))),
    "user": (15, lambda: (lambda p: (p[0], within(p[2], 64)))(rnd.choice(user))) if user else (0, None),
    "page-edge": (3, lambda: (0, (within([(direct, direct + pages * 4096)]) | 4095) - rnd.randrange(SIZE))),
    "wild": (2, lambda: (0, rnd.choice(
        [0, 8, 1 << 47, (1 << 63) + 5, (1 << 64) - 4096, rnd.getrandbits(64)]) % ((1 << 64) - SIZE))),
}
percpu = percpu_ranges()
spaces = {pid: mm for pid, mm, _ in user}
total = sum(weight for weight, _ in kinds.values())
samples = []
for kind, (weight, pick) in kinds.items():
    for _ in range(args.count * weight // total):
        pid, address = pick()
        try:
            if pid:
                data = access_remote_vm(spaces[pid], address, SIZE)
            else:
                data = prog.read(address, SIZE) if address >= 1 << 47 else None
        except (FaultError, ValueError):
            data = None
        samples.append([kind, hex(address), pid, data.hex() if data is not None else None])
with open(args.out + ".part", "w") as f:
    f.write(f'{{"dump": {json.dumps(os.path.basename(args.dump))}, "size": {SIZE}, "samples": [\n')
    f.write(",\n".join(json.dumps(s) for s in samples))
    f.write("\n]}\n")
os.rename(args.out + ".part", args.out)
readable = sum(s[3] is not None for s in samples)
print(f"drgn: {os.path.basename(args.dump)}: {len(samples)} addresses, {readable} readable")
