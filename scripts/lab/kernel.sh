# shellcheck shell=bash disable=SC2034 # part of make-vmcores: variables are used by the others
# The kernel packages, the module that crashes, and the guests' initrds.

HOOK=$HERE/../../packaging/corestub-kdump # what kdump's scripts run
DISK_MODULES=(virtio_pci virtio_blk ext4 crc32c_generic) # cloud kernels have ext4 built in
CI_MODULES=(qemu_fw_cfg loop dummy lzo_rle zram overlay)
LAB_MODULES=("${CI_MODULES[@]}" xfs fuse nf_tables)
# The first that Debian's suite has is used: bookworm has 6.1 (6.12 in its backports), trixie
# 6.12, bullseye 5.10; the last pattern is the newest of what there is. Before a slash stands
# another suite than the host's.
KERNELS=${KERNEL_PKG:-linux-image-6.1.0-*-cloud-amd64 linux-image-6.12*-cloud-amd64 linux-image-5.10.*-cloud-amd64 linux-image-[1-9]*-cloud-amd64}

unpacked_kernel() { # unpacked_kernel [SUITE/]PATTERN: one that was unpacked before
	local d from=${1%"${1##*/}"}
	for d in $(find "$OUT" -maxdepth 1 -name "root-${1#*linux-image-}" | sort -rV); do
		[ -e "$d/.done" ] || { [ "$DEBUG" = no ] && [ -e "$d/.image" ]; } || continue
		[ "$(cat "$d/.suite" 2> /dev/null || true)" = "${from%/}" ] || continue
		echo "${from}linux-image-${d#"$OUT"/root-}"
		return
	done
}

