//! Accuracy on labelled data.

use std::collections::BTreeMap;

/// How well labelled data is classified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accuracy {
    /// Items.
    pub n_items: u64,
    /// Items that the quantized model classifies right.
    pub quantized_right: u64,
    /// Items that the float model classifies right, if it was run.
    pub float_right: Option<u64>,
    /// Items that both classify alike, if the float model was run.
    pub alike: Option<u64>,
    /// Number of items by label and class found by the quantized model.
    pub confusion: BTreeMap<(i64, i64), u64>,
}

impl Accuracy {
    /// Counts items: their labels, and the classes that the models found.
    pub fn add(&mut self, labels: &[i64], quantized: &[i64], float: Option<&[i64]>) {
        for (label, class) in labels.iter().zip(quantized) {
            self.n_items += 1;
            self.quantized_right += u64::from(label == class);
            *self.confusion.entry((*label, *class)).or_default() += 1;
        }
        if let Some(float) = float {
            *self.float_right.get_or_insert(0) += equal(labels, float);
            *self.alike.get_or_insert(0) += equal(quantized, float);
        }
    }

    /// Returns the labels and classes that occur, in order.
    #[must_use]
    pub fn classes(&self) -> Vec<i64> {
        let all = self
            .confusion
            .keys()
            .flat_map(|(label, class)| [*label, *class]);
        let mut all: Vec<i64> = all.collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

fn equal(a: &[i64], b: &[i64]) -> u64 {
    a.iter().zip(b).map(|(a, b)| u64::from(a == b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_counted_by_label_and_class() {
        let mut accuracy = Accuracy::default();
        accuracy.add(&[0, 1, 1], &[0, 1, 2], Some(&[0, 0, 2]));
        accuracy.add(&[2], &[2], Some(&[2]));
        assert_eq!((accuracy.n_items, accuracy.quantized_right), (4, 3));
        assert_eq!((accuracy.float_right, accuracy.alike), (Some(2), Some(3)));
        assert_eq!(
            accuracy.confusion.get(&(1, 2)),
            Some(&1),
            "a 1 taken for a 2"
        );
        assert_eq!(accuracy.classes(), [0, 1, 2]);
    }
}
