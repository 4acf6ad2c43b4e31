# shellcheck shell=bash # part of make-vmcores
# Userspace cores: written by this machine's kernel and by gcore, of programs
# with known contents (pie, not pie, static, stripped; python with a C extension).

user_cores() {
	local d=$OUT/user b pat=/proc/sys/kernel/core_pattern v pid
	[ ! -e "$d/.done" ] || return 0
	mkdir -p "$d/bin" "$d/cores"
	cp "$HERE/guest/mtprog.c" "$HERE/guest/labext.c" "$d/bin/"
	cd "$d/bin"
	gcc -g -O1 -pthread -Wall -pie -fPIE -o mtprog-pie mtprog.c
	gcc -g -O1 -pthread -Wall -no-pie -o mtprog-nopie mtprog.c
	gcc -g -O1 -pthread -Wall -static -o mtprog-static mtprog.c
	gcc -g -O1 -pthread -Wall -static-pie -fPIE -o mtprog-staticpie mtprog.c
	for b in pie nopie static staticpie; do strip -o mtprog-$b-stripped mtprog-$b; done
	# shellcheck disable=SC2046
	gcc -g -O1 -shared -fPIC $(/usr/bin/python3-config --includes) -o labext.so labext.c
	case $(cat $pat) in
	'|'*) say "core_pattern is a pipe: no kernel-written cores";;
	*)
		for b in mtprog-*; do
			mkdir -p run; (cd run && rm -f core*; ulimit -c unlimited; timeout -s KILL 20 "../$b" --crash --no-spin > "../../cores/$b.segv.txt" 2>&1 || true)
			v=$(find run -name 'core*' -type f | head -1)
			if [ -n "$v" ]; then mv "$v" "$d/cores/$b.segv.core"; else say "no core from $b"; fi
		done
		(cd run && rm -f core*; ulimit -c unlimited; timeout -s KILL 20 /usr/bin/python3 -c 'import sys; sys.path.insert(0, ".."); import threading, time
threading.Thread(target=time.sleep, args=(1000,), daemon=True, name="pysleep").start()
import labext, json, zlib, sqlite3
def outer(n): return inner(n + 1)
def inner(n): return labext.crash(n)
outer(1)' > ../../cores/python.segv.txt 2>&1 || true)
		v=$(find run -name 'core*' -type f | head -1)
		if [ -n "$v" ]; then mv "$v" "$d/cores/python.segv.core"; fi
		;;
	esac
	rm -rf run
	# gcore of live programs, one of them with a spinning thread
	for b in pie static; do
		"./mtprog-$b" --no-vfork > "$d/cores/mtprog-$b.gcore.txt" 2>&1 & pid=$!
		for _ in $(seq 50); do grep -q ^ready "$d/cores/mtprog-$b.gcore.txt" && break; sleep 0.1; done
		sleep 0.5
		cat /proc/$pid/maps > "$d/cores/mtprog-$b.gcore.maps"
		timeout -s KILL 60 gcore -o "$d/cores/g" $pid > "$d/cores/mtprog-$b.gcore.log" 2>&1 || say "gcore failed"
		mv "$d/cores/g.$pid" "$d/cores/mtprog-$b.gcore.core" || true
		for v in $(cat /proc/$pid/task/*/children 2>/dev/null); do kill -9 "$v" 2>/dev/null || true; done
		kill -9 $pid; wait $pid 2>/dev/null || true
	done
	cd "$OUT"
	touch "$d/.done"
}

user_oracles() { # gdb's and drgn's words on each
	[ "$ORACLES" != none ] || return 0
	local d=$OUT/user b v exe
	for v in "$d"/cores/*.core; do
		[ ! -s "$v.drgn.json" ] || continue
		b=$(basename "$v"); b=${b%%.*}
		exe=$d/bin/$b
		[ -e "$exe" ] || exe=$(readlink -f /usr/bin/python3)
		gdb -nx -q -batch -ex 'set pagination off' -ex 'info threads' -ex 'thread apply all bt 40' -ex 'thread apply all info registers' \
			-ex 'info sharedlibrary' -ex 'info files' -ex 'info auxv' -ex 'info proc mappings' -ex 'p lab_nodes' -ex 'p lab_global_data' -ex 'p lab_tls' -ex 'x/s lab_heap' \
			"$exe" "$v" > "$v.gdb.txt" 2>&1 || say "gdb rc $? on $b"
		eu-readelf -n "$v" > "$v.notes.txt" 2>/dev/null || readelf -n "$v" > "$v.notes.txt" 2>/dev/null || true
		timeout 200 "$OUT/venv/bin/python" "$HERE/drgn-oracle.py" "$v" "$v.drgn.json" --user --exe "$exe" 2>> "$OUT/user/drgn.err" | sed 's/^/          /' || say "drgn failed on $b"
	done
	touch "$d/.oracles-all" "$d/.oracles-drgn"
}
