//! Work that the threads share.
//!
//! Everything generic over element types comes here: a parallel iterator compiles rayon's machinery again for each
//! combination of types, and there are hundreds.

use rayon::prelude::*;

/// Values handled by one worker at a time.
pub(super) const CHUNK: usize = 1 << 14;

/// What a thread runs without knowing its types.
type Task<'t> = Box<dyn FnOnce() + Send + 't>;

/// Returns what `work` returns for each item, in order.
pub(super) fn in_parallel<T: Send, R: Send>(
    items: impl Iterator<Item = T>,
    work: &(impl Fn(T) -> R + Sync),
) -> Vec<R> {
    let items: Vec<T> = items.collect();
    let mut results = Vec::new();
    results.resize_with(items.len(), || None);
    let mut tasks: Vec<Task<'_>> = Vec::with_capacity(items.len());
    for (item, result) in items.into_iter().zip(&mut results) {
        tasks.push(Box::new(|| *result = Some(work(item))));
    }
    run(tasks);
    results.into_iter().flatten().collect()
}

/// Returns what `f` makes of each index and value.
pub(super) fn mapped<X: Copy + Sync, T: Copy + Default + Send>(
    x: &[X],
    f: impl Fn(usize, X) -> T + Sync,
) -> Vec<T> {
    let mut out = vec![T::default(); x.len()];
    let chunks = out.chunks_mut(CHUNK).zip(x.chunks(CHUNK)).enumerate();
    in_parallel(chunks, &|(chunk, (out, x)): (usize, (&mut [T], &[X]))| {
        for (i, (out, x)) in out.iter_mut().zip(x).enumerate() {
            *out = f(chunk * CHUNK + i, *x);
        }
    });
    out
}

fn run(tasks: Vec<Task<'_>>) {
    tasks.into_par_iter().for_each(|task| task());
}

#[cfg(test)]
mod tests {
    use super::{CHUNK, in_parallel, mapped};

    #[test]
    fn results_are_in_order() {
        for n in [0, 1, 1000] {
            let squares = in_parallel(0..n, &|i: usize| i * i);
            assert_eq!(squares, (0..n).map(|i| i * i).collect::<Vec<_>>(), "of {n}");
        }
        for n in [0, 1, CHUNK, 3 * CHUNK + 1] {
            let values: Vec<usize> = (0..n).map(|i| 7 * i).collect();
            let mapped = mapped(&values, |i, v| i + v);
            let each = (0..n).map(|i| 8 * i);
            assert_eq!(mapped, each.collect::<Vec<_>>(), "of {n}");
        }
    }
}
