//! Time to pixels.

use crate::record::Micros;

/// Narrower is hard to read, wider nobody scrolls through.
const WIDTH_MIN: u64 = 1_340;
const WIDTH_MAX: u64 = 6_400;
const PIXELS_PER_S: u64 = 16;
/// Between two lines of the grid.
const GAP_MIN: f64 = 90.0;

/// Where a moment lies.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    end: Micros,
    width: u64,
}

impl Scale {
    pub fn of(end: Micros) -> Self {
        let width = (end / 1_000 * PIXELS_PER_S / 1_000).clamp(WIDTH_MIN, WIDTH_MAX);
        Self { end: end.max(1), width }
    }

    pub fn width(self) -> u64 {
        self.width
    }

    pub fn x(self, at: Micros) -> f64 {
        at.min(self.end) as f64 * self.width as f64 / self.end as f64
    }

    /// The pixel that a moment falls into, in units of so many.
    pub fn bucket(self, at: Micros, pixels: u64) -> u64 {
        self.x(at) as u64 / pixels
    }

    /// Lines of the grid, with what is written at them.
    pub fn grid(self) -> Vec<(f64, String)> {
        let per_second = self.x(1_000_000).max(f64::MIN_POSITIVE);
        let steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 86400];
        let step = steps.into_iter().find(|step| *step as f64 * per_second >= GAP_MIN).unwrap_or(86400);
        let seconds = (0..).step_by(step).take_while(|second| second * 1_000_000 <= self.end);
        let label = |second: u64| match step {
            0..60 => format!("{second} s"),
            60.. => format!("{}:{:02} min", second / 60, second % 60),
        };
        seconds.map(|second| (self.x(second * 1_000_000), label(second))).collect()
    }
}

/// A length or place, short: a tenth of a pixel is enough.
pub fn px(value: f64) -> String {
    let tenths = (value * 10.0).round() as i64;
    match tenths % 10 {
        0 => (tenths / 10).to_string(),
        _ => format!("{}{}.{}", if tenths < 0 { "-" } else { "" }, tenths.abs() / 10, tenths.abs() % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_any_length_fits() {
        for end in [0, 1, 1_000_000, 60_000_000, 3_600_000_000, 7 * 86_400_000_000] {
            let scale = Scale::of(end);
            assert!((WIDTH_MIN..=WIDTH_MAX).contains(&scale.width()), "{scale:?}");
            assert!(scale.x(end) <= scale.width() as f64);
            assert!(scale.grid().len() <= 1 + (WIDTH_MAX as f64 / GAP_MIN) as usize, "{scale:?}");
        }
    }

    #[test]
    fn lengths_are_short() {
        assert_eq!([px(3.0), px(2.34), px(-0.26), px(0.04)], ["3", "2.3", "-0.3", "0"]);
    }
}
