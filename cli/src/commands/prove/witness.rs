//! Inputs that overflow, as files.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use bitproof::akida_sim::prove::{Proof, Verdict};
use bitproof::model_files::write_npy_f32;

/// Makes the folder of the files, before any work.
pub(super) fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())
}

/// Writes the inputs that refute an intermediate, and those of a layer that would.
pub(super) fn write_witnesses(folder: &Path, proof: &Proof) -> Result<()> {
    for (layer, stage) in proof.stages() {
        let name = |what: &str| {
            let layer = file_name(&layer.name);
            folder.join(format!("{layer}.{}.{what}.npy", stage.bounds.stage))
        };
        match &stage.verdict {
            Verdict::Refuted(witness) => write_npy_f32(&name("witness"), &witness.input)?,
            Verdict::Possible {
                layer_input: Some(input),
                ..
            } => {
                for (i, x) in input.inputs.iter().enumerate() {
                    let what = match i {
                        0 => "layer-input".to_owned(),
                        i => format!("layer-input-{i}"),
                    };
                    let x = x.mapv(bitproof::quantizer_core::tensor::int_to_f32);
                    write_npy_f32(&name(&what), &x)?;
                }
            }
            Verdict::Possible { .. } | Verdict::Proved { .. } | Verdict::ByDesign => {}
        }
    }
    Ok(())
}

/// Returns a file name for a layer, another one for every layer: characters that a file name cannot
/// have on every system, and `%`, become their UTF-8 bytes in hex, as in `a%2Fb`.
fn file_name(layer: &str) -> String {
    let mut name = String::with_capacity(layer.len());
    for c in layer.chars() {
        if c.is_control()
            || matches!(
                c,
                '/' | '\\' | ':' | '%' | '"' | '<' | '>' | '|' | '?' | '*'
            )
        {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                name.push_str(&format!("%{byte:02X}"));
            }
        } else {
            name.push(c);
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn layers_of_other_names_have_other_files() {
        let layers = ["a/b", "a_b", "a:b", "a%2Fb", "a\\b", "a\nb", "a\u{85}b"];
        let files = layers.map(file_name);
        assert_eq!(
            files,
            [
                "a%2Fb", "a_b", "a%3Ab", "a%252Fb", "a%5Cb", "a%0Ab", "a%C2%85b"
            ]
        );
    }
}
