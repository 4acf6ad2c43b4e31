#!/usr/bin/env bash
# tests/scripts.sh: whatever goes wrong, each script ends with a sentence.
#
# Runs them with programs that are missing or fail, and looks at their last words.
# shellcheck disable=SC2016 # what is for the scripts that stand in is in single quotes
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/common.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
unset CORESTUB_LAB CI
passed=0

machine() { # machine [NAME=SCRIPT...]: a folder of programs, as PATH; a script stands in for what it names
	rm -rf "${dir:?}"/{bin,cache,home}
	mkdir -p "$dir"/{bin,cache,home}
	local p
	for p in awk basename bash cat chmod cp cut date dd depmod df dirname dpkg dpkg-deb du env false find flock grep head id kill \
		ln ls make mkdir mktemp modprobe mv nproc python3 readlink rm sed seq sh sleep sort tail tar tee timeout touch tr true uname uniq wc xargs xz; do
		ln -sf "$(PATH=$PATH:/usr/sbin:/sbin command -v "$p" || echo /bin/false)" "$dir/bin/$p"
	done
	for p in bzip2 cc cargo cgdb cpio debugfs emacs g++ gcc gdb git lldb-14 lz4 musl-gcc node npm nvim objcopy objdump shellcheck tmux \
		zstd crash; do printf '#!/bin/sh\nexit 0\n' > "$dir/bin/$p"; done
	for p in "$@"; do
		rm -f "$dir/bin/${p%%=*}"
		[ "${p#*=}" = absent ] || printf '#!/bin/sh\n%s\n' "${p#*=}" > "$dir/bin/${p%%=*}"
	done
	chmod 755 "$dir"/bin/* 2> /dev/null || true
}

ends() { # ends SENTENCE COMMAND...: with a status that is not 0, and that sentence as its error
	local want=$1 status=0
	shift
	env -i PATH="$dir/bin" HOME="$dir/home" XDG_CACHE_HOME="$dir/cache" TMPDIR="$dir" "$@" > "$dir/out" 2>&1 < /dev/null || status=$?
	if [ $status = 0 ] || [ $status = "$TOLD" ] || [ "$(grep -c '^error: ' "$dir/out")" -lt 1 ] || ! grep '^error: ' "$dir/out" | grep -qE "$want"; then
		cat "$dir/out"
		die "\`$*\` should end with the sentence /$want/; it ended with status $status and the words above"
	fi
	passed=$((passed + 1))
	[ -z "${VERBOSE:-}" ] || { echo "$SECONDS $*"; grep ^error "$dir/out"; }
}

machine cargo=absent
for script in scripts/demo scripts/test scripts/package; do ends '^error: cargo is missing; .*rustup' $script; done

machine gdb=absent apt-get='exit 0' 'id=echo 1000'
for script in scripts/demo scripts/test; do ends '^error: missing: .*gdb.*; only root can install .*: apt-get install' $script; done
machine tmux=absent apt-get='exit 0' 'id=echo 1000'
ends '^error: missing: tmux; only root' scripts/lab/frontends

machine gdb=absent 'apt-get=echo E: no such package >&2; exit 100' 'id=echo 0'
ends '^error: apt-get cannot install gdb: E: no such package' scripts/demo "$0"
machine gdb=absent
ends '^error: missing: gdb .*no apt-get' scripts/demo "$0"

# a command that nobody guards: the trap names it
machine 'cargo=echo no space left >&2; exit 101'
ends '^error: demo: while building corestub.*, `cargo build --release --locked` failed with status 101 \(demo, line [0-9]+\)' scripts/demo "$0"
ends '^error: test: while build, `cargo build --all-targets --locked` failed with status 101 \(test, line' scripts/test quick
machine 'mktemp=echo mktemp: full >&2; exit 1'
ends '^error: demo: while corestub serve' scripts/demo "$0"
ends 'cannot read /nonexistent' scripts/demo /nonexistent

# packages
machine 'id=echo 1000'
ends '^error: check needs root' scripts/package deb check
ends '^error: drum is none of crate, tar, deb' scripts/package drum
machine git=absent apt-get='exit 0' 'id=echo 1000'
ends '^error: missing: git; only root' scripts/package deb

# a cache that cannot be, or is too small
machine
echo a file > "$dir/file"
for script in scripts/demo scripts/test scripts/lab/make-vmcores scripts/lab/frontends; do ends '^error: the folder .*/file/corestub cannot be made' env XDG_CACHE_HOME="$dir/file" $script; done
machine 'df=echo; echo / 1 1 12 1 /'
ends 'has 12 MB free, .* XDG_CACHE_HOME' scripts/demo

# the lab: no mirror, no package, a kernel that is not there
machine apt-get=absent
ends "^error: this needs Debian's apt-get" scripts/lab/make-vmcores
machine 'apt-get=exit 100' 'apt-cache=exit 0' 'qemu-system-x86_64=exit 1' 'id=echo 0'
ends '^error: QEMU does not start' scripts/lab/make-vmcores demo
machine 'apt-get=exit 100' 'apt-cache=exit 0' 'qemu-system-x86_64=exit 0' 'id=echo 0'
ends '^error: ' scripts/lab/make-vmcores demo
ends '^error: no vmcore was made' scripts/demo
machine 'apt-get=exit 100' 'qemu-system-x86_64=exit 0' makedumpfile='exit 0' busybox='exit 0' kexec='exit 0' \
	'apt-cache=case $1 in search) echo linux-image-6.1.0-1-cloud-amd64 - Linux;; depends) echo "  Depends: linux-kbuild-6.1";; esac' 'id=echo 0'
ends '^error: the mirror does not give linux-image-6.1.0-1-cloud-amd64' scripts/lab/make-vmcores demo
ends '^error: apt knows no mirror of' env KERNEL_PKG='bullseye/linux-image-5.10.*' scripts/lab/make-vmcores demo
mkdir -p "$dir/cache/corestub/lab/root-6.1.0-1/usr/src/linux-headers-6.1.0-1" "$dir/cache/corestub/lab/root-6.1.0-1/usr/src/linux-headers-6.1-common"
ends '^error: lx-scripts: while the sources of 6.1.0-1' scripts/lab/lx-scripts
machine 'npm=exit 1' 'python3=exit 0'
mkdir -p "$dir/cache/corestub/frontends/venv/bin"
printf '#!/bin/sh\n' > "$dir/cache/corestub/frontends/venv/bin/python"
chmod 755 "$dir/cache/corestub/frontends/venv/bin/python"
ends '^error: frontends: while installing cdt-gdb-adapter, .*npm' scripts/lab/frontends

machine 'corestub=echo no memory >&2; exit 1'
dump=tests/fixtures/k6.1-zstd.kdump
ends '^error: damage: /nonexistent cannot be read: ' scripts/lab/damage -p "$dir/bin/corestub" /nonexistent
ends '^error: damage: README.md is no kdump-compressed or ELF vmcore' scripts/lab/damage -p "$dir/bin/corestub" README.md
ends '^error: damage: the program cannot be started: ' scripts/lab/damage -p "$dir/bin/absent" $dump
ends "^error: damage: .sys. of $dump fails: no memory" scripts/lab/damage -p "$dir/bin/corestub" $dump
printf '#!/bin/sh\necho %s\n' "'{\"incomplete\": \"it was cut short\"}'" > "$dir/bin/corestub"
ends "^error: damage: $dump is not sound: it was cut short" scripts/lab/damage -p "$dir/bin/corestub" $dump

machine
ends '^error: ' scripts/bench /nonexistent
printf '%d provoked failures, each ended with a sentence\n' $passed
