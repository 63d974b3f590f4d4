//! Numbers and names for people.

/// Characters of a name that are shown, at most.
const MAX_NAME: usize = 120;

/// Characters of a sentence that are shown, at most.
const MAX_TEXT: usize = 2000;

/// Returns a name as it may be shown: what would hide or turn text around is replaced, and a long
/// one is cut. Escaping for HTML is the template's work.
pub(crate) fn shown(name: &str) -> String {
    cut(name, MAX_NAME)
}

/// Returns a sentence, a path or a command as it may be shown.
pub(crate) fn shown_text(text: &str) -> String {
    cut(text, MAX_TEXT)
}

/// Returns a name of at most `max` characters, its middle left out.
pub(crate) fn cut(name: &str, max: usize) -> String {
    let clean = |c: char| {
        let turns = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            '\u{fffd}'
        } else {
            c
        }
    };
    // A file can hold a name of megabytes: no more of it is looked at than is needed.
    let n_chars = name.chars().take(max + 1).count();
    if n_chars <= max {
        return name.chars().map(clean).collect();
    }
    let half = max.saturating_sub(1).div_euclid(2);
    let head = name.chars().take(half).map(clean);
    let tail: Vec<char> = name.chars().rev().take(half).map(clean).collect();
    head.chain(std::iter::once('…'))
        .chain(tail.into_iter().rev())
        .collect()
}

/// Returns a float with few digits.
pub(crate) fn short(v: f64) -> String {
    let magnitude = v.abs();
    if v == 0.0 {
        return "0".to_owned();
    }
    if !(1e-3..1e6).contains(&magnitude) {
        return format!("{v:.2e}").replace('-', "−");
    }
    let digits = if magnitude < 10.0 { 4 } else { 1 };
    let text = format!("{v:.digits$}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.replace('-', "−")
}

/// Returns an integer with its digits in groups of three, as `1 234`.
pub(crate) fn grouped(v: i64) -> String {
    let digits = v.unsigned_abs().to_string();
    let mut text = String::new();
    if v < 0 {
        text.push('−');
    }
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            // A narrow space that does not break.
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Returns a count with its digits in groups of three.
pub(crate) fn grouped_count(n: u64) -> String {
    grouped(i64::try_from(n).unwrap_or(i64::MAX))
}

/// Returns a share as a percentage.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let share = 100.0 * to_float(part) / to_float(whole.max(1));
    if part > 0 && share < 0.01 {
        return "< 0.01 %".to_owned();
    }
    format!("{share:.2} %")
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
pub(crate) const fn to_float(n: u64) -> f64 {
    n as f64
}

/// Returns `n` things.
pub(crate) fn count_of(n: impl TryInto<u64>, one: &str, many: &str) -> String {
    match n.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {one}"),
        n => format!("{} {many}", grouped_count(n)),
    }
}

/// Returns bytes in a unit that fits.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..=9_999 => format!("{} B", grouped_count(n)),
        10_000..=9_999_999 => format!("{:.1} kB", to_float(n) / 1e3),
        _ => format!("{:.1} MB", to_float(n) / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_turn_or_hide_text() {
        assert_eq!(shown("a\u{202e}b\0c\nd"), "a\u{fffd}b\u{fffd}c\u{fffd}d");
        assert_eq!(cut("block_1/depthwise", 9), "bloc…wise");
        let long = "x".repeat(1 << 20);
        assert!(
            shown(&long).chars().count() <= MAX_NAME,
            "a long name is cut"
        );
        assert_eq!(cut("äöü", 3), "äöü", "characters, not bytes");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(grouped(-1_234_567), "−1\u{202f}234\u{202f}567");
        assert_eq!(grouped(0), "0");
        assert_eq!(
            grouped(i64::MIN),
            "−9\u{202f}223\u{202f}372\u{202f}036\u{202f}854\u{202f}775\u{202f}808"
        );
        assert_eq!(short(0.25), "0.25");
        assert_eq!(short(-12.0), "−12");
        assert_eq!(short(1e-9), "1.00e−9");
        assert_eq!(percent(1, 1_000_000), "< 0.01 %");
        assert_eq!(percent(0, 0), "0.00 %");
    }
}
