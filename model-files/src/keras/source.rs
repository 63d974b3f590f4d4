//! The file or files of a model: its JSON and its weights.

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;
use zip::{CompressionMethod, ZipArchive};

use super::config::{ModelConfig, Refused, Tree};
use super::nested::flattened;
use super::stored::{Layout, Names};
use crate::FileError;
use crate::hdf5::{Hdf5, MOST_INFLATED};

/// A model whose JSON is parsed, and the file with its weights.
pub(super) struct Source {
    path: PathBuf,
    file: Hdf5,
    tree: Tree,
    names: Names,
}

impl Source {
    /// Opens a `.h5` file, or a file of weights that has the JSON of its model beside it.
    pub(super) fn open_h5(path: &Path) -> Result<Self, FileError> {
        let file = Hdf5::open(path)?;
        let (text, names) = match file.string("/", "model_config")? {
            Some(text) => (text, Names::Same),
            None => (text_beside(path)?, Names::Any),
        };
        Self::new(path, file, &text, names)
    }

    /// Opens a `.keras` archive.
    pub(super) fn open_archive(path: &Path) -> Result<Self, FileError> {
        let bytes = std::fs::read(path).map_err(|e| FileError::io(path, &e))?;
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let mut archive = ZipArchive::new(Cursor::new(bytes))
            .map_err(|e| FileError::invalid(path, e.to_string()))?;
        let text = member(path, &mut archive, size, "config.json")?;
        let text = String::from_utf8(text)
            .map_err(|_| FileError::invalid(path, "config.json is no UTF-8"))?;
        let weights = member(path, &mut archive, size, "model.weights.h5")?;
        let file = Hdf5::from_bytes(path, weights)?;
        Self::new(path, file, &text, Names::Same)
    }

    fn new(path: &Path, file: Hdf5, text: &str, names: Names) -> Result<Self, FileError> {
        let tree = Tree::parse(text).map_err(|e| refused(path, e))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            tree,
            names,
        })
    }

    /// Returns whether `test` holds for the class of a layer, at any depth.
    pub(super) fn any_class(&mut self, test: impl Fn(&str) -> bool) -> bool {
        super::variables::leaves(&mut self.tree)
            .iter()
            .any(|item| test(&item.class))
    }

    /// Returns the model in one level, with its weights.
    pub(super) fn read(
        mut self,
        is_known: impl Fn(&str) -> bool,
    ) -> Result<ModelConfig, FileError> {
        let path = &self.path;
        // All classes that are not known, in one error.
        let unknown: Vec<String> = super::variables::leaves(&mut self.tree)
            .iter()
            .filter(|item| !is_known(&item.class))
            .map(|item| format!("`{}` ({})", item.name, item.class))
            .collect();
        if !unknown.is_empty() {
            let message = format!("layers {}", unknown.join(", "));
            return Err(FileError::unsupported(path, message));
        }
        let layout = Layout::of(path, &self.file)?;
        layout.read(path, &self.file, &mut self.tree, self.names)?;
        flattened(self.tree).map_err(|e| refused(path, e))
    }
}

/// Returns whether a zip archive is a `.keras` file, by its members.
pub(crate) fn is_archive(path: &Path) -> Result<bool, FileError> {
    let file = std::fs::File::open(path).map_err(|e| FileError::io(path, &e))?;
    let archive = ZipArchive::new(std::io::BufReader::new(file));
    Ok(archive.is_ok_and(|mut archive| archive.by_name("config.json").is_ok()))
}

/// Returns the JSON beside a file of weights: `NAME.json` of `NAME.weights.h5` or `NAME.h5`, or
/// `config.json`, as in a `.keras` file that was unpacked.
fn text_beside(path: &Path) -> Result<String, FileError> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".weights").unwrap_or(&name);
    let own = format!("{name}.json");
    for candidate in [own.as_str(), "config.json"] {
        let beside = path.with_file_name(candidate);
        if beside.is_file() {
            let text = std::fs::read_to_string(&beside).map_err(|e| FileError::io(&beside, &e))?;
            let is_model = serde_json::from_str(&text)
                .is_ok_and(|value: Value| value.get("class_name").is_some());
            return if is_model {
                Ok(text)
            } else {
                Err(FileError::invalid(
                    &beside,
                    format!(
                        "is not the JSON of a Keras model, which the weights in {} need",
                        path.display()
                    ),
                ))
            };
        }
    }
    Err(FileError::unsupported(
        path,
        format!(
            "weights without a model: no model_config, and neither {own} nor config.json beside \
             them; save the model"
        ),
    ))
}

/// Returns the content of a member, of no more bytes than the archive can hold.
fn member(
    path: &Path,
    archive: &mut ZipArchive<Cursor<Vec<u8>>>,
    file_size: u64,
    name: &str,
) -> Result<Vec<u8>, FileError> {
    let invalid = |message: String| FileError::invalid(path, format!("{name}: {message}"));
    let entry = archive.by_name(name).map_err(|e| invalid(e.to_string()))?;
    let method = entry.compression();
    if method != CompressionMethod::Stored && method != CompressionMethod::Deflated {
        return Err(FileError::unsupported(
            path,
            format!("compression {method}"),
        ));
    }
    let most = if method == CompressionMethod::Stored {
        file_size
    } else {
        file_size.saturating_mul(MOST_INFLATED)
    };
    let size = entry.size();
    if size > most {
        return Err(invalid("is longer than the archive can hold".to_owned()));
    }
    let mut bytes = Vec::new();
    // One byte more, so that the end is met and the checksum is checked.
    let n_read = entry.take(size.saturating_add(1)).read_to_end(&mut bytes);
    let n_read = n_read.map_err(|e| invalid(e.to_string()))?;
    if u64::try_from(n_read).is_ok_and(|n| n == size) {
        Ok(bytes)
    } else {
        Err(invalid("is cut off".to_owned()))
    }
}

fn refused(path: &Path, error: Refused) -> FileError {
    match error {
        Refused::Invalid(message) => FileError::invalid(path, message),
        Refused::Unsupported(message) => FileError::unsupported(path, message),
    }
}
