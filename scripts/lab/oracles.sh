# shellcheck shell=bash # part of make-vmcores
# What drgn and crash say about each dump.

crash_cmds() {
	local mp=$1 nm va
	cat <<-X
	set scroll off
	sys
	set
	log
	mod
	ps
	runq
	bt -a
	foreach bt
	X
	# vtop takes addresses only: those that the guest's own kallsyms gives
	[ ! -e "$D/oracle/kallsyms.gz" ] || zcat "$D/oracle/kallsyms.gz" |
		awk '$3 ~ /^(linux_banner|init_task|labcrash_banner)$/ && !s[$3]++ {print "sym " $1 "\nvtop " $1}'
	cat <<-X
	rd -a linux_banner
	rd -a labcrash_banner
	p jiffies
	p labcrash_records
	p labcrash_percpu:a
	swap
	X
	if [ -n "$mp" ] && [ -e "$D/oracle/mtprog.txt" ]; then
		echo "set $mp"
		echo vm
		sed -n 's/^addr \([a-z_]*\) \(0x[0-9a-f]*\).*/\1 \2/p' "$D/oracle/mtprog.txt" | while read -r nm va; do
			echo "vtop -u $va"
			echo "rd -u -a $va"
		done
	fi
	echo quit
}

run_crash() { # run_crash DUMP
	local d=$1 rc=0 mp=
	[ ! -s "$d.crash.txt" ] || return 0
	[ ! -e "$D/oracle/mtprog.txt" ] || mp=$(sed -n 's/^pid //p' "$D/oracle/mtprog.txt")
	crash_cmds "$mp" > "$D/.cmds"
	timeout 500 "${CRASH[@]}" -s -i "$D/.cmds" "$VMLINUX" "$d" > "$d.crash.txt" 2>&1 < /dev/null || rc=$?
	rm -f "$D/.cmds"
	say "  crash $(basename "$d"): status $rc, $(wc -l < "$d.crash.txt") lines"
}

run_drgn() { # run_drgn DUMP: tasks, stacks, registers, modules; then sampled addresses
	local d=$1 pad=0
	if [ ! -s "$d.drgn.json" ]; then
		grep -q '^CONFIG_X86_FRED=y' "$K/boot/config-$KVER" && pad=16
		timeout 500 "$OUT/venv/bin/python" "$HERE/drgn-oracle.py" "$d" "$d.drgn.json" --vmlinux "$VMLINUX" \
			--modules "$K/usr/lib/debug/lib/modules/$KVER,$B/debug" --padding $pad 2> "$d.drgn.err" | sed 's/^/          /' || say "drgn failed on $d"
		[ -s "$d.drgn.err" ] || rm -f "$d.drgn.err"
	fi
	if [ ! -s "$d.addresses.json" ] && grep -q '"tasks": \[' "$d.drgn.json"; then
		timeout 500 "$OUT/venv/bin/python" "$HERE/drgn-addresses.py" "$d" "$d.addresses.json" --vmlinux "$VMLINUX" 2>&1 | sed 's/^/          /' || say "drgn failed on $d"
	fi
}

oracles() { # drgn on every dump; crash on one elf and one kdump (z31 where there is one)
	[ "$ORACLES" != none ] || return 0
	local d kinds='' kind
	for d in "$D"/qemu.elf "$D"/*.elf "$D"/z31.kdump "$D"/*.kdump "$D"/*.flat; do
		[ -e "$d" ] || continue
		run_drgn "$d"
		[ "$ORACLES" = all ] || continue
		kind=${d##*.}
		[ "$kind" != flat ] || continue
		case " $kinds " in *" $kind "*) continue;; esac
		kinds="$kinds $kind"
		run_crash "$d"
	done
	touch "$D/.oracles-$ORACLES" "$D/.oracles-drgn"
}
