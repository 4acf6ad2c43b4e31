# shellcheck shell=bash disable=SC2034 # part of make-vmcores: variables are used by the others
# What the host needs: packages, QEMU, makedumpfile, crash, drgn.

quietly() { "$@" >> "$OUT/apt.log" 2>&1; }
apt_get() { apt-get -q -o DPkg::Lock::Timeout=600 -o APT::Sandbox::User=root "$@"; }

APT_FRESH=
apt_update() { # once a run
	[ -z "$APT_FRESH" ] || return 0
	APT_FRESH=1
	[ "$(id -u)" = 0 ] || return 0
	quietly apt_get update || say "apt-get update failed (see $OUT/apt.log); going on"
}

# the packages that are missing, by a file or program of each
missing_packages() {
	local p c
	while read -r p c; do
		[ -n "$p" ] || continue
		case $c in
		/*) [ -e "$c" ] || echo "$p";;
		*) command -v "$c" > /dev/null || echo "$p";;
		esac
	done <<-X
		busybox-static busybox
		kexec-tools kexec
		makedumpfile makedumpfile
		cpio cpio
		zstd zstd
		xz-utils xz
		kmod depmod
		e2fsprogs debugfs
		gcc gcc
		libc6-dev /usr/include/stdio.h
		make make
		gdb gdb
		binutils objcopy
		python3 /usr/bin/python3
		python3-venv /usr/share/doc/python3-venv
		procps pgrep
	X
	if [ "$ORACLES" = all ]; then
		command -v crash > /dev/null || echo crash
		[ -x /usr/bin/time ] || echo time
	fi
	case " $SCENARIOS " in *" user "*) [ -e /usr/include/python3 ] || command -v python3-config > /dev/null || echo python3-dev;; esac
}

host_packages() {
	local missing
	command -v apt-get > /dev/null || die "this needs Debian's apt-get: the guests run Debian's kernel packages"
	# shellcheck disable=SC2046
	missing=$(echo $(missing_packages))
	if [ -n "$missing" ]; then
		[ "$(id -u)" = 0 ] || die "packages are missing; as root: apt-get install $missing"
		say "installing $missing"
		apt_update
		# shellcheck disable=SC2086
		quietly apt_get install -y --no-install-recommends --no-remove $missing || die "apt-get install; see $OUT/apt.log"
	fi
	if ! command -v qemu-system-x86_64 > /dev/null && [ ! -x "$OUT/tools/qemu/usr/bin/qemu-system-x86_64" ]; then
		[ "$(id -u)" = 0 ] || die "QEMU is missing; as root: apt-get install qemu-system-x86"
		say "installing qemu-system-x86"
		apt_update
		quietly apt_get install -y --no-install-recommends --no-remove qemu-system-x86 || qemu_beside
	fi
}

# something installed here stands in the way of qemu-system-x86 (a newer
# qemu-utils, say): unpack QEMU beside it, with only its libraries installed
qemu_beside() {
	local pk ex= keep= p
	say "qemu-system-x86 cannot be installed here; unpacking it into tools/qemu"
	pk=$(apt_get install -s --no-install-recommends qemu-system-x86 2>/dev/null | awk '/^Inst/{print $2}')
	for p in $pk; do
		case $p in qemu-*) ex="$ex $p";; *) keep="$keep $p";; esac
	done
	# shellcheck disable=SC2086
	[ -z "$keep" ] || quietly apt_get install -y --no-install-recommends --no-remove $keep || die "QEMU's libraries; see $OUT/apt.log"
	mkdir -p "$OUT/debs/qemu" "$OUT/tools/qemu"
	[ -n "$ex" ] || ex="qemu-system-x86 qemu-system-common qemu-system-data"
	# shellcheck disable=SC2086
	(cd "$OUT/debs/qemu" && quietly apt_get download $ex)
	for p in "$OUT"/debs/qemu/*.deb; do dpkg -x "$p" "$OUT/tools/qemu"; done
}

find_qemu() {
	mkdir -p "$OUT/tools"
	QEMU=(qemu-system-x86_64)
	if ! command -v qemu-system-x86_64 > /dev/null; then
		local q=$OUT/tools/qemu/usr
		export QEMU_MODULE_DIR=$q/lib/x86_64-linux-gnu/qemu
		QEMU=("$q/bin/qemu-system-x86_64" -L "$q/share/qemu" -L /usr/share/seabios -L /usr/lib/ipxe/qemu)
	fi
	"${QEMU[@]}" --version | head -1 > "$OUT/tools/versions" || die "QEMU does not start"
	# KVM without EPT or NPT (some nested hosts) boots nothing: it falls to emulating
	# instructions it cannot emulate (cmpxchg16b), or crawls
	if [ "$ACCEL" = auto ]; then
		ACCEL=tcg
		if (: <> /dev/kvm) 2>/dev/null && grep -qsE '^[Y1]' /sys/module/kvm_intel/parameters/ept /sys/module/kvm_amd/parameters/npt; then
			ACCEL=kvm
		fi
	fi
	case $ACCEL in
	kvm) QACCEL=(-accel kvm -accel tcg); CPUMODEL=max;;
	*) QACCEL=(-accel tcg); CPUMODEL=max,-la57;;
	esac
	say "QEMU: ${QEMU[0]##*/} ${QACCEL[*]} -cpu $CPUMODEL"
}

