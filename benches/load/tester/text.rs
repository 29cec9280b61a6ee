//! Numbers for people.

use std::time::Duration;

/// A count with its thousands apart.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate: with a decimal where it is small.
pub fn rate(number: f64) -> String {
    if number < 100.0 { format!("{number:.1}") } else { count(number.round() as u64) }
}

/// Milliseconds with about three digits.
pub fn ms(number: f64) -> String {
    match number {
        _ if number < 10.0 => format!("{number:.2}"),
        _ if number < 100.0 => format!("{number:.1}"),
        _ => count(number.round() as u64),
    }
}

/// A share of a hundred.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.2}%", part as f64 * 100.0 / whole as f64) }
}

/// A time as people write it.
pub fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match time.as_secs() {
        0..10 => format!("{seconds:.1}s"),
        10..600 => format!("{seconds:.0}s"),
        600..36_000 => format!("{:.1}m", seconds / 60.0),
        _ => format!("{:.1}h", seconds / 3_600.0),
    }
}

/// A text of at most so many characters.
pub fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}
