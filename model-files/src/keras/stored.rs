//! Where the weights of a model stand in its HDF5 file.
//!
//! Keras has two layouts. By name: a group for each layer, which lists its weights. By position:
//! `layers/{class}_{k}/vars/{i}`, with models in models nested alike.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::config::{Item, Tree};
use super::variables::{Group, leaves, variables};
use super::weights::{Weights, finite, last_component};
use crate::FileError;
use crate::hdf5::Hdf5;

/// How the weights are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// In groups named like the layers, below this one.
    Named(&'static str),
    /// In groups named like the classes, below one of this name in each model.
    Counted(&'static str),
}

/// Whether layers must have the names that the file notes beside their weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// Model and weights were saved together.
    Same,
    /// Weights fit every model of the same structure, as in Keras.
    Any,
}

impl Layout {
    /// Returns the layout of a file.
    pub(super) fn of(path: &Path, file: &Hdf5) -> Result<Self, FileError> {
        if file.has_group("model_weights") {
            return Ok(Self::Named("model_weights/"));
        }
        if file.strings("/", "layer_names")?.is_some() {
            return Ok(Self::Named(""));
        }
        let counted = ["layers", "_layer_checkpoint_dependencies"];
        match counted.into_iter().find(|group| file.has_group(group)) {
            Some(group) => Ok(Self::Counted(group)),
            None => Err(FileError::invalid(
                path,
                "has no group `model_weights`, and no `layers`",
            )),
        }
    }

    /// Gives each layer of a model its weights.
    pub(super) fn read(
        &self,
        path: &Path,
        file: &Hdf5,
        tree: &mut Tree,
        names: Names,
    ) -> Result<(), FileError> {
        match self {
            Self::Named(root) => named(path, file, tree, root),
            Self::Counted(layers) => Counted {
                path,
                file,
                layers,
                names,
            }
            .read(tree, ""),
        }
    }
}

fn named(path: &Path, file: &Hdf5, tree: &mut Tree, root: &str) -> Result<(), FileError> {
    refuse_foreign_weights(path, file, tree, root)?;
    for part in &mut tree.parts {
        let group = format!("{root}{}", part.item.name);
        match &mut part.inner {
            None => part.item.weights = Weights::read(file, path, &group, &part.item.name)?,
            Some(inner) => inner_model(path, file, inner, &group)?,
        }
    }
    Ok(())
}

/// Reads the weights of an inner model: first what is trained, then the rest, layer by layer.
fn inner_model(path: &Path, file: &Hdf5, tree: &mut Tree, group: &str) -> Result<(), FileError> {
    let names = if file.has_group(group) {
        file.strings(group, "weight_names")?.unwrap_or_default()
    } else {
        Vec::new()
    };
    let mut names = names.into_iter();
    let mut layers = leaves(tree);
    for wanted in [Group::Trainable, Group::Fixed] {
        for item in &mut layers {
            for variable in variables(item).into_iter().filter(|v| v.group == wanted) {
                let refused = |what: &str| {
                    FileError::invalid(
                        path,
                        format!(
                            "`{group}`: {what} `{}` of layer `{}`",
                            variable.name, item.name
                        ),
                    )
                };
                let name = names.next().ok_or_else(|| refused("has no weight"))?;
                let stored = last_component(&name);
                // Keras 3 calls every kernel `kernel`.
                if stored != variable.name
                    && !(stored == "kernel" && variable.name == "depthwise_kernel")
                {
                    return Err(refused(&format!("has `{name}` in the place of")));
                }
                let array = file.floats(&format!("{group}/{name}"))?;
                finite(path, &item.name, &name, &array)?;
                item.weights.insert(variable.name, array);
            }
        }
    }
    match names.next() {
        None => Ok(()),
        Some(name) => Err(FileError::invalid(
            path,
            format!("`{group}`: unexpected weight `{name}`"),
        )),
    }
}

/// Refuses weights of layers that the model does not have.
fn refuse_foreign_weights(
    path: &Path,
    file: &Hdf5,
    tree: &Tree,
    root: &str,
) -> Result<(), FileError> {
    let known: BTreeSet<&str> = tree
        .parts
        .iter()
        .map(|part| part.item.name.as_str())
        .collect();
    let group = if root.is_empty() { "/" } else { root };
    for layer in file.strings(group, "layer_names")?.unwrap_or_default() {
        let group = format!("{root}{layer}");
        if !known.contains(layer.as_str()) && file.has_group(&group) {
            let names = file.strings(&group, "weight_names")?.unwrap_or_default();
            if !names.is_empty() {
                let message = format!("has weights of a layer `{layer}`, which the model has not");
                return Err(FileError::invalid(path, message));
            }
        }
    }
    Ok(())
}

