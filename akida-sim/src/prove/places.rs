//! Places of an intermediate that a search aims at.

/// Positions of a longer axis that are tried at each of its ends: wider than the border of usual
/// kernels.
const AT_ENDS: usize = 4;

/// Returns how many places there are.
pub(super) fn count(extents: &[usize]) -> usize {
    let axes = spatial(extents).iter().map(|n| along(*n).len());
    axes.product::<usize>().max(1) + DIAGONAL
}

/// Places that come first: the middle, the first and the last corner.
const DIAGONAL: usize = 3;

/// Returns place number `index` of `channel`, the middle of all axes first; `None` without extents.
pub(super) fn place(extents: &[usize], channel: usize, index: usize) -> Option<Vec<usize>> {
    let last = extents.len().checked_sub(1)?;
    let mut at = vec![0; extents.len()];
    at[last] = channel.min(extents[last].checked_sub(1)?);
    let index = index.rem_euclid(count(extents));
    let mut rest = index.saturating_sub(DIAGONAL);
    for (axis, n) in extents.iter().enumerate().take(last).skip(1) {
        if index < DIAGONAL {
            at[axis] = [n.div_euclid(2), 0, n.checked_sub(1)?][index];
        } else {
            let positions = along(*n);
            at[axis] = *positions.get(rest.checked_rem(positions.len())?)?;
            rest = rest.div_euclid(positions.len());
        }
    }
    Some(at)
}

/// Returns the extents between the batch and the channels.
fn spatial(extents: &[usize]) -> &[usize] {
    extents
        .get(1..extents.len().saturating_sub(1))
        .unwrap_or_default()
}

/// Returns the positions of an axis: all of a short one, else those near its ends and the middle.
fn along(n: usize) -> Vec<usize> {
    if n <= 2 * AT_ENDS + 1 {
        return (0..n).collect();
    }
    let ends = (0..AT_ENDS).chain(n - AT_ENDS..n);
    std::iter::once(n.div_euclid(2)).chain(ends).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_a_small_intermediate_is_tried() {
        for extents in [vec![1, 3, 4, 2], vec![1, 1, 9, 5], vec![1, 7]] {
            let all: Vec<Vec<usize>> = (0..count(&extents))
                .map(|index| place(&extents, 1, index).unwrap())
                .collect();
            let mut distinct = all.clone();
            distinct.sort();
            distinct.dedup();
            let n: usize = spatial(&extents).iter().product();
            assert_eq!(distinct.len(), n, "{extents:?}");
            assert!(all.iter().all(|at| at.last() == Some(&1)), "the channel");
        }
    }
}
