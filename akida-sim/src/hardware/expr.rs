//! The small language in which rules say their conditions.
//!
//! ```text
//! s0 == s1 and (s0 == 1 or (s0 == 2 and k0 == 3))
//! pad in ['same', 'valid']        all(consumers, ['conv', 'depthwise'])        ceil_div(d1, 32) <= 80
//! ```
//!
//! A name is a fact. A fact may be unknown; `and`, `or` and `not` then follow Kleene's logic, so that
//! a condition is unknown only where the fact decides it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A value of the language.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A word.
    Text(String),
    /// Several values.
    List(Vec<Self>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Text(value) => f.write_str(value),
            Self::List(values) if values.is_empty() => f.write_str("nothing"),
            Self::List(values) => {
                let words: Vec<String> = values.iter().map(Self::to_string).collect();
                f.write_str(&words.join(", "))
            }
        }
    }
}

/// What is known of a layer, a block or the model; a name that is absent is unknown.
pub type Facts = BTreeMap<&'static str, Value>;

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expr(Node);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Constant(Value),
    Fact(String),
    List(Vec<Self>),
    Not(Box<Self>),
    Binary(Operator, Box<[Self; 2]>),
    Call(Function, Box<[Self; 2]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Or,
    And,
    Equal,
    Unequal,
    AtMost,
    Below,
    AtLeast,
    Above,
    In,
    Times,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    /// Whether every item of the first list is in the second.
    All,
    /// Whether an item of the first list is in the second.
    Any,
    /// The quotient, rounded up.
    CeilDiv,
}

/// Operators from the loosest to the tightest.
const LEVELS: [&[(&str, Operator)]; 4] = [
    &[("or", Operator::Or)],
    &[("and", Operator::And)],
    &[
        ("==", Operator::Equal),
        ("!=", Operator::Unequal),
        ("<=", Operator::AtMost),
        ("<", Operator::Below),
        (">=", Operator::AtLeast),
        (">", Operator::Above),
        ("in", Operator::In),
    ],
    &[("*", Operator::Times)],
];

/// Conditions are not nested deeper.
const MAX_DEPTH: usize = 32;

impl Expr {
    /// Returns the condition that `text` says.
    ///
    /// # Errors
    ///
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |message: String| format!("`{text}`: {message}");
        let tokens = tokens(text).map_err(wrong)?;
        let mut parser = Parser { tokens, at: 0 };
        let node = parser.level(0, 0).map_err(wrong)?;
        match parser.tokens.get(parser.at) {
            None => Ok(Self(node)),
            Some(rest) => Err(wrong(format!("`{rest}` is left over"))),
        }
    }

    /// Returns whether the condition holds, `None` if that is unknown; names of unknown facts that
    /// it met go into `unknown`.
    ///
    /// # Errors
    ///
    /// Values of kinds that an operator does not take.
    pub fn holds(
        &self,
        facts: &Facts,
        unknown: &mut BTreeSet<String>,
    ) -> Result<Option<bool>, String> {
        match self.0.value(facts, unknown)? {
            None => Ok(None),
            Some(Value::Bool(holds)) => Ok(Some(holds)),
            Some(other) => Err(format!("`{other}` is neither true nor false")),
        }
    }

    /// Returns the names of all facts in the condition.
    #[must_use]
    pub fn names(&self) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        self.0.names(&mut names);
        names
    }
}

impl Node {
    fn names<'a>(&'a self, names: &mut BTreeSet<&'a str>) {
        match self {
            Self::Constant(_) => {}
            Self::Fact(name) => {
                names.insert(name);
            }
            Self::List(items) => items.iter().for_each(|item| item.names(names)),
            Self::Not(inner) => inner.names(names),
            Self::Binary(_, pair) | Self::Call(_, pair) => {
                pair.iter().for_each(|item| item.names(names));
            }
        }
    }

    fn value(
        &self,
        facts: &Facts,
        unknown: &mut BTreeSet<String>,
    ) -> Result<Option<Value>, String> {
        match self {
            Self::Constant(value) => Ok(Some(value.clone())),
            Self::Fact(name) => {
                let value = facts.get(name.as_str()).cloned();
                if value.is_none() {
                    unknown.insert(name.clone());
                }
                Ok(value)
            }
            Self::List(items) => {
                let items: Result<Option<Vec<Value>>, String> = items
                    .iter()
                    .map(|item| item.value(facts, unknown))
                    .collect();
                Ok(items?.map(Value::List))
            }
            Self::Not(inner) => match inner.value(facts, unknown)? {
                None => Ok(None),
                Some(Value::Bool(value)) => Ok(Some(Value::Bool(!value))),
                Some(other) => Err(format!("not `{other}`")),
            },
            Self::Binary(operator @ (Operator::And | Operator::Or), pair) => {
                logic(*operator, pair, facts, unknown)
            }
            Self::Binary(operator, pair) => {
                let [a, b] = both(pair, facts, unknown)?;
                a.zip(b).map(|(a, b)| binary(*operator, &a, &b)).transpose()
            }
            Self::Call(function, pair) => {
                let [a, b] = both(pair, facts, unknown)?;
                a.zip(b).map(|(a, b)| call(*function, &a, &b)).transpose()
            }
        }
    }
}

