#!/usr/bin/env python3
"""What drgn says lies at sampled addresses of one kernel dump, as JSON.

  drgn-whatis.py DUMP OUT.json --vmlinux VMLINUX [--count 400]

Run with the venv that has drgn. OUT: a list of [kind, address, ...]:
  slab     cache, object, whether it is allocated
  stack    pid
  vmalloc  first and last address of the area, its caller's symbol
  symbol   name, offset
  page     physical address, reference count
`count` of each kind; the sample is the same for the same dump.
"""
import json
import os

import drgn
from drgn.helpers.linux.mm import PageSlab, for_each_page, for_each_vmap_area, page_to_phys, page_to_virt
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.slab import slab_object_info
from sampled import opened

args, prog, rnd = opened(400)
samples = []

slabs, pages = [], []
for page in for_each_page(prog):
    try:
        (slabs if PageSlab(page) else pages).append(page)
    except drgn.FaultError:
        continue
tried = 0
while sum(s[0] == "slab" for s in samples) < args.count and tried < args.count * 20:
    tried += 1
    address = page_to_virt(rnd.choice(slabs)).value_() + rnd.randrange(4096)
    try:
        info = slab_object_info(prog, address)
    except drgn.FaultError:
        continue
    if info is not None and info.allocated is not None:
        name = info.slab_cache.name.string_().decode()
        samples.append(["slab", hex(address), name, hex(info.address), bool(info.allocated)])

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
while sum(s[0] == "symbol" for s in samples) < args.count:
    address = rnd.randrange(lo, hi)
    try:
        symbol = prog.symbol(address)
    except LookupError:
        continue
    samples.append(["symbol", hex(address), symbol.name, address - symbol.address])

with open(args.out + ".part", "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(s) for s in samples) + "\n]\n")
os.rename(args.out + ".part", args.out)
print(f"drgn: {os.path.basename(args.dump)}: {len(samples)} places")
