# shellcheck shell=bash # part of make-vmcores
# One guest: boot, wait, dump, fetch what it wrote.
#
# Under emulation a guest sometimes hangs for ever, most often in
# smp_call_function_many_cond with another CPU that never answers. So whatever
# waits for a guest fails after a time, and `tries` runs it again.

qmp() { /usr/bin/python3 "$HERE/qmp.py" "$D/qmp.sock" "$@"; }

kill_guest() {
	[ -n "$QPID" ] || return 0
	kill -9 "$QPID" 2>/dev/null || true
	wait "$QPID" 2>/dev/null || true
	QPID=
}

end_guest() {
	[ -n "$QPID" ] || return 0
	qmp quit > /dev/null 2>&1 || true
	local i
	for i in $(seq 50); do
		[ "$i" ] && kill -0 "$QPID" 2>/dev/null || break
		sleep 0.2
	done
	kill_guest
	rm -f "$D/qmp.sock" "$D/go.sock"
}

# tries COMMAND...: up to three times, with twice and three times the patience.
# `set -e` does not hold inside: COMMAND says `|| return` at each step.
tries() {
	for TRY in 1 2 3; do
		if "$@"; then return; fi
		kill_guest
		if [ -s "$D/console.log" ]; then cp "$D/console.log" "$D/console.failed-$TRY.log"; fi
		say "$S: try $TRY came to nothing"
	done
	die "$S: three guests hung; the last one's console is $D/console.log; run again, perhaps with BOOT_LIMIT=300 on a slow machine"
}

wait_for() { # wait_for FILE PATTERN SECONDS
	local end=$(($(date +%s) + $3 * ${TRY:-1}))
	until grep -qE -- "$2" "$1" 2>/dev/null; do
		if [ "$(date +%s)" -ge "$end" ]; then tail -4 "$1"; say "no '$2' within $(($3 * ${TRY:-1})) s"; return 1; fi
		if grep -qs 'KVM internal error' "$D/qemu.err"; then die "KVM cannot run this guest; use ACCEL=tcg"; fi
		if ! kill -0 "$QPID" 2>/dev/null; then
			grep -qE -- "$2" "$1" && return
			tail -4 "$1" "$D/qemu.err"; say "QEMU ended before '$2'"; return 1
		fi
		sleep 0.3
	done
}

# boot "KERNEL PARAMETERS" DISK-MB QEMU-OPTIONS...; INITRD, SMP, CPU, BOOT_LIMIT from the scenario
boot() {
	local append=$1 disk=$2
	shift 2
	rm -f "$D/disk.img" "$D/console.log" "$D/qmp.sock" "$D/go.sock"
	truncate -s "${disk}M" "$D/disk.img"
	mkdir -p "$D/diskroot/boot"
	cp "$K/boot/vmlinuz-$KVER" "$D/diskroot/boot/vmlinuz"
	cp "$B/initrd-$(crash_initrd).img" "$D/diskroot/boot/initrd"
	mke2fs -q -t ext4 -E lazy_itable_init=1,lazy_journal_init=1 -d "$D/diskroot" "$D/disk.img" 
	rm -r "$D/diskroot"
	"${QEMU[@]}" "${QACCEL[@]}" -machine q35 -cpu "${CPU:-$CPUMODEL}" -smp "${SMP:-4}" -nodefaults -display none -no-reboot \
		-kernel "$K/boot/vmlinuz-$KVER" -initrd "$B/initrd-${INITRD:-full}.img" \
		-append "console=ttyS0 panic=0 no_timer_check $append" \
		-serial "file:$D/console.log" -qmp "unix:$D/qmp.sock,server=on,wait=off" \
		-drive "file=$D/disk.img,if=virtio,format=raw,cache=unsafe" "$@" 2> "$D/qemu.err" 9>&- &
	QPID=$!
	say "$S: booting"
	step "$S: boot to LAB-READY" wait_for "$D/console.log" 'LAB-READY' "${BOOT_LIMIT:-100}" || return
	qmp kvm > "$D/accel" 2>/dev/null || true
}

