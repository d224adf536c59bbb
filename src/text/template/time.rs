//! Dates for `strftime_now`: the civil calendar and the codes of Python's strftime, without locale or time zones.
//!
//! Principal type: [`Clock`]. Must not know templates.

use std::fmt::Write;
use std::sync::Arc;

/// Gives the time as seconds since 1970 (UTC, or shifted to a local time).
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The system's clock, UTC: neither wasm nor std knows the time zone.
pub(super) fn system_clock() -> Clock {
    Arc::new(|| {
        let since = web_time::SystemTime::now().duration_since(web_time::SystemTime::UNIX_EPOCH);
        since.map_or(0, |time| i64::try_from(time.as_secs()).unwrap_or(0))
    })
}

/// A moment taken apart.
struct Civil {
    year: i64,
    /// 1 to 12
    month: i64,
    day: i64,
    /// 0 is Sunday
    weekday: i64,
    /// 1 to 366
    day_of_year: i64,
    second_of_day: i64,
}

impl Civil {
    /// Howard Hinnant's days-to-civil: years begin in March, so that the leap day is the last of a year.
    fn at(seconds: i64) -> Civil {
        let days = seconds.div_euclid(86_400);
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_from_march + 2) / 153;
        let day = day_from_march - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let day_of_year =
            if month > 2 { day_from_march + 60 + i64::from(leap) } else { day_from_march - 305 };
        Civil {
            year,
            month,
            day,
            weekday: (days + 4).rem_euclid(7),
            day_of_year,
            second_of_day: seconds.rem_euclid(86_400),
        }
    }
}

/// Formats a moment as Python's `strftime` does in the C locale. `%-d` and the like drop the padding. An unknown code
/// is left as it stands.
pub(super) fn strftime(format: &str, seconds: i64) -> String {
    let civil = Civil::at(seconds);
    let mut out = String::with_capacity(format.len() + 16);
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let code = chars.next();
        let (padded, code) = match code {
            Some('-') => (false, chars.next()),
            code => (true, code),
        };
        match code {
            Some(code) => write_code(&mut out, &civil, code, padded),
            None => out.push('%'),
        }
    }
    out
}

fn write_code(out: &mut String, civil: &Civil, code: char, padded: bool) {
    let hour = civil.second_of_day / 3_600;
    let minute = civil.second_of_day / 60 % 60;
    let second = civil.second_of_day % 60;
    let month = MONTHS[(civil.month - 1) as usize];
    let weekday = DAYS[civil.weekday as usize];
    let hour12 = if hour % 12 == 0 { 12 } else { hour % 12 };
    let (number, width) = match code {
        'd' => (civil.day, 2),
        'm' => (civil.month, 2),
        'y' => (civil.year.rem_euclid(100), 2),
        'Y' => (civil.year, 4),
        'H' => (hour, 2),
        'I' => (hour12, 2),
        'M' => (minute, 2),
        'S' => (second, 2),
        'j' => (civil.day_of_year, 3),
        'w' => (civil.weekday, 1),
        'u' => (if civil.weekday == 0 { 7 } else { civil.weekday }, 1),
        _ => {
            let text = match code {
                'B' => month.to_string(),
                'b' | 'h' => month[..3].to_string(),
                'A' => weekday.to_string(),
                'a' => weekday[..3].to_string(),
                'p' => (if hour < 12 { "AM" } else { "PM" }).to_string(),
                'F' => strftime_parts(civil, "Y-m-d"),
                'T' => strftime_parts(civil, "H:M:S"),
                'R' => strftime_parts(civil, "H:M"),
                'D' => strftime_parts(civil, "m/d/y"),
                'e' => format!("{:2}", civil.day),
                'n' => "\n".to_string(),
                't' => "\t".to_string(),
                'Z' | 'z' => String::new(),
                '%' => "%".to_string(),
                other => format!("%{other}"),
            };
            out.push_str(&text);
            return;
        }
    };
    let width = if padded { width } else { 0 };
    // Writing to a String cannot fail.
    let _ = write!(out, "{number:0width$}");
}

/// A compound code: letters are codes, anything else stands for itself.
fn strftime_parts(civil: &Civil, parts: &str) -> String {
    let mut out = String::new();
    for c in parts.chars() {
        if c.is_ascii_alphabetic() {
            write_code(&mut out, civil, c, true);
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_agree_with_python() {
        // datetime.fromtimestamp(1722038400 + 3725, timezone.utc)
        let at = 1_722_042_125;
        let cases = [
            ("%d %b %Y", "27 Jul 2024"),
            ("%Y-%m-%d %H:%M:%S", "2024-07-27 01:02:05"),
            ("%A, %B %-d, %Y %I:%M %p", "Saturday, July 27, 2024 01:02 AM"),
            ("%a %j %y %F %T 100%%", "Sat 209 24 2024-07-27 01:02:05 100%"),
        ];
        for (format, expected) in cases {
            assert_eq!(strftime(format, at), expected, "{format}");
        }
    }

    #[test]
    fn leap_days_and_the_past_are_right() {
        assert_eq!(strftime("%F %j", 951_782_400), "2000-02-29 060");
        assert_eq!(strftime("%F %j", 951_868_800), "2000-03-01 061");
        assert_eq!(strftime("%F %a", -1), "1969-12-31 Wed");
        assert_eq!(strftime("%F %j", 1_703_980_800), "2023-12-31 365");
        assert_eq!(strftime("%F %j", 1_735_603_200), "2024-12-31 366");
        assert_eq!(strftime("%q %", 0), "%q %");
    }
}
