# corestub's gdbinit: settings that suit a dump. Optional: `gdb -nx` works without.
#
#   gdb -x gdbinit [VMLINUX]
#   (gdb) target remote :1234

set pagination off
set confirm off
# walk on through the system call entry into the user's registers
set backtrace past-main on
# a dump does not change, so nothing read twice needs to be fetched twice
set code-cache on
set stack-cache on
set remotetimeout 60
# vmlinux's index is made once and kept (~/.cache/gdb)
set index-cache enabled on
