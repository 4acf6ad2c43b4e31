# shellcheck shell=bash disable=SC2034 # part of make-vmcores: variables are used by the others
# What the host needs: packages, QEMU, makedumpfile, crash, drgn.

host_packages() {
	command -v apt-get > /dev/null || die "this needs Debian's apt-get: the guests run Debian's kernel packages"
	local needs=("${LAB_NEEDS[@]}")
	[ "$ORACLES" = none ] || needs+=(python3-venv=/usr/share/doc/python3-venv)
	[ "$ORACLES" != all ] || [ "$SUITE" = bookworm ] || needs+=(crash=crash)
	case " $SCENARIOS " in *" user "*) needs+=(gdb=gdb procps=pgrep python3-dev=python3-config) ;; esac
	need "${needs[@]}"
	if ! there qemu-system-x86_64 && [ ! -x "$OUT/tools/qemu/usr/bin/qemu-system-x86_64" ]; then
		[ "$(id -u)" = 0 ] || die "QEMU is missing; only root can install it: apt-get install --no-install-recommends qemu-system-x86"
		install_packages qemu-system-x86 || qemu_beside
	fi
}

# something installed here stands in the way of qemu-system-x86 (a newer
# qemu-utils, say): unpack QEMU beside it, with only its libraries installed
qemu_beside() {
	local pk ex='' keep='' p
	say "qemu-system-x86 cannot be installed here; unpacking it into tools/qemu"
	pk=$(apt_get install -s --no-install-recommends qemu-system-x86 2> /dev/null | awk '/^Inst/{print $2}' || true)
	for p in $pk; do
		case $p in qemu-*) ex="$ex $p" ;; *) keep="$keep $p" ;; esac
	done
	# shellcheck disable=SC2086
	[ -z "$keep" ] || install_packages $keep || die "QEMU's libraries cannot be installed; see $APT_LOG"
	[ -n "$ex" ] || ex="qemu-system-x86 qemu-system-common qemu-system-data"
	# shellcheck disable=SC2086
	unpack_packages "$OUT/tools/qemu" $ex
}

unpack_packages() { # unpack_packages FOLDER PACKAGE...: into the folder, without installing them
	local to=$1 debs
	shift
	debs=$(mktemp -d "$OUT/debs.XXXXXX")
	(cd "$debs" && logged apt_get "${APT_FROM[@]}" download "$@")
	mkdir -p "$to"
	for p in "$debs"/*.deb; do dpkg -x "$p" "$to"; done
	rm -r "$debs"
}

# Packages of other suites than the host's are found by lists of their own: the host's stay as they are.
APT_FROM=() # options of apt for such lists
suite_lists() { # suite_lists SUITE: sets APT_FROM; of security archives the suite is called NAME-security
	local n=$OUT/tools/apt-$1 like=$SUITE key=/usr/share/keyrings/debian-archive-keyring.gpg
	APT_FROM=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$n/parts" -o "Dir::State::lists=$n/lists" -o "Dir::Cache=$n/cache" -o Acquire::Languages=none)
	[ -z "$(find "$n/.done" -mmin -600 2> /dev/null)" ] || return 0
	case $1 in *-security) like=$SUITE-security ;; esac
	mkdir -p "$n/parts" "$n/lists" "$n/cache/archives/partial"
	# shellcheck disable=SC2016 # apt's own variables
	apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(CODENAME)' 'Identifier: Packages' |
		awk -v like="$like" -v suite="$1" -v key="$([ ! -e $key ] || echo "[signed-by=$key] ")" \
			'($2 == like || $3 == like) && !n++ { print "deb " key $1, suite, "main" }' > "$n/parts/$1.list"
	[ -s "$n/parts/$1.list" ] || die "apt knows no mirror of $like, where $1 would be too"
	logged apt_get "${APT_FROM[@]}" update || die "the package lists of $1 cannot be had; see $APT_LOG"
	touch "$n/.done"
}

# What runs in the guests is unpacked here and not installed: busybox-static throws out
# busybox, and kexec-tools changes how the host reboots.
guest_tools() {
	local g=$OUT/tools/guest names
	[ ! -e "$g/.done" ] || return 0
	apt_update
	names=$(apt_get install -s --no-install-recommends busybox-static kexec-tools makedumpfile 2> /dev/null |
		awk '/^Inst/ && $2 !~ /perl|gdbm|debconf|^netbase$/ {print $2}' || true)
	# shellcheck disable=SC2086
	[ -z "$names" ] || unpack_packages "$g" $names
	mkdir -p "$g"
	touch "$g/.done"
}
guest_tool() { # guest_tool PROGRAM: where it is
	local dir
	for dir in "$OUT/tools/guest"/{bin,sbin,usr/bin,usr/sbin} ${PATH//:/ }; do
		[ ! -x "$dir/$1" ] || { echo "$dir/$1"; return; }
	done
	die "$1 is missing; delete $OUT/tools/guest, so that it is fetched again"
}

find_qemu() {
	mkdir -p "$OUT/tools"
	QEMU=(qemu-system-x86_64)
	if ! there qemu-system-x86_64; then
		local q=$OUT/tools/qemu/usr
		export QEMU_MODULE_DIR=$q/lib/x86_64-linux-gnu/qemu
		QEMU=("$q/bin/qemu-system-x86_64" -L "$q/share/qemu" -L /usr/share/seabios -L /usr/lib/ipxe/qemu)
	fi
	"${QEMU[@]}" --version > "$OUT/tools/versions" || die "QEMU does not start"
	# KVM without EPT or NPT (some nested hosts) boots nothing: it falls to emulating
	# instructions it cannot emulate (cmpxchg16b), or crawls
	if [ "$ACCEL" = auto ]; then
		ACCEL=tcg
		if (: <> /dev/kvm) 2> /dev/null && grep -qsE '^[Y1]' /sys/module/kvm_intel/parameters/ept /sys/module/kvm_amd/parameters/npt; then
			ACCEL=kvm
		fi
	fi
	case $ACCEL in
	kvm) QACCEL=(-accel kvm -accel tcg); CPUMODEL=max ;;
	*) QACCEL=(-accel tcg); CPUMODEL=max,-la57 ;;
	esac
	say "QEMU: ${QEMU[0]##*/} ${QACCEL[*]} -cpu $CPUMODEL"
}