# The next Debian release's crash and makedumpfile, with their own libraries:
# bookworm's crash 8.0.2 predates kernel 6.12, and its makedumpfile has no zstd.
# The guests run this makedumpfile too.
next_tools() {
	local n=$OUT/tools/next f suite next=trixie
	[ -e "$n/.done" ] && return
	suite=$(. /etc/os-release; echo "${VERSION_CODENAME:-}")
	[ "$suite" = bookworm ] || return 0
	mkdir -p "$n/apt/parts" "$n/apt/lists" "$n/apt/cache/archives/partial" "$n/debs"
	for f in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
		[ -e "$f" ] || continue
		sed "s/$suite-updates//; s/$suite/$next/g" "$f" > "$n/apt/parts/$(basename "$f")"
		case $f in *.list) mv "$n/apt/parts/$(basename "$f")" "$n/apt/parts/main.list";; esac
	done
	local o=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$n/apt/parts" -o "Dir::State::lists=$n/apt/lists" -o "Dir::Cache=$n/apt/cache")
	quietly apt_get "${o[@]}" update || { say "no $next lists: no tools/next"; return 0; }
	(cd "$n/debs" && quietly apt_get "${o[@]}" download crash makedumpfile libc6 libgcc-s1 libstdc++6 libdw1t64 \
		libelf1t64 liblzo2-2 libzstd1 libsnappy1v5 libncursesw6 libtinfo6 zlib1g liblzma5 libbz2-1.0) \
		|| { say "$next packages not there: no tools/next"; return 0; }
	for f in "$n"/debs/*.deb; do dpkg -x "$f" "$n"; done
	touch "$n/.done"
}

makedumpfile_build() {
	local d=$OUT/tools/makedumpfile-src t
	[ -n "${MAKEDUMPFILE_SRC:-}" ] || return 0
	[ -x "$d/makedumpfile" ] && return
	quietly apt_get install -y --no-install-recommends --no-remove libdw-dev libelf-dev zlib1g-dev liblzma-dev libbz2-dev \
		liblzo2-dev libsnappy-dev libzstd-dev || die "makedumpfile's build packages"
	mkdir -p "$d"
	if git -C "$MAKEDUMPFILE_SRC" rev-parse HEAD > /dev/null 2>&1; then
		t=$(git -C "$MAKEDUMPFILE_SRC" tag | grep -E '^1\.[0-9]+\.[0-9]+$' | sort -V | tail -1)
		git -C "$MAKEDUMPFILE_SRC" archive "${t:-HEAD}" | tar x -C "$d"
	else
		cp -r "$MAKEDUMPFILE_SRC"/. "$d"
	fi
	make -C "$d" LINKTYPE=dynamic USELZO=on USESNAPPY=on USEZSTD=on > "$d/build.log" 2>&1 || die "makedumpfile build; see $d/build.log"
}

tool_paths() {
	local n=$OUT/tools/next ld
	MDF=(makedumpfile); MDF_LD=; MDF_LIBS=
	CRASH=(crash)
	if [ -e "$n/.done" ]; then
		ld=$(find "$n/usr" -name ld-linux-x86-64.so.2 | head -1)
		CRASH=("$ld" --library-path "$n/usr/lib/x86_64-linux-gnu" "$n/usr/bin/crash")
		MDF=("$ld" --library-path "$n/usr/lib/x86_64-linux-gnu" "$n/usr/bin/makedumpfile")
		MDF_LD=$ld; MDF_LIBS=$n/usr/lib/x86_64-linux-gnu
	fi
	if [ -x "$OUT/tools/makedumpfile-src/makedumpfile" ]; then
		MDF=("$OUT/tools/makedumpfile-src/makedumpfile"); MDF_LD=
	fi
	"${MDF[@]}" -v | grep -q '^zstd.*enabled' || die "this makedumpfile has no zstd: ${MDF[*]}"
	{ "${CRASH[@]}" --version 2>/dev/null | grep -m1 '^crash' || true; "${MDF[@]}" -v | head -4; } >> "$OUT/tools/versions"
}

drgn_venv() {
	[ -x "$OUT/venv/bin/drgn" ] && return
	/usr/bin/python3 -m venv "$OUT/venv" || die "python3 -m venv"
	quietly "$OUT/venv/bin/pip" -q install "drgn==$DRGN" && return
	say "pip cannot install drgn $DRGN (see $OUT/apt.log): no oracles"
	ORACLES=none
}