/// The layout by position.
struct Counted<'a> {
    path: &'a Path,
    file: &'a Hdf5,
    /// Name of the group that holds the layers of a model.
    layers: &'static str,
    names: Names,
}

impl Counted<'_> {
    /// Reads the weights of a model whose group is `at`, empty or with a `/` at its end.
    fn read(&self, tree: &mut Tree, at: &str) -> Result<(), FileError> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut groups = BTreeSet::new();
        for part in &mut tree.parts {
            let class = snake_case(part.item.class.rsplit('>').next().unwrap_or_default());
            let class = if class == "model" {
                "functional".to_owned()
            } else {
                class
            };
            let count = seen.entry(class.clone()).or_insert(0);
            let group = match *count {
                0 => class,
                k => format!("{class}_{k}"),
            };
            *count += 1;
            let place = format!("{at}{}/{group}", self.layers);
            groups.insert(group);
            match &mut part.inner {
                Some(inner) => self.read(inner, &format!("{place}/"))?,
                None => self.layer(&mut part.item, &place)?,
            }
        }
        self.refuse_others(&format!("{at}{}", self.layers), &groups)
    }

    fn layer(&self, item: &mut Item, place: &str) -> Result<(), FileError> {
        let invalid =
            |what: String| FileError::invalid(self.path, format!("layer `{}`: {what}", item.name));
        let group = format!("{place}/vars");
        let variables = variables(item);
        if !self.file.has_group(&group) {
            return Ok(()); // A weight that is missing is refused with the layer.
        }
        if self.names == Names::Same
            && let Some(name) = self.file.string(&group, "name")?
            && name != item.name
        {
            return Err(invalid(format!("`{group}` holds the weights of `{name}`")));
        }
        let stored = self.file.datasets(&group)?;
        if stored.len() != variables.len() {
            return Err(invalid(format!(
                "`{group}` holds {} weights, not {}",
                stored.len(),
                variables.len()
            )));
        }
        for (i, variable) in variables.iter().enumerate() {
            let name = format!("{group}/{i}");
            let array = self.file.floats(&name)?;
            finite(self.path, &item.name, &name, &array)?;
            item.weights.insert(variable.name, array);
        }
        Ok(())
    }

    /// Refuses weights in groups that no layer of the model has.
    fn refuse_others(&self, place: &str, known: &BTreeSet<String>) -> Result<(), FileError> {
        if !self.file.has_group(place) {
            return Ok(());
        }
        for group in self.file.groups(place)? {
            let vars = format!("{place}/{group}/vars");
            let is_foreign = !known.contains(&group) && self.file.has_group(&vars);
            if is_foreign && !self.file.datasets(&vars)?.is_empty() {
                let message = format!("has weights `{vars}`, for which the model has no layer");
                return Err(FileError::invalid(self.path, message));
            }
        }
        Ok(())
    }
}

/// Returns a class's name as Keras writes it in files: `ReLU` is `re_lu`, `Conv2D` is `conv2d`.
fn snake_case(class: &str) -> String {
    let chars: Vec<char> = class
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    let mut words = String::new();
    let mut i = 0;
    while i < chars.len() {
        words.push(chars[i]);
        let starts_word = |at: usize| {
            chars.get(at).is_some_and(char::is_ascii_uppercase)
                && chars.get(at + 1).is_some_and(char::is_ascii_lowercase)
        };
        i += 1;
        if starts_word(i) {
            words.push('_');
            words.push(chars[i]);
            i += 1;
            while chars.get(i).is_some_and(char::is_ascii_lowercase) {
                words.push(chars[i]);
                i += 1;
            }
        }
    }
    let mut snake = String::new();
    let mut before = '_';
    for c in words.chars() {
        if before.is_ascii_lowercase() && c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
        before = c;
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::snake_case;

    #[test]
    fn classes_are_called_as_in_keras() {
        for (class, want) in [
            ("Conv2D", "conv2d"),
            ("ReLU", "re_lu"),
            ("PReLU", "p_re_lu"),
            ("LeakyReLU", "leaky_re_lu"),
            ("DepthwiseConv2D", "depthwise_conv2d"),
            ("Conv2DTranspose", "conv2d_transpose"),
            ("SeparableConv2D", "separable_conv2d"),
            ("BatchNormalization", "batch_normalization"),
            ("GlobalAveragePooling2D", "global_average_pooling2d"),
            ("ZeroPadding2D", "zero_padding2d"),
            ("InputLayer", "input_layer"),
            ("Functional", "functional"),
        ] {
            assert_eq!(snake_case(class), want, "{class}");
        }
    }
}
