# shellcheck shell=bash # part of make-vmcores
# The scenarios: what each guest does, and which dumps are made of it.

VMCI=(-device vmcoreinfo)
LAST_MADE=oracle/signals # by ci and kernel: a cache of an older version lacks it
LAST_MADE_BY_CORESTUB=oracle/kcore.json # likewise

live_guest() { # live_guest "KERNEL PARAMETERS" "DUMPS" QEMU-OPTIONS...: a running guest, dumped by QEMU; SETTLE: seconds before
	local append=$1 dumps=$2
	shift 2
	live_try() {
		boot "$append" 64 "$@" || return
		sleep "${SETTLE:-0}"
		# shellcheck disable=SC2086
		live_dumps $dumps
	}
	build_initrd full; build_initrd "$(crash_initrd)"
	tries live_try "$@"
	end_guest; fetch_disk
}

kdump_guest() { # kdump_guest TRIGGER KEXEC DUMPS QEMU-OPTIONS...: a panic, dumped by the kdump kernel; EXTRA: more kernel parameters
	local trig=$1 kx=$2 dumps=$3
	shift 3
	kdump_try() {
		boot "crashkernel=${CRASHKERNEL:-256M} lab.kdump=1 lab.kexec=$kx lab.trigger=$trig lab.dumps=$dumps ${EXTRA:-}" 4096 -m "${MEM:-768M}" "$@" || return
		step "$S: crash, kdump kernel, dump" wait_for "$D/console.log" 'KDUMP-DONE' "${KDUMP_LIMIT:-180}"
	}
	build_initrd "${INITRD:-full}"; build_initrd "$(crash_initrd)"
	tries kdump_try "$@"
	end_guest # it has unmounted its disk
	fetch_disk
}

oops_guest() { # oops_guest DISK-MB DUMPS [TRIGGER [PARAMETERS]]: a small guest that a module's oops ends, dumped in its kdump kernel
	local disk=$1 dumps=$2 trigger=${3:-oops} more=${4:-}
	oops_try() {
		boot "crashkernel=160M lab.kdump=1 lab.trigger=$trigger $more lab.dumps=$dumps lab.sleeps=10 lab.spin=1" "$disk" -m 448M "${VMCI[@]}" || return
		step "$S: crash, kdump kernel, dump" wait_for "$D/console.log" 'KDUMP-DONE' $((${CORESTUB:+200} + 100))
	}
	local INITRD=ci${CORESTUB:+-live} SMP=2 BOOT_LIMIT=${BOOT_LIMIT:-$((${CORESTUB:+200} + 100))}
	build_initrd "$INITRD"; build_initrd "$(crash_initrd)"
	tries oops_try
	end_guest; fetch_disk
	[ -s "$D/${dumps%%:*}" ] || die "the kdump kernel wrote no dump; its console is $D/console.log"
}

# as little as can be: one dump
sc_demo() { oops_guest 512 l31.kdump:-l+-d+31; }
# for kernels whose debug info is not fetched: the guest's own word is the oracle. What else can
# go wrong in the same boot does: a deadlock, a task that hangs, a group out of memory, a
# smashed list of free objects.
sc_kernel() {
	oops_guest 1024 l17.kdump:-l+-d+17,l31.kdump:-l+-d+31 smashoops "lab.abba=1 lab.hung=2 lab.oomkill=group"
}

sc_ci() { # fewer modules and 2 CPUs save 1 s each; quiet, mitigations=off, clock options: nothing
	ci_try() {
		boot "crashkernel=160M lab.kdump=1 lab.trigger=oops lab.dumps=elf lab.sleeps=10 lab.spin=1 lab.go=1" \
			1024 -m 448M "${VMCI[@]}" -serial "unix:$D/go.sock,server=on,wait=off" || return
		live_dumps elf paging zlib lzo snappy || return
		qmp cont || return
		/usr/bin/python3 "$HERE/qmp.py" "$D/go.sock" go || return
		step "$S: crash, kdump kernel, dump" wait_for "$D/console.log" 'KDUMP-DONE' 100
	}
	local INITRD=ci SMP=2
	build_initrd ci; build_initrd "$(crash_initrd)"
	tries ci_try
	end_guest; fetch_disk
	formats
	[ -s "$D/z31.kdump" ] || die "makedumpfile wrote no z31.kdump; see $D/z31.kdump.log"
}