fetch_disk() { # what the guest left on its disk
	local d
	for d in oracle out; do
		mkdir -p "$D/x"
		debugfs -R "rdump /$d $D/x" "$D/disk.img" > /dev/null 2>&1 || true
		[ -d "$D/x/$d" ] || continue
		if [ "$d" = out ]; then mv "$D/x/out/"* "$D/" 2>/dev/null || true; else rm -rf "$D/oracle"; mv "$D/x/oracle" "$D/oracle"; fi
	done
	rm -rf "$D/x" "$D/disk.img"
	holes "$D/vmcore.elf"
}

holes() { # holes FILE...: its zeros take no place on the disk
	local f
	for f in "$@"; do [ ! -e "$f" ] || fallocate --dig-holes "$f" 2> /dev/null || true; done
}

live_dumps() { # live_dumps NAME...: dump-guest-memory of a stopped guest
	local k formats
	qmp stop || return
	formats=$(qmp formats) || return
	qmp hmp "info registers -a" > "$D/oracle-registers.txt" || return
	qmp hmp "info cpus" > "$D/oracle-cpus.txt" || return
	for k in "$@"; do
		case $k in
		elf) step "$S: dump elf" qmp dump elf "$D/qemu.elf" || return;;
		paging) step "$S: dump elf -p" qmp dump elf "$D/qemu-paging.elf" paging || return;;
		migrate)
			qmp hmp "migrate_set_parameter max-bandwidth 10G" || return
			step "$S: migrate" qmp hmp "migrate exec:cat>$D/qemu.mig" || return;;
		zlib|lzo|snappy)
			if ! grep -qx "kdump-$k" <<< "$formats"; then say "this QEMU cannot write kdump-$k"; continue; fi
			step "$S: dump kdump-$k (flattened)" qmp dump "kdump-$k" "$D/qemu-$k.flat" || return
			"${MDF[@]}" -R "$D/qemu-$k.kdump" < "$D/qemu-$k.flat" > "$D/mdf-R-$k.log" 2>&1 || say "makedumpfile -R failed"
			;;
		esac
	done
	chmod u+w "$D"/qemu*
	holes "$D"/qemu*.elf
}

makedumpfile_to() { # makedumpfile_to FILE OPTIONS...
	local to=$1
	shift
	"${MDF[@]}" "$@" "$D/vmcore.elf" "$to" > "$to.log" 2>&1
}

convert() { # convert NAME OPTIONS...: makedumpfile on the host, from the saved ELF
	local name=$1
	shift
	[ ! -e "$D/$name" ] || return 0
	if ! step "$S: makedumpfile $* -> $name" makedumpfile_to "$D/$name" "$@"; then
		say "makedumpfile $* failed: $(tail -1 "$D/$name.log")"
		rm -f "$D/$name"
	fi
}

flatten() { # flatten NAME OPTIONS...: the same, written to a pipe
	local name=$1
	shift
	[ ! -e "$D/$name" ] || return 0
	if ! "${MDF[@]}" -F "$@" "$D/vmcore.elf" > "$D/$name" 2> "$D/$name.log"; then
		say "makedumpfile -F $* failed: $(tail -1 "$D/$name.log")"
		rm -f "$D/$name"
	fi
}

split_in_three() { # split_in_three OPTIONS...; by its own measure, 1 GB, the first piece would get all
	[ ! -e "$D/split.3" ] || return 0
	if ! "${MDF[@]}" --split --splitblock-size 1024 "$@" "$D/vmcore.elf" "$D"/split.{1,2,3} > "$D/split.log" 2>&1; then
		say "makedumpfile --split failed: $(tail -1 "$D/split.log")"
		rm -f "$D"/split.[123]
	fi
}