fn both(
    pair: &[Node; 2],
    facts: &Facts,
    unknown: &mut BTreeSet<String>,
) -> Result<[Option<Value>; 2], String> {
    let [a, b] = pair;
    Ok([a.value(facts, unknown)?, b.value(facts, unknown)?])
}

/// Kleene's `and` and `or`: the deciding value wins over an unknown one.
fn logic(
    operator: Operator,
    pair: &[Node; 2],
    facts: &Facts,
    unknown: &mut BTreeSet<String>,
) -> Result<Option<Value>, String> {
    let deciding = operator == Operator::Or;
    let mut known = true;
    let mut met = BTreeSet::new();
    for node in pair {
        match node.value(facts, &mut met)? {
            None => known = false,
            Some(Value::Bool(value)) if value == deciding => {
                return Ok(Some(Value::Bool(deciding)));
            }
            Some(Value::Bool(_)) => {}
            Some(other) => return Err(format!("`{other}` is neither true nor false")),
        }
    }
    unknown.extend(met);
    Ok(known.then_some(Value::Bool(!deciding)))
}

fn binary(operator: Operator, a: &Value, b: &Value) -> Result<Value, String> {
    let wrong = || format!("`{a}` and `{b}` are of the wrong kinds");
    let ints = || match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok((*a, *b)),
        _ => Err(wrong()),
    };
    let truth = match operator {
        Operator::Equal | Operator::Unequal => {
            if std::mem::discriminant(a) != std::mem::discriminant(b) {
                return Err(wrong());
            }
            (a == b) == (operator == Operator::Equal)
        }
        Operator::AtMost => ints().map(|(a, b)| a <= b)?,
        Operator::Below => ints().map(|(a, b)| a < b)?,
        Operator::AtLeast => ints().map(|(a, b)| a >= b)?,
        Operator::Above => ints().map(|(a, b)| a > b)?,
        Operator::In => match b {
            Value::List(items) => items.contains(a),
            Value::Bool(_) | Value::Int(_) | Value::Text(_) => return Err(wrong()),
        },
        Operator::Times => return ints().map(|(a, b)| Value::Int(a.saturating_mul(b))),
        Operator::And | Operator::Or => return Err(wrong()),
    };
    Ok(Value::Bool(truth))
}

fn call(function: Function, a: &Value, b: &Value) -> Result<Value, String> {
    match (function, a, b) {
        (Function::All, Value::List(a), Value::List(b)) => {
            Ok(Value::Bool(a.iter().all(|item| b.contains(item))))
        }
        (Function::Any, Value::List(a), Value::List(b)) => {
            Ok(Value::Bool(a.iter().any(|item| b.contains(item))))
        }
        (Function::CeilDiv, Value::Int(a), Value::Int(b)) if *a >= 0 && *b > 0 => {
            Ok(Value::Int(a.div_euclid(*b) + i64::from(a % b != 0)))
        }
        _ => Err(format!("`{a}` and `{b}` are of the wrong kinds")),
    }
}

struct Parser {
    tokens: Vec<String>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<&str> {
        self.tokens.get(self.at).map(String::as_str)
    }

    fn take(&mut self, token: &str) -> bool {
        let is_next = self.peek() == Some(token);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.take(token) {
            return Ok(());
        }
        Err(format!("`{token}` is missing"))
    }

    fn level(&mut self, level: usize, depth: usize) -> Result<Node, String> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deeply".to_owned());
        }
        let Some(operators) = LEVELS.get(level) else {
            return self.atom(depth);
        };
        let mut left = self.level(level + 1, depth)?;
        while let Some((_, operator)) = operators.iter().find(|(t, _)| self.peek() == Some(*t)) {
            self.at += 1;
            let right = self.level(level + 1, depth)?;
            left = Node::Binary(*operator, Box::new([left, right]));
        }
        Ok(left)
    }

    fn atom(&mut self, depth: usize) -> Result<Node, String> {
        let Some(token) = self.tokens.get(self.at).cloned() else {
            return Err("it ends too early".to_owned());
        };
        self.at += 1;
        if let Ok(number) = token.parse() {
            return Ok(Node::Constant(Value::Int(number)));
        }
        if let Some(word) = token.strip_prefix('\'') {
            let word = word.trim_end_matches('\'').to_owned();
            return Ok(Node::Constant(Value::Text(word)));
        }
        match token.as_str() {
            "(" => {
                let inner = self.level(0, depth + 1)?;
                self.expect(")")?;
                Ok(inner)
            }
            "[" => {
                let items = self.items("]", depth)?;
                Ok(Node::List(items))
            }
            "not" => Ok(Node::Not(Box::new(self.level(2, depth + 1)?))),
            "true" | "false" => Ok(Node::Constant(Value::Bool(token == "true"))),
            name if is_name(name) && self.take("(") => {
                let items = self.items(")", depth)?;
                let function = function(name)?;
                let pair = <[Node; 2]>::try_from(items);
                let pair = pair.map_err(|_| format!("`{name}` takes two values"))?;
                Ok(Node::Call(function, Box::new(pair)))
            }
            name if is_name(name) => Ok(Node::Fact(name.to_owned())),
            other => Err(format!("`{other}` is not expected")),
        }
    }

    fn items(&mut self, end: &str, depth: usize) -> Result<Vec<Node>, String> {
        let mut items = Vec::new();
        if self.take(end) {
            return Ok(items);
        }
        loop {
            items.push(self.level(0, depth + 1)?);
            if self.take(end) {
                return Ok(items);
            }
            self.expect(",")?;
        }
    }
}

