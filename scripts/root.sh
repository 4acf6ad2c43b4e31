# shellcheck shell=bash # a bare Debian in a folder, and commands in it; sourced behind common.sh
ROOT=  # the folder, that lay_root makes
BINDS=() # what of this machine is seen in it, as `mount --bind` takes it: FROM:TO[:OPTIONS]
MIRROR=${MIRROR:-http://deb.debian.org/debian}

lay_root() { # lay_root SUITE FOLDER PACKAGE,...
	local suite=$1 packages=$3
	[ "$(id -u)" = 0 ] || die "this needs root: it lays a root file system and changes into it"
	need debootstrap=debootstrap util-linux=unshare
	ROOT=$2
	[ ! -e "$ROOT" ] || die "$ROOT is there already, from a run that did not end; look at it, and delete it with: rm -r --one-file-system $ROOT"
	say "debootstrap $suite into $ROOT"
	growing "$(dirname "$ROOT")" logged debootstrap --variant=minbase --include="$packages" "$suite" "$ROOT" "$MIRROR"
	# debootstrap leaves its /proc mounted where somebody looks into it at its end
	! mountpoint -q "$ROOT/proc" || umount "$ROOT/proc"
	{
		echo "deb $MIRROR $suite main"
		echo "deb $MIRROR $suite-updates main"
		echo "deb ${MIRROR/%\/debian//debian-security} $suite-security main"
	} > "$ROOT/etc/apt/sources.list"
	# the network as it is here: names, certificates, proxies
	cp -L /etc/resolv.conf "$ROOT/etc/"
	mkdir -p "$ROOT/etc/ssl/certs"
	cp -L /etc/ssl/certs/ca-certificates.crt "$ROOT/etc/ssl/certs/"
	mapfile -t network < <(env | grep -iE '^(https?|no)_proxy=' || true)
}
inside() { # inside USER COMMAND: in the root; what is mounted there is gone at its end
	local home=/root
	[ "$1" = root ] || home=/home/$1
	# shellcheck disable=SC2016 # for the shell that mounts
	unshare --mount --propagation private --pid --fork --kill-child bash -ec '
		root=$1
		shift
		mount -t proc proc "$root/proc"
		mount --rbind /dev "$root/dev"
		while [ "$1" != -- ]; do
			IFS=: read -r from to options <<< "$1"
			mount --bind ${options:+-o "$options"} "$from" "$root$to"
			shift
		done
		shift
		exec chroot "$@"' - "$ROOT" "${BINDS[@]}" -- \
		--userspec="$1:$1" "$ROOT" /usr/bin/env -i "${network[@]}" HOME="$home" USER="$1" LANG=C.UTF-8 \
		PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin bash -c "cd && $2" < /dev/null
}
drop_root() {
	[ -z "$ROOT" ] || rm -rf --one-file-system "$ROOT"
}
