//! Progress bars: on stderr, only on a terminal.

use std::io::IsTerminal;
use std::time::Instant;

use crate::args::Format;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar with a clock; the bar is hidden when stderr is no terminal.
pub(crate) struct Meter {
    bar: ProgressBar,
    unit: &'static str,
    start: Instant,
    done: usize,
}

impl Meter {
    /// Starts to count `unit`s.
    pub(crate) fn new(total: usize, unit: &'static str) -> Self {
        Self {
            bar: bar(total, unit),
            unit,
            start: Instant::now(),
            done: 0,
        }
    }

    /// Moves to `done` of `total`.
    pub(crate) fn set(&mut self, done: usize, total: usize) {
        self.done = done;
        self.bar
            .set_length(u64::try_from(total).unwrap_or(u64::MAX));
        self.bar
            .set_position(u64::try_from(done).unwrap_or(u64::MAX));
    }

    /// Takes the bar away and returns the seconds it took.
    pub(crate) fn finish(&self) -> f64 {
        self.bar.finish_and_clear();
        self.start.elapsed().as_secs_f64()
    }

    /// Takes the bar away; for people, says how fast it went if it went well.
    pub(crate) fn finish_if(&self, is_ok: bool, format: Format) {
        match format {
            Format::Text if is_ok => self.finish_aloud(),
            Format::Text | Format::Json => self.finish(),
        };
    }

    /// Takes the bar away and says on stderr how fast it went.
    #[expect(clippy::cast_precision_loss, reason = "a speed for people")]
    pub(crate) fn finish_aloud(&self) -> f64 {
        let seconds = self.finish();
        let (done, unit) = (self.done, self.unit);
        let speed = done as f64 / seconds.max(1e-9);
        crate::errln!("{done} {unit} in {seconds:.1} s, {speed:.0} {unit}/s");
        seconds
    }
}

/// Returns a bar that counts `unit`s.
fn bar(total: usize, unit: &str) -> ProgressBar {
    let total = u64::try_from(total).unwrap_or(u64::MAX);
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let template = format!("{{wide_bar}} {{pos}}/{{len}} {unit} ({{per_sec}}, {{eta}} left)");
    let style =
        ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(total), target).with_style(style)
}
