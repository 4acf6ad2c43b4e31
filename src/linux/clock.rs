//! The clock when the machine stopped: date, uptime, load.
//!
//! The date is `timekeeper.xtime_sec`; uptime is that plus `wall_to_monotonic`
//! and `offs_boot` (`kernel/time/timekeeping.c`), which needs no guess of HZ as
//! jiffies would.

use super::View;
use super::object::Object;

/// Date and uptime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Clock {
    /// Seconds since 1970.
    pub date: i64,
    /// Whole seconds since boot, time in suspend included.
    pub uptime: i64,
    /// Nanoseconds of the monotonic clock, which stops in suspend, when the kernel last looked.
    pub monotonic: i64,
}

/// Reads the clock, by the timekeeper.
#[must_use]
pub(crate) fn read(view: &View) -> Option<Clock> {
    // `tk_core` has had a named type since 6.13 (`struct tk_data`); before, the
    // timekeeper lay behind a sequence counter of 4 bytes, or more with lockdep.
    let named = view.types().field("tk_data", "timekeeper").map(|f| f.offset);
    let candidates = [
        ("tk_core", named.unwrap_or(8)),
        ("tk_core", 8),
        ("tk_core", 16),
        ("tk_core", 64),
        ("timekeeper_data", named.unwrap_or(8)),
        ("shadow_timekeeper", 0),
        ("timekeeper", 0),
    ];
    candidates.iter().find_map(|&(symbol, offset)| {
        let base = view.symbol(symbol)?.checked_add(offset)?;
        let tk = Object::new(view, "timekeeper", base);
        let date = tk.signed("xtime_sec").filter(|s| (1..1 << 36).contains(s))?;
        let monotonic = tk.signed("wall_to_monotonic.tv_sec")?.checked_add(date)?;
        let fraction = tk.signed("wall_to_monotonic.tv_nsec").filter(|n| (0..1_000_000_000).contains(n))?;
        let nanos = tk
            .number("tkr_mono.xtime_nsec")
            .or_else(|| tk.number("xtime_nsec"))
            .zip(tk.number("tkr_mono.shift").or_else(|| tk.number("shift")))
            .and_then(|(n, shift)| n.checked_shr(u32::try_from(shift).ok()?))
            .and_then(|n| i64::try_from(n).ok())
            .unwrap_or(0);
        let boot = tk.signed("offs_boot").unwrap_or(0);
        let fraction = fraction.checked_add(nanos)?;
        let uptime = monotonic.checked_add(fraction.checked_add(boot)? / 1_000_000_000)?;
        let monotonic = monotonic.checked_mul(1_000_000_000)?.checked_add(fraction)?;
        (0..1 << 33).contains(&uptime).then_some(Clock { date, uptime, monotonic })
    })
}

/// The three load averages, in 1/2048ths (`FIXED_1`), rounded as the kernel
/// shows them (`kernel/sched/loadavg.c`).
#[must_use]
pub(crate) fn load(view: &View) -> Option<String> {
    let at = view.symbol("avenrun")?;
    let one = |i: u64| {
        let raw = view.space().read_u64(at.checked_add(i * 8)?).ok()?.checked_add(2048 / 200)?;
        Some(format!("{}.{:02}", raw >> 11, ((raw & 2047) * 100) >> 11))
    };
    Some(format!("{}, {}, {}", one(0)?, one(1)?, one(2)?))
}

/// `Fri Nov 20 18:35:20 UTC 2026`, as crash prints dates, in UTC.
#[must_use]
pub(crate) fn date(seconds: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a date: Howard Hinnant, "chrono-compatible low-level date
    // algorithms", civil_from_days; years begin in March.
    let z = day + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 2 } else { mp - 10 };
    let year = yoe + era * 400 + i64::from(month < 2);
    let name = |names: &[&'static str], i: i64| {
        usize::try_from(i).ok().and_then(|i| names.get(i).copied()).unwrap_or("?")
    };
    format!(
        "{} {} {:>2} {:02}:{:02}:{:02} UTC {year}",
        name(&DAYS, day.rem_euclid(7)),
        name(&MONTHS, month),
        doy - (153 * mp + 2) / 5 + 1,
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// `1 days, 02:03:04`, as crash prints uptimes.
#[must_use]
pub(crate) fn uptime(seconds: i64) -> String {
    let time = format!("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match seconds / 86_400 {
        0 => time,
        days => format!("{days} days, {time}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "Thu Jan  1 00:00:00 UTC 1970");
        assert_eq!(date(951_782_400), "Tue Feb 29 00:00:00 UTC 2000");
        assert_eq!(date(1_795_199_720), "Fri Nov 20 18:35:20 UTC 2026");
        assert_eq!(date(1_798_761_599), "Thu Dec 31 23:59:59 UTC 2026");
    }

    #[test]
    fn long_uptimes_have_days() {
        assert_eq!(uptime(10), "00:00:10");
        assert_eq!(uptime(90_061), "1 days, 01:01:01");
    }
}
