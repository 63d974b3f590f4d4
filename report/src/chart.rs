//! Small drawings: histograms, and ranges against a width.

use std::fmt::Write;

use maud::{Markup, html};

use crate::histogram::{Grid, Histogram};
use crate::text::{count_of, grouped, grouped_count, percent, short};

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 64.0;
/// Lines of the integer grid in a drawing, at most.
const MAX_LINES: i64 = 33;
/// Grids of more integers are drawn only where values are.
const MAX_WHOLE_GRID: i64 = 1 << 10;

/// Integers that a tensor can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) lo: i64,
    pub(crate) hi: i64,
}

/// Returns a histogram, with the grid of integers if there is one.
pub(crate) fn histogram(title: &str, histogram: &Histogram, limits: Option<Limits>) -> Markup {
    let Some((lo, hi)) = histogram.range() else {
        return html! { figure class="chart" { figcaption { b { (title) } ": no values" } } };
    };
    let shown_limits = limits.filter(|limits| limits.hi - limits.lo < MAX_WHOLE_GRID);
    let (start, end) = domain(histogram, shown_limits);
    let number = |v: f64| match histogram.grid() {
        Grid::Integers => whole(v),
        Grid::Floats => short(v),
    };
    let seen = format!("{} to {}", number(lo), number(hi));
    html! {
        figure class="chart" {
            figcaption { b { (title) } ": " (seen) }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img"
                aria-label={ "Histogram of " (title) ", " (seen) } {
                path class={ "grid" } d=(grid_lines(histogram.grid(), start, end)) {}
                path class=(match histogram.grid() { Grid::Integers => "bars after", Grid::Floats => "bars before" })
                    d=(bars(histogram, start, end)) {}
            }
            div class="axis" { span { (number(start)) } span { (number(end_label(histogram.grid(), end))) } }
            p class="note" {
                (count_of(histogram.n_values(), "value", "values")) ", "
                (percent(histogram.n_zeros(), histogram.n_values())) " zeros"
                @if let Some(limits) = limits { (use_of(histogram, (lo, hi), limits)) }
            }
        }
    }
}

/// Returns what is used of the integers that there are.
fn use_of(histogram: &Histogram, (lo, hi): (f64, f64), limits: Limits) -> Markup {
    let (min, max) = (to_float(limits.lo), to_float(limits.hi));
    let at_ends: u64 = histogram
        .bins()
        .filter(|(start, width, _)| *width <= 1.0 && (*start <= min || *start >= max))
        .map(|(_, _, count)| count)
        .sum();
    let used = (lo.abs() / min.abs().max(1.0)).max(hi.abs() / max.abs().max(1.0));
    html! {
        ", " (format!("{:.0} %", 100.0 * used)) " of the range " (grouped(limits.lo)) " to " (grouped(limits.hi)) " used"
        @if histogram.bins().all(|(_, width, _)| width <= 1.0) && limits.lo < limits.hi {
            ", " (percent(at_ends, histogram.n_values())) " at its ends"
        }
    }
}

/// Returns the left and right end of a drawing.
fn domain(histogram: &Histogram, limits: Option<Limits>) -> (f64, f64) {
    let bins = histogram.bins();
    let ends = bins.fold((f64::MAX, f64::MIN), |(lo, hi), (start, width, _)| {
        (lo.min(start), hi.max(start + width))
    });
    let whole = limits.map(|limits| (to_float(limits.lo), to_float(limits.hi) + 1.0));
    match whole {
        Some((lo, hi)) => (lo.min(ends.0), hi.max(ends.1)),
        None => ends,
    }
}

/// Returns what the right end of an axis is called: of integers, the last one.
fn end_label(grid: Grid, end: f64) -> f64 {
    match grid {
        Grid::Integers => end - 1.0,
        Grid::Floats => end,
    }
}

/// Returns the lines of the integer grid: every integer, or every 2^n-th.
fn grid_lines(grid: Grid, start: f64, end: f64) -> String {
    let mut path = String::new();
    if grid == Grid::Floats {
        if start < 0.0 && end > 0.0 {
            line(&mut path, position(0.0, start, end));
        }
        return path;
    }
    let mut step = 1.0;
    while (end - start) / step > to_float(MAX_LINES) {
        step *= 2.0;
    }
    let mut at = (start / step).ceil() * step;
    while at <= end {
        line(&mut path, position(at, start, end));
        at += step;
    }
    path
}

fn line(path: &mut String, x: f64) {
    // Writing to a string cannot fail.
    let written = write!(path, "M{x:.2} 0V{HEIGHT}");
    debug_assert!(written.is_ok(), "a string takes all");
}

fn position(v: f64, start: f64, end: f64) -> f64 {
    WIDTH * (v - start) / (end - start)
}

/// Returns the bars, whose heights are the square roots of the counts.
fn bars(histogram: &Histogram, start: f64, end: f64) -> String {
    let largest = histogram.bins().map(|(_, _, n)| n).max().unwrap_or(1);
    let largest = crate::text::to_float(largest).sqrt();
    let mut path = String::new();
    for (at, width, count) in histogram.bins() {
        let (x, x2) = (position(at, start, end), position(at + width, start, end));
        let y = HEIGHT * (1.0 - crate::text::to_float(count).sqrt() / largest);
        let written = write!(path, "M{x:.2} {HEIGHT}V{y:.2}H{x2:.2}V{HEIGHT}z");
        debug_assert!(written.is_ok(), "a string takes all");
    }
    path
}

/// Returns a whole number as text.
#[expect(clippy::cast_possible_truncation, reason = "a histogram's integers")]
fn whole(v: f64) -> String {
    grouped(v as i64)
}

#[expect(clippy::cast_precision_loss, reason = "a place in a drawing")]
const fn to_float(v: i64) -> f64 {
    v as f64
}

/// A range in bits against the width that it must fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gauge {
    /// Value bits that every input together needs.
    pub(crate) bound: u32,
    /// Value bits that samples needed.
    pub(crate) observed: Option<u32>,
    /// Value bits that there are.
    pub(crate) limit: u32,
    /// The axis ends here.
    pub(crate) end: u32,
}

/// Returns a bar for the bound, a mark for what was observed, and a line at the limit.
pub(crate) fn gauge(gauge: Gauge) -> Markup {
    let Gauge {
        bound,
        observed,
        limit,
        end,
    } = gauge;
    let x = |bits: u32| format!("{:.2}", WIDTH * f64::from(bits) / f64::from(end.max(1)));
    let class = if bound > limit { "bound over" } else { "bound" };
    let said = match observed {
        Some(bits) => format!("{bound} bits proved, {bits} observed, {limit} available"),
        None => format!("{bound} bits proved, {limit} available"),
    };
    html! {
        svg class="gauge" viewBox={ "0 0 " (WIDTH) " 16" } preserveAspectRatio="none" role="img" aria-label=(said) {
            rect class="track" x="0" y="4" width=(x(limit)) height="8" {}
            rect class=(class) x="0" y="4" width=(x(bound)) height="8" {}
            @if let Some(bits) = observed {
                rect class="observed" x="0" y="7" width=(x(bits)) height="2" {}
            }
            path class="limit" d={ "M" (x(limit)) " 0V16" } {}
        }
    }
}

/// Returns the value bits that a magnitude needs.
pub(crate) const fn bits_of(magnitude: u64) -> u32 {
    u64::BITS - magnitude.leading_zeros()
}

/// Returns a count for a title.
pub(crate) fn largest(magnitude: u64) -> String {
    grouped_count(magnitude)
}
