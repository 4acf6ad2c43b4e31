# shellcheck shell=bash # what scripts/demo and scripts/test share

T0=$(date +%s)
say() { printf '==> %s (%d s)\n' "$*" $(($(date +%s) - T0)); }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

lab_dir() { echo "${XDG_CACHE_HOME:-$HOME/.cache}/corestub/lab"; }

# need PROGRAM PACKAGE [WHERE]: install it when it is missing, or say who can
need() {
	command -v "$1" > /dev/null && return
	[ -z "${3:-}" ] || die "$1 is missing; see $3"
	command -v apt-get > /dev/null || die "$1 is missing (package $2)"
	[ "$(id -u)" = 0 ] || die "$1 is missing; as root: apt-get install $2"
	say "installing $2"
	export DEBIAN_FRONTEND=noninteractive
	apt-get -q update > /dev/null 2>&1 || true
	apt-get -q install -y --no-install-recommends -o DPkg::Lock::Timeout=600 "$2" > /dev/null 2>&1 || die "apt-get install $2 failed"
	command -v "$1" > /dev/null || die "$1 is still missing after apt-get install $2"
}