# The next Debian release's crash and makedumpfile, with their own libraries:
# bookworm's crash 8.0.2 predates kernel 6.12, and its makedumpfile has no zstd.
# The guests run this makedumpfile too.
next_tools() {
	local n=$OUT/tools/next APT_FROM
	[ ! -e "$n/.done" ] || return 0
	[ "$SUITE" = bookworm ] || return 0
	suite_lists trixie
	unpack_packages "$n" crash makedumpfile libc6 libgcc-s1 libstdc++6 libdw1t64 \
		libelf1t64 liblzo2-2 libzstd1 libsnappy1v5 libncursesw6 libtinfo6 zlib1g liblzma5 libbz2-1.0
	touch "$n/.done"
}

makedumpfile_build() {
	local d=$OUT/tools/makedumpfile-src t
	[ -n "${MAKEDUMPFILE_SRC:-}" ] || return 0
	[ ! -x "$d/makedumpfile" ] || return 0
	install_packages libdw-dev libelf-dev zlib1g-dev liblzma-dev libbz2-dev liblzo2-dev libsnappy-dev libzstd-dev || die "makedumpfile's build packages; see $APT_LOG"
	mkdir -p "$d"
	if git -C "$MAKEDUMPFILE_SRC" rev-parse HEAD > /dev/null 2>&1; then
		t=$(git -C "$MAKEDUMPFILE_SRC" tag | grep -E '^1\.[0-9]+\.[0-9]+$' | sort -V | tail -1)
		git -C "$MAKEDUMPFILE_SRC" archive "${t:-HEAD}" | tar x -C "$d"
	else
		cp -r "$MAKEDUMPFILE_SRC"/. "$d"
	fi
	make -C "$d" LINKTYPE=dynamic USELZO=on USESNAPPY=on USEZSTD=on > "$d/build.log" 2>&1 || die "makedumpfile does not build; see $d/build.log"
}

tool_paths() {
	local n=$OUT/tools/next
	MDF=("$(guest_tool makedumpfile)"); MDF_LD=; MDF_LIBS=
	CRASH=(crash)
	if [ -e "$n/.done" ]; then
		MDF_LD=$(find "$n/usr" -name ld-linux-x86-64.so.2 -print -quit)
		MDF_LIBS=$n/usr/lib/x86_64-linux-gnu
		CRASH=("$MDF_LD" --library-path "$MDF_LIBS" "$n/usr/bin/crash")
		MDF=("$MDF_LD" --library-path "$MDF_LIBS" "$n/usr/bin/makedumpfile")
	fi
	if [ -x "$OUT/tools/makedumpfile-src/makedumpfile" ]; then
		MDF=("$OUT/tools/makedumpfile-src/makedumpfile"); MDF_LD=
	fi
}

mdf_has() { # mdf_has COMPRESSION: whether this makedumpfile was built with it
	"${MDF[@]}" -v | grep "^$1.*enabled" > /dev/null
}

drgn_venv() {
	[ ! -x "$OUT/venv/bin/drgn" ] || return 0
	/usr/bin/python3 -m venv "$OUT/venv"
	logged "$OUT/venv/bin/pip" -q install "drgn==$DRGN" || die "pip cannot install drgn $DRGN; see $APT_LOG (ORACLES=none makes the dumps without)"
}