offered_kernel() { # offered_kernel [SUITE/]PATTERN: the newest package of that name; of the host's suite one that has a -dbg package too
	local name=${1##*/} from=${1%"${1##*/}"} re p
	re=^${name//./\\.}\$
	re=${re//+/\\+}; re=${re//\*/.*}
	[ -z "$from" ] || suite_lists "${from%/}"
	for p in $(apt-cache "${APT_FROM[@]}" search --names-only "$re" | awk '$1 ~ /^linux-image-[0-9]+\.[0-9]+\.[0-9]/ && $1 !~ /-(dbg|unsigned)$/ { print $1 }' | sort -rV); do
		if { [ -z "$from" ] || [ "$DEBUG" = yes ]; } && ! apt-cache "${APT_FROM[@]}" show "$p-dbg" > /dev/null 2>&1; then continue; fi
		echo "$from$p"
		return
	done
}

each_kernel() { # each_kernel HOW...: the first answer to each pattern, by one of these functions
	local w how found
	set -f
	for w in $KERNELS; do
		set +f
		for how in "$@"; do
			found=$("$how" "$w")
			[ -z "$found" ] || { echo "$found"; break; }
		done
	done
	set +f
}

pick_kernel() { # pick_kernel HOW: sets PKG, KVER and FROM, the suite if it is not the host's
	PKG=$(each_kernel "$1" | awk 'NR == 1')
	FROM=${PKG%"${PKG##*/}"}
	FROM=${FROM%/}
	PKG=${PKG##*/}
	KVER=${PKG#linux-image-}
	[ -n "$PKG" ]
}

list_kernels() { # what is there already needs no mirror
	[ -n "$(each_kernel unpacked_kernel)" ] || apt_update
	each_kernel unpacked_kernel offered_kernel | awk '!seen[$0]++'
}

# Of the packages only what the lab uses is kept: vmlinuz, the modules that guests load,
# the headers, and (for oracles and tests, not for scripts/demo) vmlinux with debug info.
fetch_kernel() {
	[ ! -e "$K/.done" ] || return 0
	[ -z "$FROM" ] || suite_lists "$FROM"
	[ -e "$K/.image" ] || fetch_image
	[ "$DEBUG" = yes ] || return 0
	fetch_debug
	touch "$K/.done"
}

download() { # download WHAT PACKAGE...: into DEBS
	say "downloading $1"
	shift
	rm -rf "$DEBS"
	mkdir -p "$DEBS"
	cd "$DEBS"
	growing . logged apt_get "${APT_FROM[@]}" download "$@" || die "the mirror does not give $*; see $APT_LOG (apt-get update, as root, renews the lists)"
	cd "$OUT"
}

depends() { # depends PACKAGE: the names of the packages that it needs
	apt-cache "${APT_FROM[@]}" depends "$1" | sed -n 's/.*Depends: \([^<]*\)$/\1/p'
}

fetch_image() {
	local parts f keep
	apt-cache "${APT_FROM[@]}" show "linux-headers-$KVER" > /dev/null 2>&1 || die "the mirror has no linux-headers-$KVER, with which a module could be built"
	# since 7.0 the image's package is empty and needs three others
	parts=$({ depends "$PKG"; depends "linux-headers-$KVER"; } | grep -E "^linux-((binary|modules|base)-${KVER//+/\\+}\$|headers-.*-common|kbuild-)" | sort -u)
	rm -rf "${K:?}"
	mkdir -p "$K"
	# shellcheck disable=SC2086 # one package a word
	download "the kernel $KVER and its headers (40 to 50 MB)" "$PKG" "linux-headers-$KVER" $parts
	say "unpacking it"
	for f in "$DEBS"/*.deb; do dpkg -x "$f" "$K"; done
	# scripts/lab/lx-scripts takes the sources of the same version
	dpkg-deb -f "$(echo "$DEBS"/linux-image-*.deb)" Version > "$K/.version"
	[ -z "$FROM" ] || echo "$FROM" > "$K/.suite"
	rm -r "$DEBS"
	find "$K/lib/modules" "$K/usr/lib/modules" -name '*.ko.xz' -exec xz -d {} + 2> /dev/null || true
	[ -e "$K/lib/modules/$KVER" ] || { mkdir -p "$K/lib"; ln -sfn ../usr/lib/modules "$K/lib/modules"; }
	mkdir -p "$K/boot"
	for f in vmlinuz config; do [ -e "$K/boot/$f-$KVER" ] || mv "$K/lib/modules/$KVER/$f" "$K/boot/$f-$KVER"; done
	depmod -b "$K" "$KVER"
	keep=$(module_files "${DISK_MODULES[@]}" "${LAB_MODULES[@]}")
	[ -n "$keep" ] || die "modprobe finds none of ${LAB_MODULES[*]} in $K"
	find "$K/lib/modules/" -name '*.ko' | grep -vxF "$keep" | xargs -d '\n' rm
	find "$K/usr/src"/linux-headers-*-common/arch -mindepth 1 -maxdepth 1 -type d ! -name x86 -exec rm -r {} +
	# the headers' Makefile names its own absolute place
	sed -i "s#^include /usr/src/#include $K/usr/src/#; s#^\(.*[ =:]\)/usr/src/#\1$K/usr/src/#" "$K/usr/src/linux-headers-$KVER/Makefile"
	for f in "$K"/usr/lib/linux-kbuild-*; do kbuild_here "$f"; done
	touch "$K/.image"
}

# Programs of a later Debian's kbuild run with that Debian's libraries.
kbuild_here() { # kbuild_here FOLDER
	local f
	find "$1" -type f -perm -1 | while read -r f; do
		if [ -z "$MDF_LD" ] || ! { ldd "$f" 2>&1 || true; } | grep -q 'not found'; then continue; fi
		mv "$f" "$f.elf"
		printf '#!/bin/sh\nexec %s --library-path %s %s.elf "$@"\n' "$MDF_LD" "$MDF_LIBS" "$f" > "$f"
		chmod 755 "$f"
	done
}

fetch_debug() { # of 4 GB of debug info, that of vmlinux and of the modules that guests load
	local f want=("./usr/lib/debug/boot/vmlinux-$KVER")
	download "its debug info (280 to 320 MB)" "$PKG-dbg=$(cat "$K/.version")"
	say "unpacking vmlinux (300 to 600 MB)"
	# since 7.0 vmlinux lies with the modules, and boot/ has a link to it
	[ ! -L "$K/lib/modules" ] || want+=("./usr/lib/debug/lib/modules/$KVER/vmlinux")
	for f in $(module_files "${DISK_MODULES[@]}" "${LAB_MODULES[@]}"); do want+=("./usr/lib/debug${f#"$K"}"); done
	# tar stops at the last of them, and dpkg-deb complains of a broken pipe
	{ dpkg-deb --fsys-tarfile "$DEBS"/*.deb 2> /dev/null || true; } | tar x -C "$K" --occurrence=1 "${want[@]}" || die "$PKG-dbg lacks ${want[*]}, or the disk is full"
	rm -r "$DEBS"
}

build_module() {
	local options=(CC=gcc CONFIG_DEBUG_INFO_BTF_MODULES=)
	if [ -e "$B/labcrash.ko" ]; then
		! cmp -s "$HERE/guest/labcrash.c" "$B/mod/labcrash.c" || return 0
		rm -f "$B"/initrd-*.img "$OUT/$KVER"/*/.done # they have another build's
	fi
	mkdir -p "$B/mod"
	cp "$HERE/guest/labcrash.c" "$B/mod/"
	echo 'obj-m := labcrash.o' > "$B/mod/Makefile"
	# the host's compiler, though the kernel's was another one, with other options
	gcc -fmin-function-alignment=16 -E - < /dev/null > /dev/null 2>&1 || options+=(CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT=)
	make -C "$K/usr/src/linux-headers-$KVER" M="$B/mod" "${options[@]}" \
		KCFLAGS="-ffile-prefix-map=$B/mod=/labcrash -ffile-prefix-map=$K=" modules > "$B/mod/build.log" 2>&1 || die "the module does not build; see $B/mod/build.log"
	mkdir -p "$B/debug"
	cp "$B/mod/labcrash.ko" "$B/debug/labcrash.ko"
	objcopy --strip-debug "$B/mod/labcrash.ko" "$B/labcrash.ko"
}

copy_bin() { # copy_bin ROOT PROGRAM [NAME]: a program and its libraries
	local root=$1 p=$2 l to g=$OUT/tools/guest
	mkdir -p "$root/usr/bin"
	cp "$p" "$root/usr/bin/${3:-$(basename "$p")}"
	{ LD_LIBRARY_PATH=$g/lib/x86_64-linux-gnu:$g/usr/lib/x86_64-linux-gnu ldd "$p" 2> /dev/null || true; } |
		{ grep -oE '/[^ ]+' || true; } | while read -r l; do # none, of a static one
		to=$root${l#"$g"}
		mkdir -p "$(dirname "$to")"
		[ -e "$to" ] || cp -L "$l" "$to"
	done
}

module_files() { # module_files MODULE...: their files with what they depend on, in load order
	local m
	for m in "$@"; do
		{ modprobe -d "$K" -S "$KVER" --show-depends "$m" 2>/dev/null || true; } | awk '$1=="insmod"{print $2}'
	done | awk '!s[$0]++'
}

module_list() { # module_list ROOT LIST MODULE...: copy them, write the order
	local root=$1 list=$2 ko
	shift 2
	mkdir -p "$root/modules"
	module_files "$@" | while read -r ko; do
		cp -L "$ko" "$root/modules/"
		echo "modules/$(basename "$ko")"
	done > "$list"
}

guest_makedumpfile() { # guest_makedumpfile ROOT: with the libraries it is to run with
	local r=$1 l
	if [ -z "$MDF_LD" ]; then copy_bin "$r" "${MDF[0]}" makedumpfile; return; fi
	mkdir -p "$r/next" "$r/usr/bin"
	cp -L "$MDF_LD" "$r/next/ld.so"
	cp "${MDF[-1]}" "$r/next/"
	"${MDF[@]:0:3}" --list "${MDF[-1]}" | grep -oE "$MDF_LIBS/[^ ]+" | while read -r l; do cp -L "$l" "$r/next/"; done
	printf '#!/bin/sh\nexec /next/ld.so --library-path /next /next/makedumpfile "$@"\n' > "$r/usr/bin/makedumpfile"
	chmod 755 "$r/usr/bin/makedumpfile"
}

crash_initrd() { # the crash kernel's: with a corestub that reports there, where CORESTUB names one
	if [ -n "${CORESTUB:-}" ]; then echo report; else echo kdump; fi
}

guest_corestub() { # guest_corestub ROOT
	strip -o "$B/corestub" "$CORESTUB"
	copy_bin "$1" "$B/corestub"
}

build_initrd() { # build_initrd full|ci|ci-live|kdump|report: -live has a corestub that reads /proc/kcore
	local r=$B/root-$1 image=$B/initrd-$1.img from
	for from in "$HERE"/guest/* "$HOOK" ${CORESTUB:+"$CORESTUB"}; do
		[ "$image" -nt "$from" ] || break
		from=
	done
	[ -n "$from" ] || return 0
	rm -rf "$r"
	mkdir -p "$r/bin" "$r/etc"
	cp "$(guest_tool busybox)" "$r/bin/busybox"
	! ldd "$r/bin/busybox" > /dev/null 2>&1 || die "$(guest_tool busybox) is not static, as it must be in the guests"
	ln -s busybox "$r/bin/sh"
	install -m 755 "$HERE/guest/init" "$r/init"
	module_list "$r" "$r/etc/modules.disk" "${DISK_MODULES[@]}"
	case $1 in
	kdump | report)
		guest_makedumpfile "$r"
		gcc -O1 -Wall -o "$B/vmcopy" "$HERE/guest/vmcopy.c"
		copy_bin "$r" "$B/vmcopy"
		if [ "$1" = report ]; then
			guest_corestub "$r"
			cp "$HOOK" "$r/usr/bin/"
		fi
		;;
	*)
		case $1 in
		full) module_list "$r" "$r/etc/modules.lab" "${LAB_MODULES[@]}" ;;
		*) module_list "$r" "$r/etc/modules.lab" "${CI_MODULES[@]}" ;;
		esac
		cp "$B/labcrash.ko" "$r/modules/"
		echo modules/labcrash.ko >> "$r/etc/modules.lab"
		copy_bin "$r" "$(guest_tool kexec)"
		gcc -g -O1 -pthread -Wall -o "$B/mtprog" "$HERE/guest/mtprog.c"
		copy_bin "$r" "$B/mtprog"
		gcc -O1 -Wall -o "$B/labipc" "$HERE/guest/labipc.c"
		copy_bin "$r" "$B/labipc"
		[ "$1" != ci-live ] || guest_corestub "$r"
		;;
	esac
	(cd "$r" && find . | cpio -o -H newc --quiet | zstd -q -10 -T0 > "$B/.initrd")
	mv "$B/.initrd" "$B/initrd-$1.img"
	rm -r "$r"
}