formats() { # every format that makedumpfile writes, all of one vmcore.elf
	convert z31.kdump -z -d 31
	convert c31.kdump -c -d 31
	convert l31.kdump -l -d 31
	! mdf_has snappy || convert p31.kdump -p -d 31
	convert raw31.kdump -d 31
	convert E31.elf -E -d 31
	flatten F31.flat -c -d 31
	flatten FE31.flat -E -d 31
	split_in_three -l -d 31
	holes "$D"/E31.elf
}

sc_live()          { live_guest "lab.spin=1" "elf paging zlib lzo snappy migrate" -m 768M "${VMCI[@]}"; }
sc_live_novmci()   { live_guest "" "elf zlib" -m 512M; }
sc_live_nokaslr()  { live_guest "nokaslr" "elf zlib" -m 512M "${VMCI[@]}"; }
sc_live_pti()      { live_guest "pti=on" "elf zlib" -m 512M "${VMCI[@]}"; }
sc_live_la57() { # five-level page tables: only TCG is sure to have them
	local QACCEL=(-accel tcg)
	CPU=max,+la57 live_guest "" "elf zlib" -m 512M "${VMCI[@]}"
	grep -a 'cpu flags' "$D/console.log" | tail -1
}
sc_live_irqspin() { # a CPU spinning with interrupts off, no panic
	SETTLE=4 live_guest "lab.trigger=irqspin nowatchdog" "elf zlib" -m 512M "${VMCI[@]}"
}
sc_scale() { # 5,500 threads and more
	BOOT_LIMIT=${BOOT_LIMIT:-300} live_guest "lab.scale=5500 lab.sleeps=100" "elf zlib" -m 1024M "${VMCI[@]}"
}

sc_kdump_sysrq() {
	KDUMP_LIMIT=400 kdump_guest sysrq file "elf,E0.elf:-E+-d+0,l31.kdump:-l+-d+31"
	formats
	convert c0.kdump -c -d 0
	convert c1.kdump -c -d 1
	convert l1.kdump -l -d 1
	convert z1.kdump -z -d 1
}
sc_kdump_oops()     { kdump_guest oops load "elf,l31.kdump:-l+-d+31,F1.flat:-F+-l+-d+1"; convert z31.kdump -z -d 31; }
sc_kdump_irqoops()  { MEM=640M kdump_guest irqoops file "l17.kdump:-l+-d+17"; }
sc_kdump_softoops() { MEM=640M kdump_guest softoops file "l31.kdump:-l+-d+31"; }
sc_kdump_wqoops()   { MEM=640M kdump_guest wqoops load "l31.kdump:-l+-d+31"; }
kdump_small() { # kdump_small TRIGGER [PARAMETERS]: a panic of a small guest with a deadlock in it
	local INITRD=ci SMP=2 trigger=$1
	EXTRA="lab.abba=1 lab.sleeps=10 ${2:-}" CRASHKERNEL=160M MEM=448M kdump_guest "$trigger" file "l31.kdump:-l+-d+31" "${VMCI[@]}"
}
sc_kdump_smash()    { kdump_small smash; }
sc_kdump_listdel()  { kdump_small listdel; }
sc_kdump_overrun()  { kdump_small overrun "slub_debug=FZPU lab.net=1"; }
sc_kdump_uaf()      { kdump_small uaf; }
sc_kdump_overflow() { kdump_small overflow; }
sc_kdump_lockup()   { kdump_small lockup; }
sc_kdump_oom()      { kdump_small oom; }
sc_kdump_oomkill()  { kdump_small sysrq lab.oomkill=all; }
sc_kdump_hung()     { kdump_small hung; }
sc_kdump_bug()      { MEM=640M kdump_guest bug file "l31.kdump:-l+-d+31"; }
sc_kdump_scale() {
	EXTRA="lab.scale=5500 lab.sleeps=100" BOOT_LIMIT=${BOOT_LIMIT:-300} KDUMP_LIMIT=400 MEM=1024M kdump_guest sysrq file "z31.kdump:-z+-d+31"
}
sc_big() { # 64 GiB of guest memory, hardly touched
	EXTRA="lab.sleeps=20" KDUMP_LIMIT=400 MEM=64G kdump_guest sysrq file "l31.kdump:-l+-d+31,E31.elf:-E+-d+31" \
		-object memory-backend-ram,id=ram0,size=64G,reserve=off -machine memory-backend=ram0
}
