# shellcheck shell=bash # what every script here begins with: words, times, packages, how to fail
set -eEuo pipefail

ME=${BASH_SOURCE[-1]##*/}
CACHE=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/corestub
export CORESTUB_T0=${CORESTUB_T0:-$(date +%s)} # one clock, also for the scripts that a script runs

say() { # say WORDS: what is done now; a command that fails after it is told with these words
	DOING=$*
	HINT=
	printf '[%4d s] %s\n' $(($(date +%s) - CORESTUB_T0)) "$*"
}
DOING="starting"
RUNNING= # the command, where "$@" would not tell
HINT= # what helps when it fails, or where its output is; `say` empties it

# --- Failing. Whatever ends a script does it with a sentence: `die` with its own, any other
# command by the trap. A subshell that has told it leaves with TOLD, so that it is told once.
TOLD=70
exec {STDERR}>&2 # also where a command's own goes to a file
die() {
	trap - ERR
	printf 'error: %s\n' "$*" >&"$STDERR"
	[ "$BASH_SUBSHELL" = 0 ] || exit $TOLD
	exit 1
}
failed() { # failed STATUS FILE LINE COMMAND
	trap - ERR
	if [ "$1" != $TOLD ]; then
		# shellcheck disable=SC2016
		printf 'error: %s: while %s, `%s` failed with status %d (%s, line %d)\n    %s\n' \
			"$ME" "$DOING" "${RUNNING:-${4%%$'\n'*}}" "$1" "${2##*/}" "$3" \
			"${HINT:-what it printed is above; run again, what is done is kept; \`bash -x $0\` shows each step}" >&"$STDERR"
	fi
	[ "$BASH_SUBSHELL" = 0 ] || exit $TOLD
	exit 1
}
trap 'failed $? "${BASH_SOURCE[0]}" "$LINENO" "$BASH_COMMAND"' ERR
trap 'die "$ME: interrupted while $DOING"' INT TERM

mkdir -p "$CACHE" 2> /dev/null || die "the folder $CACHE cannot be made; XDG_CACHE_HOME=DIR names another place for what the scripts keep"

# --- Progress. awk and grep hold lines back in a pipe, the shell's `read` does not.
counted() { # counted PATTERN WORDS: pass lines on; of those like PATTERN say every five seconds how many
	local line n=0 next=$((SECONDS + 5))
	while IFS= read -r line; do
		if [[ ! $line =~ $1 ]]; then
			printf '%s\n' "$line"
			continue
		fi
		n=$((n + 1))
		[ "$SECONDS" -ge "$next" ] || continue
		printf '    %d %s\n' "$n" "$2"
		next=$((SECONDS + 5))
	done
}
growing() { # growing FOLDER COMMAND...: run it, and say every ten seconds how large FOLDER is
	local dir=$1 pid next=$((SECONDS + 10)) rc=0
	shift
	RUNNING=$*
	"$@" &
	pid=$!
	while kill -0 "$pid" 2> /dev/null; do
		sleep 0.2
		[ "$SECONDS" -ge "$next" ] || continue
		printf '    %s\n' "$(size_of "$dir")"
		next=$((SECONDS + 10))
	done
	wait "$pid" || rc=$?
	[ $rc != 0 ] || RUNNING=
	return $rc
}
size_of() { { du -sxh "$@" 2> /dev/null || true; } | awk '{ sub("K$", " KB", $1) || sub("M$", " MB", $1) || sub("G$", " GB", $1); print $1 }'; }

room() { # room FOLDER MB: that much is free there
	local free
	mkdir -p "$1"
	free=$(df -Pm "$1" | awk 'NR == 2 { print $4 }')
	[ "$free" -ge "$2" ] || die "$1 has $free MB free, $2 MB are needed; XDG_CACHE_HOME=DIR names another place for the cache"
}

# --- Debian's packages. What was installed is listed in $CACHE/installed, to be removed again.
APT_LOG=$CACHE/apt.log
APT_FRESH=
apt_get() { DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -q -o DPkg::Lock::Timeout=600 -o APT::Sandbox::User=root "$@"; }
logged() { # logged COMMAND...: its output into the log
	HINT="its output is in $APT_LOG" RUNNING=$*
	"$@" >> "$APT_LOG" 2>&1 || return
	RUNNING=
}
apt_update() { # once a run; without root what is there must do
	[ -z "$APT_FRESH" ] || return 0
	APT_FRESH=1
	[ "$(id -u)" = 0 ] || return 0
	logged apt_get update || say "apt-get update failed (see $APT_LOG); going on"
}
there() { # there FILE: a program, or an absolute path
	case $1 in /*) [ -e "$1" ] ;; *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" > /dev/null ;; esac
}
install_packages() { # install_packages PACKAGE...: by apt-get, which may refuse
	local size
	apt_update
	size=$({ apt_get install --assume-no --no-install-recommends --no-remove "$@" 2> /dev/null || true; } |
		sed -n 's/^Need to get \([^/]*\)\(\/.*\)\{0,1\} of archives.*/\1 to download/p; s/^After this operation, \(.*\) of additional disk space.*/, \1 on the disk/p' | tr -d '\n')
	say "installing $*${size:+ ($size)}"
	apt_get install -y --no-install-recommends --no-remove "$@" 2>&1 | tee -a "$APT_LOG" |
		counted '^(Get:|Unpacking|Setting up)' 'packages fetched, unpacked or set up' | { grep --line-buffered '^    [0-9]' || true; } || return
	printf '%s\n' "$@" >> "$CACHE/installed"
}
need() { # need PACKAGE=FILE...: install what has not its FILE (a program, or a path), or say who can
	local pair missing=()
	for pair in "$@"; do
		there "${pair#*=}" || [[ " ${missing[*]} " == *" ${pair%%=*} "* ]] || missing+=("${pair%%=*}")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	command -v apt-get > /dev/null || die "missing: ${missing[*]} (so Debian's packages are called; this machine has no apt-get)"
	[ "$(id -u)" = 0 ] || die "missing: ${missing[*]}; only root can install them: apt-get install --no-install-recommends ${missing[*]}"
	install_packages "${missing[@]}" || die "apt-get cannot install ${missing[*]}: $(grep -E '^E:' "$APT_LOG" | tail -1) (all of it: $APT_LOG)"
	for pair in "$@"; do
		there "${pair#*=}" || die "${pair#*=} is still missing after apt-get install ${pair%%=*}"
	done
}
need_cargo() {
	command -v cargo > /dev/null || die "cargo is missing; Rust 1.88 or later is needed, and https://rustup.rs installs it"
}
BUILD_NEEDS=(gcc=cc libc6-dev=/usr/include/stdio.h gdb=gdb)
LAB_NEEDS=(cpio=cpio zstd=zstd xz-utils=xz kmod=depmod e2fsprogs=debugfs gcc=gcc libc6-dev=/usr/include/stdio.h make=make
	binutils=objcopy libelf1=/usr/lib/x86_64-linux-gnu/libelf.so.1 python3=/usr/bin/python3)
# the lab unpacks QEMU where root cannot install it; who cannot install is to be told all at once
[ "$(id -u)" = 0 ] || LAB_NEEDS+=(qemu-system-x86=qemu-system-x86_64)
