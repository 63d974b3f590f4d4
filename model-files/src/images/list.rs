//! Which files are the images, in a fixed order.

use std::fs;
use std::path::{Path, PathBuf};

use crate::FileError;

/// Folders are entered this deep: links can make circles.
const MAX_DEPTH: usize = 16;

/// Image files in the order of their paths, compared part by part and byte by byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageList {
    /// The files.
    pub paths: Vec<PathBuf>,
    /// Files with other names than images have, which were left out.
    pub n_left_out: usize,
}

/// Image files with a label each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelledImages {
    /// The files, class after class.
    pub paths: Vec<PathBuf>,
    /// A label for each file.
    pub labels: Vec<i64>,
    /// Names of the classes and their labels, in the order of the labels.
    pub classes: Vec<(String, i64)>,
    /// Files with other names than images have, which were left out.
    pub n_left_out: usize,
}

/// Returns the `.png`, `.jpg` and `.jpeg` files in a folder and in the folders in it.
///
/// Hidden ones, whose names start with a dot, are passed over.
///
/// # Errors
///
/// A folder that cannot be read, or without images.
pub fn images_in(folder: &Path) -> Result<ImageList, FileError> {
    let mut list = ImageList::default();
    collect(folder, MAX_DEPTH, &mut list)?;
    if list.paths.is_empty() {
        return Err(FileError::invalid(
            folder,
            "no .png, .jpg or .jpeg file in this folder",
        ));
    }
    list.paths.sort();
    Ok(list)
}

/// Returns the files that a pattern of `*`, `?`, `[..]` and `**` matches.
///
/// # Errors
///
/// A pattern that cannot be right, that matches no file, or a folder that cannot be read.
pub fn glob_images(pattern: &str) -> Result<ImageList, FileError> {
    let at = Path::new(pattern);
    let found = glob::glob(pattern).map_err(|e| FileError::invalid(at, e.to_string()))?;
    let mut paths = Vec::new();
    for path in found {
        let path = path.map_err(|e| FileError::io(e.path(), e.error()))?;
        if !path.is_dir() {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(FileError::invalid(at, "no file has such a name"));
    }
    paths.sort();
    Ok(ImageList {
        paths,
        n_left_out: 0,
    })
}

/// Returns the images of a folder that holds a folder for each class.
///
/// Classes are numbered from 0 in the order of their names. If all names are numbers, they are
/// the labels.
///
/// # Errors
///
/// A folder that cannot be read or has no classes, an image outside of the classes, two names of
/// one number.
pub fn labelled_images(root: &Path) -> Result<LabelledImages, FileError> {
    let mut names = Vec::new();
    for path in entries(root)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(FileError::invalid(&path, "a name that is no text"));
        };
        if path.is_dir() {
            names.push(name.to_owned());
        } else if is_image(&path) {
            return Err(FileError::invalid(
                &path,
                "an image outside of the folders of the classes",
            ));
        }
    }
    let mut labelled = LabelledImages {
        classes: classes(root, names)?,
        ..LabelledImages::default()
    };
    for (name, label) in &labelled.classes {
        let mut list = ImageList::default();
        collect(&root.join(name), MAX_DEPTH, &mut list)?;
        list.paths.sort();
        labelled.labels.extend(list.paths.iter().map(|_| *label));
        labelled.paths.append(&mut list.paths);
        labelled.n_left_out += list.n_left_out;
    }
    if labelled.paths.is_empty() {
        let message = "no images; expected a folder for each class, such as cats/1.png";
        return Err(FileError::invalid(root, message));
    }
    Ok(labelled)
}

/// Returns the classes of these names with their labels.
fn classes(root: &Path, mut names: Vec<String>) -> Result<Vec<(String, i64)>, FileError> {
    names.sort();
    let numbers: Option<Vec<i64>> = names
        .iter()
        .map(|name| name.parse::<u32>().ok().map(i64::from))
        .collect();
    let Some(numbers) = numbers else {
        return Ok(names.into_iter().zip(0..).collect());
    };
    let mut classes: Vec<(String, i64)> = names.into_iter().zip(numbers).collect();
    classes.sort_by_key(|(_, label)| *label);
    if let Some([(a, _), (b, _)]) = classes.array_windows().find(|[(_, a), (_, b)]| a == b) {
        let message = format!("the folders `{a}` and `{b}` are one class");
        return Err(FileError::invalid(root, message));
    }
    Ok(classes)
}

/// Adds the images below a folder.
fn collect(folder: &Path, depth: usize, list: &mut ImageList) -> Result<(), FileError> {
    if depth == 0 {
        return Err(FileError::invalid(
            folder,
            "folders within folders within folders; does a link make a circle?",
        ));
    }
    for path in entries(folder)? {
        if path.is_dir() {
            collect(&path, depth - 1, list)?;
        } else if is_image(&path) {
            list.paths.push(path);
        } else {
            list.n_left_out += 1;
        }
    }
    Ok(())
}

/// Returns what is in a folder and not hidden.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let io = |e: &std::io::Error| FileError::io(folder, e);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| io(&e))? {
        let entry = entry.map_err(|e| io(&e))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

/// Returns whether a file has the name of an image.
fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        ["png", "jpg", "jpeg"]
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}