fn function(name: &str) -> Result<Function, String> {
    match name {
        "all" => Ok(Function::All),
        "any" => Ok(Function::Any),
        "ceil_div" => Ok(Function::CeilDiv),
        other => Err(format!("there is no function `{other}`")),
    }
}

fn is_name(token: &str) -> bool {
    let keywords = ["and", "or", "in", "not"];
    token.starts_with(|c: char| c.is_ascii_lowercase()) && !keywords.contains(&token)
}

/// Returns the words and signs of a text; a word in quotes keeps them.
fn tokens(text: &str) -> Result<Vec<String>, String> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let mut token = String::from(c);
        if c.is_whitespace() {
            continue;
        } else if c == '\'' {
            for c in chars.by_ref() {
                token.push(c);
                if c == '\'' {
                    break;
                }
            }
            if token.len() < 2 || !token.ends_with('\'') {
                return Err("a quote is not closed".to_owned());
            }
        } else if c.is_ascii_alphanumeric() || c == '-' {
            while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                token.push(c);
            }
        } else if "=!<>".contains(c) {
            token.extend(chars.next_if_eq(&'='));
        } else if !"()[],*".contains(c) {
            return Err(format!("`{c}` has no meaning"));
        }
        tokens.push(token);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(text: &str, facts: &[(&'static str, Value)]) -> (Option<bool>, Vec<String>) {
        let facts: Facts = facts.iter().cloned().collect();
        let mut unknown = BTreeSet::new();
        let holds = Expr::parse(text).unwrap().holds(&facts, &mut unknown);
        (holds.unwrap(), unknown.into_iter().collect())
    }

    #[test]
    fn conditions_are_evaluated() {
        let facts = [
            ("k", Value::Int(3)),
            ("pad", Value::Text("same".to_owned())),
            ("on", Value::Bool(true)),
            ("to", Value::List(vec![Value::Text("conv".to_owned())])),
        ];
        for (text, wanted) in [
            ("k == 3", true),
            ("k != 3", false),
            ("k < 3 or k > 3", false),
            ("k <= 3 and k >= 3", true),
            ("k in [1, 3, 5]", true),
            ("k in []", false),
            ("pad in ['same', 'valid']", true),
            ("not on", false),
            ("not k == 4 and on", true),
            ("k * k * 2 == 18", true),
            ("k == -3", false),
            ("all(to, ['conv', 'dense'])", true),
            ("any(to, ['dense'])", false),
            ("ceil_div(k, 2) == 2 and ceil_div(4, 2) == 2", true),
            ("k == 4 or k == 3 and on", true),
            ("(k == 3 or on) and k == 4", false),
        ] {
            assert_eq!(eval(text, &facts), (Some(wanted), vec![]), "{text}");
        }
    }

    #[test]
    fn an_unknown_fact_counts_only_where_it_decides() {
        let facts = [("k", Value::Int(3))];
        for (text, wanted) in [
            ("k == 4 and x == 1", Some(false)),
            ("x == 1 and k == 4", Some(false)),
            ("x == 1 or k == 3", Some(true)),
            ("x == 1 and k == 3", None),
            ("x == 1 or k == 4", None),
            ("not x == 1", None),
            ("x in [1]", None),
            ("k in [x]", None),
        ] {
            let unknown = if wanted.is_none() { vec!["x"] } else { vec![] };
            let (holds, names) = eval(text, &facts);
            assert_eq!(holds, wanted, "{text}");
            assert_eq!(names, unknown, "{text}");
        }
    }

    #[test]
    fn mistakes_are_refused() {
        for text in [
            "", "k ==", "k = 3", "(k == 3", "[1", "k == 3 3", "f(1, 2)", "all([])", "'a", "k ; 3",
            "A", "1x",
        ] {
            assert!(Expr::parse(text).is_err(), "{text}");
        }
        let deep = "(".repeat(100) + "k" + &")".repeat(100);
        assert!(Expr::parse(&deep).is_err(), "depth is limited");
        let facts: Facts = [("k", Value::Int(3))].into_iter().collect();
        for text in [
            "k",
            "not k",
            "k == 'a'",
            "k in k",
            "k and k",
            "ceil_div(k, 0) == 1",
        ] {
            let expr = Expr::parse(text).unwrap();
            assert!(expr.holds(&facts, &mut BTreeSet::new()).is_err(), "{text}");
        }
    }
}
