//! The clock.

use crate::time::{delay, now, pm_now, tsc_hz};
use crate::{check, skip, test};
use vtd::Nanos;

test! {
    fn clock_never_goes_back() {
        let mut last = now();
        for _ in 0..20_000 {
            let t = now();
            check!(t >= last, "{t:?} after {last:?}");
            last = t;
        }
        check!(last.0 > 0);
    }

    fn counter_agrees_with_acpi_timer() {
        if tsc_hz() == 0 {
            skip!("no ACPI timer to measure against");
        }
        let (start, pm_start) = (now(), pm_now());
        delay(Nanos::millis(50));
        let (end, pm_end) = (now(), pm_now());
        let (Some(pm_start), Some(pm_end)) = (pm_start, pm_end) else { skip!("no ACPI timer") };
        let (by_counter, by_timer) = (end.0 - start.0, pm_end.0 - pm_start.0);
        check!(by_counter >= 50_000_000, "{by_counter} ns");
        // The two are not read at one instant: the host may run something else in between.
        let apart = by_counter.abs_diff(by_timer);
        check!(apart < by_timer / 10, "{by_counter} ns by the counter, {by_timer} ns by ACPI's timer");
    }
}
