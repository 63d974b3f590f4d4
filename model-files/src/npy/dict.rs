//! The dictionary of a `.npy` header: a Python literal with three known keys.

/// What the dictionary says, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dict {
    /// NumPy's type text, such as `<f4`.
    pub(super) descr: String,
    pub(super) fortran_order: bool,
    pub(super) shape: Vec<usize>,
}

impl Dict {
    /// Returns the dictionary of a header's text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut scanner = Scanner { rest: text };
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        scanner.expect('{')?;
        while !scanner.take('}') {
            let key = scanner.string()?;
            scanner.expect(':')?;
            match key {
                "descr" if scanner.peek() == Some('[') => {
                    return Err("an array of records".to_owned());
                }
                "descr" => descr = Some(scanner.string()?.to_owned()),
                "fortran_order" => fortran_order = Some(scanner.boolean()?),
                "shape" => shape = Some(scanner.tuple()?),
                other => return Err(format!("a header with the key `{other}`")),
            }
            if !scanner.take(',') {
                scanner.expect('}')?;
                break;
            }
        }
        let missing = |key: &str| format!("a header without `{key}`");
        Ok(Self {
            descr: descr.ok_or_else(|| missing("descr"))?,
            fortran_order: fortran_order.ok_or_else(|| missing("fortran_order"))?,
            shape: shape.ok_or_else(|| missing("shape"))?,
        })
    }
}

/// The text that is not read yet.
struct Scanner<'t> {
    rest: &'t str,
}

impl<'t> Scanner<'t> {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn take(&mut self, wanted: char) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        if self.take(wanted) {
            Ok(())
        } else {
            Err(format!("a header without a `{wanted}` where one belongs"))
        }
    }

    fn string(&mut self) -> Result<&'t str, String> {
        let quote = self.peek().filter(|c| ['\'', '"'].contains(c));
        let quote = quote.ok_or("a header without a string where one belongs")?;
        self.take(quote);
        let (string, rest) = self
            .rest
            .split_once(quote)
            .ok_or("a header with an open string")?;
        self.rest = rest;
        Ok(string)
    }

    fn boolean(&mut self) -> Result<bool, String> {
        self.peek();
        for (word, value) in [("False", false), ("True", true)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err("a header without a truth value where one belongs".to_owned())
    }

    fn tuple(&mut self) -> Result<Vec<usize>, String> {
        let mut extents = Vec::new();
        self.expect('(')?;
        while !self.take(')') {
            self.peek();
            let end = self.rest.find(|c: char| !c.is_ascii_digit());
            let (digits, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
            let extent = digits.parse();
            extents.push(extent.map_err(|_| format!("an extent `{digits}`"))?);
            self.rest = rest;
            // Python 2 wrote long integers with a letter.
            self.take('L');
            if !self.take(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(extents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionaries_are_read_in_any_order_and_spacing() {
        let want = |shape: &[usize]| Dict {
            descr: "<f4".to_owned(),
            fortran_order: false,
            shape: shape.to_vec(),
        };
        let cases: [(&str, &[usize]); 4] = [
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }   \n",
                &[3, 4],
            ),
            (
                "{\"shape\":(3,),\"fortran_order\":False,\"descr\":\"<f4\"}",
                &[3],
            ),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': ()}", &[]),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (3L, 4L)}",
                &[3, 4],
            ),
        ];
        for (text, shape) in cases {
            assert_eq!(Dict::parse(text), Ok(want(shape)), "{text}");
        }
    }

    #[test]
    fn what_is_no_dictionary_is_refused() {
        for text in [
            "",
            "{",
            "{}",
            "{'descr': '<f4', 'fortran_order': False}",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (3,)}",
            "{'descr': '<f4, 'fortran_order': False, 'shape': (3,)}",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3 4)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'more': 1}",
        ] {
            assert!(Dict::parse(text).is_err(), "{text}");
        }
    }
}
