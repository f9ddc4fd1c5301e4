//! The clock.

use crate::time::{delay, now, pm_now, tsc_hz};
use crate::{check, skip, test};
use vtd::Nanos;

/// The two clocks at nearly one instant: of many readings the closest, for the host may run something else in between.
fn both() -> Option<(u64, u64)> {
    let reading = |_| {
        let before = now().0;
        let timer = pm_now()?.0;
        Some((now().0 - before, before, timer))
    };
    (0..200).filter_map(reading).min().map(|(_, counter, timer)| (counter, timer))
}

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
        let start = both().ok_or("no reading")?;
        delay(Nanos::millis(50));
        let end = both().ok_or("no reading")?;
        let (by_counter, by_timer) = (end.0 - start.0, end.1 - start.1);
        check!(by_counter >= 49_000_000, "{by_counter} ns");
        let apart = by_counter.abs_diff(by_timer);
        check!(apart < by_timer / 50, "{by_counter} ns by the counter, {by_timer} ns by ACPI's timer");
    }
}
