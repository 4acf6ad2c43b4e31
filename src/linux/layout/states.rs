//! What the bits of a task's state mean, and how they are shown
//! (`include/linux/sched.h`, `fs/proc/array.c: task_state_array`).

use super::KernelVersion;
use crate::text::flag_names;

impl KernelVersion {
    /// The character that /proc/PID/stat shows for a task's state.
    #[must_use]
    pub fn state_char(&self, state: u64, exit_state: u64) -> char {
        // TASK_IDLE is TASK_UNINTERRUPTIBLE | TASK_NOLOAD, from 4.14 on with a
        // letter of its own. TASK_FREEZABLE (6.1) may stand beside it.
        if exit_state == 0 && !self.before(4, 14) && state & 0x402 == 0x402 {
            return 'I';
        }
        // TASK_RTLOCK_WAIT (5.16) and TASK_FROZEN (6.1) are shown as D.
        if exit_state == 0
            && ((!self.before(5, 16) && state & 0x1000 != 0) || (!self.before(6, 1) && state & 0x8000 != 0))
        {
            return 'D';
        }
        // TASK_PARKED (3.9) was 0x200 then, beyond the bits that have letters.
        if exit_state == 0 && self.before(4, 14) && state & 0x200 != 0 {
            return 'P';
        }
        // EXIT_DEAD and EXIT_ZOMBIE changed places in 3.15 (ad86622b478e),
        // TASK_PARKED moved down to 0x40 in 4.14 (8ef9925b02c2).
        let letters = if self.before(3, 15) {
            b"RSDTtZXx"
        } else if self.before(4, 14) {
            b"RSDTtXZx"
        } else {
            b"RSDTtXZP"
        };
        // TASK_REPORT: before 4.14 the bits 0x40 and 0x80 (TASK_DEAD, TASK_WAKEKILL)
        // were no part of it, and a zombie has the former beside its exit state.
        let report = if self.before(4, 14) { 0x3f } else { 0x7f };
        let bits = (state & report) | (exit_state & 0x7f);
        letters.get((64 - bits.leading_zeros()) as usize).map_or('?', |&b| char::from(b))
    }

    /// crash's two letters, for what [`Self::state_char`] says of the same state.
    #[must_use]
    pub(crate) fn crash_state(&self, c: char, state: u64) -> &'static str {
        match c {
            // It is being woken, which /proc does not tell apart.
            'R' if state & self.waking() != 0 => "WA",
            'R' => "RU",
            'S' => "IN",
            'D' => "UN",
            'I' => "ID",
            'T' => "ST",
            't' => "TR",
            'Z' => "ZO",
            'X' | 'x' => "DE",
            'P' => "PA",
            _ => "??",
        }
    }

    /// TASK_WAKING.
    fn waking(&self) -> u64 {
        if self.before(4, 14) { 0x100 } else { 0x200 }
    }

    /// The names of the bits that are set: `TASK_UNINTERRUPTIBLE|TASK_NOLOAD`.
    #[must_use]
    pub fn state_names(&self, state: u64, exit_state: u64) -> String {
        let old = self.before(4, 14);
        let running = [
            (0x1, "TASK_INTERRUPTIBLE"),
            (0x2, "TASK_UNINTERRUPTIBLE"),
            (0x4, "TASK_STOPPED"),
            (0x8, "TASK_TRACED"),
            (if old { 0x200 } else { 0x40 }, "TASK_PARKED"),
            (if old { 0x80 } else { 0x100 }, "TASK_WAKEKILL"),
            (0x400, "TASK_NOLOAD"),
        ];
        // See above: 3.15.
        let [dead, zombie] = if self.before(3, 15) { [0x20, 0x10] } else { [0x10, 0x20] };
        let exiting = [(dead, "EXIT_DEAD"), (zombie, "EXIT_ZOMBIE")];
        let names = [flag_names(state, &running), flag_names(exit_state, &exiting)];
        let names: Vec<_> = names.into_iter().flatten().collect();
        if names.is_empty() { "TASK_RUNNING".to_owned() } else { names.join("|") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_means_what_it_meant_then() {
        let [v3_10, v3_16, v4_9, v6_1] = ["3.10.0", "3.16.0", "4.9.1", "6.1.0"].map(KernelVersion::parse);
        assert_eq!((v3_10.state_char(0, 0x10), v3_16.state_char(0, 0x10)), ('Z', 'X'));
        // A zombie's state is TASK_DEAD.
        assert_eq!((v3_10.state_char(0x40, 0x10), v4_9.state_char(0x40, 0x20)), ('Z', 'Z'));
        assert_eq!((v3_10.state_char(0x81, 0), v3_10.state_char(0x40, 0)), ('S', 'R'));
        assert_eq!(v3_10.state_names(0x40, 0x10), "EXIT_ZOMBIE");
        assert_eq!((v4_9.state_char(0x402, 0), v6_1.state_char(0x402, 0)), ('D', 'I'));
        assert_eq!((v4_9.state_char(0x200, 0), v6_1.state_char(0x40, 0)), ('P', 'P'));
        assert_eq!((v4_9.state_char(0x8000, 0), v6_1.state_char(0x8000, 0)), ('R', 'D'));
        assert_eq!(v4_9.state_names(0x280, 0), "TASK_PARKED|TASK_WAKEKILL");
        assert_eq!(v6_1.state_names(0x402, 0x20), "TASK_UNINTERRUPTIBLE|TASK_NOLOAD|EXIT_ZOMBIE");
        assert_eq!(v6_1.state_names(0, 0), "TASK_RUNNING");
        // The bit of TASK_WAKING was TASK_PARKED's before, that of TASK_WAKEKILL its.
        let crash = |v: &KernelVersion, state| v.crash_state(v.state_char(state, 0), state);
        assert_eq!([crash(&v6_1, 0x200), crash(&v4_9, 0x100)], ["WA", "WA"]);
        assert_eq!([crash(&v6_1, 0), crash(&v6_1, 0x102), crash(&v4_9, 0x200)], ["RU", "UN", "PA"]);
    }
}
