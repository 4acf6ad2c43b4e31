#!/usr/bin/env python3
"""What drgn says lies at sampled addresses of one kernel dump, as JSON.

  drgn-whatis.py DUMP OUT.json --vmlinux VMLINUX [--count 400] [--all]

Run with the venv that has drgn. OUT: a list of [kind, address, ...]:
  slab     cache, object, whether it is allocated
  stack    pid
  vmalloc  first and last address of the area, its caller's symbol
  symbol   name, offset
  page     physical address, reference count
and with --all
  percpu   CPU, name, offset
  module   name
  user     pid, physical address; of the task that crashed
  hole     nothing is mapped there
`count` of each kind, of slabs with --all of free objects and of allocated ones each; the
sample is the same for the same dump. compare-whatis sets corestub beside it.
"""
import json
import os

import drgn
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.mm import (
    PageSlab,
    follow_phys,
    for_each_page,
    for_each_vma,
    for_each_vmap_area,
    page_to_phys,
    page_to_virt,
)
from drgn.helpers.linux.module import for_each_module
from drgn.helpers.linux.percpu import per_cpu_ptr
from drgn.helpers.linux.pid import find_task, for_each_task
from drgn.helpers.linux.slab import slab_object_info
from sampled import opened

args, prog, rnd = opened(400)
samples = []


def found(kind):
    return sum(s[0] == kind for s in samples)


slabs, pages = [], []
for page in for_each_page(prog):
    try:
        (slabs if PageSlab(page) else pages).append(page)
    except drgn.FaultError:
        continue
counts = {True: 0, False: 0}
for _ in range(args.count * 20):
    if min(counts.values()) >= args.count or (not args.all and sum(counts.values()) >= args.count):
        break
    address = page_to_virt(rnd.choice(slabs)).value_() + rnd.randrange(4096)
    try:
        info = slab_object_info(prog, address)
    except drgn.FaultError:
        continue
    if info is not None and info.allocated is not None:
        allocated = bool(info.allocated)
        if args.all and counts[allocated] >= args.count:
            continue
        counts[allocated] += 1
        name = info.slab_cache.name.string_().decode()
        samples.append(["slab", hex(address), name, hex(info.address), allocated])

for page in rnd.sample(pages, min(args.count, len(pages))):
    address = page_to_virt(page).value_() + rnd.randrange(4096)
    samples.append(["page", hex(address), hex(page_to_phys(page).value_()), page._refcount.counter.value_()])

tasks = [t for t in for_each_task(prog) if t.stack.value_()]
for task in (rnd.choice(tasks) for _ in range(args.count)):
    samples.append(["stack", hex(task.stack.value_() + rnd.randrange(16384)), task.pid.value_()])

areas = [a for a in for_each_vmap_area(prog) if a.vm.value_()]
for area in (rnd.choice(areas) for _ in range(args.count)):
    lo, hi = area.va_start.value_(), area.va_end.value_()
    try:
        caller = prog.symbol(area.vm.caller.value_()).name
    except LookupError:
        caller = None
    samples.append(["vmalloc", hex(rnd.randrange(lo, hi)), hex(lo), hex(hi), caller])

lo, hi = prog.symbol("_stext").address, prog.symbol("_etext").address
while found("symbol") < args.count:
    address = rnd.randrange(lo, hi)
    try:
        symbol = prog.symbol(address)
    except LookupError:
        continue
    samples.append(["symbol", hex(address), symbol.name, address - symbol.address])


def more():
    lo, hi = prog.symbol("__per_cpu_start").address, prog.symbol("__per_cpu_end").address
    symbols = [s for s in prog.symbols() if lo <= s.address < hi and s.size]
    cpus = list(for_each_online_cpu(prog))
    for _ in range(args.count):
        symbol, cpu = rnd.choice(symbols), rnd.choice(cpus)
        offset = rnd.randrange(symbol.size)
        base = per_cpu_ptr(drgn.Object(prog, "void *", symbol.address), cpu).value_()
        samples.append(["percpu", hex(base + offset), cpu, symbol.name, offset])

    ranges = []
    for module in for_each_module(prog):
        name = module.name.string_().decode()
        try:
            parts = [(m.base.value_(), m.size.value_()) for m in module.mem[0:4]]
        except AttributeError:  # before 6.4
            parts = [(module.core_layout.base.value_(), module.core_layout.size.value_())]
        ranges += [(name, base, size) for base, size in parts if size]
    for name, base, size in (rnd.choice(ranges) for _ in range(args.count)):
        samples.append(["module", hex(base + rnd.randrange(size)), name])

    task = find_task(prog, prog.crashed_thread().tid)
    present = []
    for vma in for_each_vma(task.mm) if task.mm.value_() else ():
        for address in range(vma.vm_start.value_(), vma.vm_end.value_(), 4096):
            try:
                present.append((address, follow_phys(task.mm, address).value_()))
            except drgn.FaultError:
                continue
    for address, physical in (rnd.choice(present) for _ in range(args.count) if present):
        offset = rnd.randrange(4096)
        samples.append(["user", hex(address + offset), task.tgid.value_(), hex(physical)])

    space = prog["init_mm"].address_of_()
    used = sorted((a.va_start.value_(), a.va_end.value_()) for a in for_each_vmap_area(prog))
    gaps = [(a[1], b[0]) for a, b in zip(used, used[1:]) if b[0] > a[1]]
    gaps += [(0xFFFF800000000000, 0xFFFF880000000000), (0xFFFFFF8000000000, 0xFFFFFFFF80000000)]
    while found("hole") < args.count:
        address = rnd.randrange(*rnd.choice(gaps))
        try:
            follow_phys(space, address)
        except drgn.FaultError:
            samples.append(["hole", hex(address)])


if args.all:
    more()

with open(args.out + ".part", "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(s) for s in samples) + "\n]\n")
os.rename(args.out + ".part", args.out)
print(f"drgn: {os.path.basename(args.dump)}: {len(samples)} places")
