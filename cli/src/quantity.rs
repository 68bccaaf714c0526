//! Sizes and times as people type them: `512MiB`, `2G`, `90m`.

/// Mebibytes from `512`, `512MiB`, `2G`, `1.5TiB`. Binary units, whatever they are called: nobody who
/// types `2G` of memory means 1907 MiB.
pub fn mib(text: &str) -> Result<u64, String> {
    let teach = || format!("{text:?} is not a size: write for example 512MiB, 2G or 1.5TiB (no unit: MiB)");
    let (number, unit) = split(text);
    let scale: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => 1,
        "g" | "gb" | "gib" => 1 << 10,
        "t" | "tb" | "tib" => 1 << 20,
        _ => return Err(teach()),
    };
    let (whole, tenths) = match number.split_once('.') {
        Some((whole, digit)) if digit.len() == 1 => (whole, digit.parse::<u64>().map_err(|_| teach())?),
        Some(_) => return Err(teach()),
        None => (number, 0),
    };
    let whole: u64 = whole.parse().map_err(|_| teach())?;
    let total = whole.checked_mul(scale).and_then(|mib| mib.checked_add(tenths * scale / 10));
    total.filter(|mib| *mib > 0).ok_or_else(teach)
}

/// Seconds from `90`, `90s`, `15m`, `24h`, `7d`.
pub fn seconds(text: &str) -> Result<u64, String> {
    let teach = || format!("{text:?} is not a duration: write for example 90s, 15m, 24h or 7d");
    let (number, unit) = split(text);
    let scale = match unit {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(teach()),
    };
    let number: u64 = number.parse().map_err(|_| teach())?;
    number.checked_mul(scale).filter(|seconds| *seconds > 0).ok_or_else(teach)
}

/// Percent from `150` or `150%`.
pub fn percent(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    number.parse().map_err(|_| format!("{text:?} is not a percentage: write for example 150 or 150%"))
}

fn split(text: &str) -> (&str, &str) {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    (number, unit.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_typed() {
        for (text, expected) in [
            ("512", 512),
            ("512MiB", 512),
            ("512 MiB", 512),
            ("2G", 2048),
            ("2gb", 2048),
            ("1.5TiB", 1_572_864),
        ] {
            assert_eq!(mib(text), Ok(expected), "{text}");
        }
        for (text, expected) in [("150", 150), ("150%", 150), ("150 %", 150)] {
            assert_eq!(percent(text), Ok(expected), "{text}");
        }
        for bad in ["", "%", "-1", "1.5", "1.5x", "150%%", "4294967296"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
        for bad in [
            "",
            "0",
            "-1",
            "G",
            "1.25G",
            "2 parsecs",
            "99999999999999999999",
            "18446744073709551615T",
            "1..5G",
            "+1",
        ] {
            assert!(mib(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_read_as_typed() {
        for (text, expected) in [("90", 90), ("90s", 90), ("15m", 900), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for bad in ["", "0", "-1", "1w", "99999999999999999999d", "18446744073709551615d", "1.5h"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
