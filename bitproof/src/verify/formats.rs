//! In which ways two layers of one name have other formats.

use quantizer_core::{PerAxis, QFormat};

use super::sides::Side;
use crate::meaning::{agree, extents};

/// Returns how the outputs of layer `a` and of layer `b` differ in form: a sentence each.
pub(crate) fn differences((a, at): (&Side<'_>, usize), (b, bt): (&Side<'_>, usize)) -> Vec<String> {
    let mut found = Vec::new();
    let (shape_a, shape_b) = (a.shape(at), b.shape(bt));
    if !agree(shape_a, shape_b) {
        let (a, b) = (extents(shape_a), extents(shape_b));
        found.push(format!("extents {a} and {b}"));
    }
    if !(a.is_quantized() && b.is_quantized()) {
        return found; // Formats of a float network: there are none to compare.
    }
    match (a.format(at), b.format(bt)) {
        (Some(a), Some(b)) => found.extend(of_integers(&a, &b)),
        (Some(_), None) => found.push("integers and floats".to_owned()),
        (None, Some(_)) => found.push("floats and integers".to_owned()),
        (None, None) => {}
    }
    found
}

fn of_integers(a: &QFormat, b: &QFormat) -> Vec<String> {
    let mut found = Vec::new();
    if a.value_bits != b.value_bits {
        let (a, b) = (a.value_bits.bits(), b.value_bits.bits());
        found.push(format!("value_bits {a} and {b}"));
    }
    found.extend(of_channels("frac_bits", &a.frac_bits, &b.frac_bits));
    match (&a.scales, &b.scales) {
        (Some(a), Some(b)) => found.extend(of_channels("scales", a, b)),
        (None, None) => {}
        (Some(_), None) => found.push("scales and none".to_owned()),
        (None, Some(_)) => found.push("no scales and some".to_owned()),
    }
    found
}

/// Returns in how many channels a quantity differs, and how in the first of them.
fn of_channels<T>(what: &str, a: &PerAxis<T>, b: &PerAxis<T>) -> Option<String>
where
    T: Copy + PartialEq + std::fmt::Display,
{
    let (n_a, n_b) = (a.n_values(), b.n_values());
    if n_a != n_b && (n_a != 1 && n_b != 1 || n_a.min(n_b) == 0) {
        return Some(format!("{what} of {n_a} and of {n_b} channels"));
    }
    let n = n_a.max(n_b);
    let mut differing = (0..n).filter(|channel| a.at(*channel) != b.at(*channel));
    let first = differing.next()?;
    let (x, y) = (a.at(first), b.at(first));
    let n_differing = 1 + differing.count();
    Some(if n == 1 {
        format!("{what} {x} and {y}")
    } else {
        format!(
            "{what} {x} and {y} in channel {first}, other ones in {n_differing} of {n} channels"
        )
    })
}
