//! The command line.

mod samples;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use samples::{FilterArg, FitArg, OnBadArg, OrderArg, SourceArgs};

/// Short flags of several letters that QuantizeML's own command has, and ours for them.
const LONG_SHORTS: [(&str, &str); 6] = [
    ("-id", "--input-dtype"),
    ("-lob", "--last-output-bits"),
    ("-sa", "--samples"),
    ("-ns", "--num-samples"),
    ("-bs", "--batch-size"),
    ("-qu", "--quantize-until"),
];

/// Flags of a calibration, for which there is nothing to do with `quantize --ranges`.
const CALIBRATION_FLAGS: [&str; 17] = [
    "samples",
    "num_samples",
    "batch_size",
    "epochs",
    "seed",
    "observer",
    "samples_key",
    "sample_shape",
    "sample_dtype",
    "preprocess",
    "image_size",
    "fit",
    "resize_shorter",
    "resize_filter",
    "channel_order",
    "on_bad_sample",
    "input_shape",
];

/// Quantize a trained network to fixed point, calibrate it, and run it in exact integers.
///
/// Without a command, runs `demo`.
#[derive(Debug, Parser)]
#[command(name = "bitproof", version, max_term_width = 100)]
#[command(
    after_help = "Example:\n  bitproof quantize model.h5 --samples x_train.npy -s model.bpq.safetensors\n  bitproof eval model.bpq.safetensors --data test.npz --float model.h5\n\nExit codes: 0 done, 1 done and the answer is no, 2 wrong use or bad input, 3 a fault of bitproof."
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Quantize and calibrate a float model
    #[command(
        after_help = "Example:\n  bitproof quantize model.h5 --samples x.npy -w 4 -a 4 -i 8 -c q_config.json -s out.bpq.safetensors"
    )]
    Quantize(Box<QuantizeArgs>),
    /// Calibrate the ranges of a float model and keep them for `quantize --ranges`
    #[command(
        after_help = "Example:\n  bitproof calibrate model.h5 --samples images/ --observer percentile:99.9 -s ranges.json"
    )]
    Calibrate(Box<CalibrateArgs>),
    /// Print the configuration of a quantized model as JSON, to edit and pass to `quantize -c`
    #[command(after_help = "Example:\n  bitproof config model.bpq.safetensors > q_config.json")]
    Config(ModelArgs),
    /// Print the layers of a float or quantized model
    #[command(after_help = "Example:\n  bitproof summary model.h5")]
    Summary(ModelFormatArgs),
    /// Run a model on inputs: a quantized one in integers, a float one in floats
    #[command(
        after_help = "Example:\n  bitproof run model.bpq.safetensors --inputs x.npy --outputs y.npy --dump-layers layers.npz"
    )]
    Run(RunArgs),
    /// Measure the accuracy of a quantized model on labelled data
    #[command(
        after_help = "Example:\n  bitproof eval model.bpq.safetensors --data test.npz --float model.h5 --min-accuracy 0.98\n\nExit codes: 0 done, 1 the accuracy is below --min-accuracy."
    )]
    Eval(EvalArgs),
    /// Time the integer simulation of a quantized model, or the calibration of a float one
    #[command(
        after_help = "Without --inputs the images are random. Nothing but the model's own work is timed: no files, no start; for a\nfloat model, the calibration's own reading of its images too.\n\nExample:\n  bitproof bench model.bpq.safetensors --batch 16 --threads 1"
    )]
    Bench(crate::commands::bench::BenchArgs),
    /// Prove that no input can overflow a buffer of the hardware, or find one that does
    #[command(
        after_help = "Example:\n  bitproof prove model.bpq.safetensors --buffer-bits 24 --witness witnesses\n  bitproof prove model.bpq.safetensors --strict --format sarif > prove.sarif\n  bitproof prove model.bpq.safetensors --suggest --float model.h5 --samples x.npy --data test.npz\n\nExit codes: 0 proved or not refuted, 1 refuted (with --strict also: not proved)."
    )]
    Prove(crate::commands::prove::ProveArgs),
    /// Say whether a model fits the published limits of a target, with every rule that it breaks
    #[command(
        after_help = "Every layer's size is printed too; with --samples, its events. What no public source tells is listed as\nnot checked: above all, whether the model fits the memory.\n\nExample:\n  bitproof check model.bpq.safetensors --target akida2\n  bitproof check model.h5 --float -w 4 -a 4 --all-targets\n  bitproof check model.bpq.safetensors --target akd1000,akd1500 --format sarif > check.sarif\n\nExit codes: 0 it fits, 1 it does not (with --all-targets: it fits none)."
    )]
    Check(Box<crate::commands::check::CheckArgs>),
    /// Check every number of a certificate of `prove` again, by a second computation
    #[command(
        after_help = "Example:\n  bitproof prove model.bpq.safetensors --certificate proof.json\n  bitproof verify-certificate model.bpq.safetensors proof.json\n\nExit codes: 0 every number is right, 1 one is not, or the model is another."
    )]
    VerifyCertificate(crate::commands::verify_certificate::VerifyCertificateArgs),
    /// Compare two models layer by layer, and find the smallest input that shows a difference
    #[command(
        after_help = "Layers are matched by their names. Of two quantized models integers and formats are compared; as soon as one\nmodel is float, the real values that the integers stand for, with --tolerance.\n\nExample:\n  bitproof verify a.bpq.safetensors b.h5 --inputs x.npy\n  bitproof verify a.bpq.safetensors b.bpq.safetensors --inputs x.npy --shrink --witness small.npy\n  bitproof verify model.h5 model.onnx --inputs x.npy --tolerance 1e-5\n\nExit codes: 0 equal, 1 different."
    )]
    Verify(crate::commands::verify::VerifyArgs),
    /// Measure what quantization costs in each layer, and try which more bits would help
    #[command(
        after_help = "A layer is measured alone (it takes the float network's activations, quantized) and within the quantized\nmodel. Then the float model is quantized again, with one quantizer after another widened.\n\nExample:\n  bitproof analyze model.bpq.safetensors --float model.h5 --samples x.npy --batch-size 64\n  bitproof analyze model.bpq.safetensors --float model.h5 --samples x.npy --data test.npz --max-bits 8"
    )]
    Analyze(Box<crate::commands::analyze::AnalyzeArgs>),
    /// Insert a Rescaling after the input of a float model
    #[command(
        after_help = "Example:\n  bitproof insert-rescaling model.h5 --scale 0.00784313725490196 --offset -1 -s rescaled.h5"
    )]
    InsertRescaling(InsertRescalingArgs),
    /// Write a model in another format
    #[command(
        after_help = "Float models (.keras, .h5, .onnx) become Keras 2 .h5 or .onnx; quantized ones (QuantizeML's .h5, .bpq.safetensors)\nbecome either of the two, or .onnx with QuantizeLinear and DequantizeLinear, for onnxruntime. What the\ntarget cannot say is refused. A .h5 of weights alone is read with its model's JSON beside it: NAME.json for\nNAME.weights.h5 or NAME.h5, otherwise config.json. A .h5 or .onnx holds no provenance.\n\nExample:\n  bitproof convert model.bpq.safetensors quantized.h5\n  bitproof convert model.bpq.safetensors quantized.onnx"
    )]
    Convert(ConvertArgs),
    /// Print the JSON Schema of a q_config file, or of what a command prints with --format json
    #[command(
        after_help = "Example:\n  bitproof schema > q_config.schema.json\n  bitproof schema --of prove > prove.schema.json\n\nLater versions may add fields; those that a schema requires stay."
    )]
    Schema(crate::commands::schema::SchemaArgs),
    /// Write a page that shows a quantized model: verdicts, ranges, weights, outputs, accuracy
    #[command(
        after_help = "Example:\n  bitproof quantize model.h5 --samples x.npy -s q.bpq.safetensors --format json > log.json\n  bitproof report q.bpq.safetensors --float model.h5 --data test.npz --log log.json -o report.html\n\nThe page is one file without scripts; it asks for nothing from elsewhere."
    )]
    Report(Box<crate::commands::report::ReportArgs>),
    /// Print the completions of a shell
    #[command(
        after_help = "Example:\n  bitproof completions bash > ~/.local/share/bash-completion/completions/bitproof"
    )]
    Completions(crate::commands::completions::CompletionsArgs),
    /// Print the manual page, or write one for each command
    #[command(
        after_help = "Example:\n  bitproof man --out ~/.local/share/man/man1\n  man bitproof-quantize"
    )]
    Man(crate::commands::man::ManArgs),
    /// Quantize, simulate and measure an embedded network on real digits
    #[command(after_help = "Example:\n  bitproof demo")]
    Demo(FormatArgs),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs; stable.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct FormatArgs {
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// How what a check found is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckFormat {
    /// For people.
    #[default]
    Text,
    /// For programs; stable.
    Json,
    /// SARIF 2.1.0, for viewers of findings such as GitHub's.
    Sarif,
    /// JUnit XML, for CI servers.
    Junit,
}

#[derive(Debug, Args)]
pub(crate) struct CheckFormatArgs {
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: CheckFormat,
}

#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// The model's file; weights alone (.h5) need NAME.json or config.json beside them
    #[arg(value_name = "MODEL", required_unless_present = "model_flag")]
    model: Option<PathBuf>,
    /// The model's file, as a flag
    #[arg(
        short = 'm',
        long = "model",
        value_name = "MODEL",
        conflicts_with = "model"
    )]
    model_flag: Option<PathBuf>,
}

impl ModelArgs {
    /// Returns the model's path, given either way.
    pub(crate) fn path(&self) -> PathBuf {
        self.model
            .clone()
            .or_else(|| self.model_flag.clone())
            .unwrap_or_default()
    }
}

#[derive(Debug, Args)]
pub(crate) struct ModelFormatArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct QuantizeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Where to write the quantized model: .bpq.safetensors, .h5 for QuantizeML, or .onnx [default: MODEL
    /// with the extension .bpq.safetensors]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    #[command(flatten)]
    pub(crate) samples: SampleArgs,
    /// Ranges of `bitproof calibrate`, instead of samples
    #[arg(long, value_name = "FILE", conflicts_with_all = CALIBRATION_FLAGS)]
    pub(crate) ranges: Option<PathBuf>,
    /// Print every rewrite, and where every value of the configuration comes from
    #[arg(long)]
    pub(crate) explain: bool,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// What decides how a network is quantized, and so which of its ranges are calibrated.
#[derive(Debug, Args)]
pub(crate) struct NetworkArgs {
    /// JSON file with the configuration of single layers
    #[arg(short = 'c', long, value_name = "FILE")]
    pub(crate) q_config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) bits: BitArgs,
    /// Stop quantizing after this layer; what follows stays in float
    #[arg(long, value_name = "LAYER")]
    pub(crate) quantize_until: Option<String>,
    /// Extents of one input where the model leaves them open, such as 224,224,3
    #[arg(long, value_name = "N,N,N", value_delimiter = ',')]
    pub(crate) input_shape: Option<Vec<usize>>,
    /// Whether a float input gets an InputQuantizer: auto asks the samples (integers or random: never)
    #[arg(long, value_enum, default_value_t)]
    pub(crate) input_quantizer: InputQuantizerArg,
    /// Accept mistakes in the q_config as the reference does: ignored, or the layer stays in float
    #[arg(long)]
    pub(crate) lenient: bool,
    /// Leave out the rewrites that only serve the Akida hardware
    #[arg(long)]
    pub(crate) no_hardware_rewrites: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CalibrateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Where to write the ranges, .json
    #[arg(short, long, value_name = "FILE")]
    pub(crate) save: PathBuf,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    #[command(flatten)]
    pub(crate) samples: SampleArgs,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BitArgs {
    /// Bits of activations
    #[arg(short, long, value_name = "BITS", default_value_t = 8)]
    pub(crate) activation_bits: u8,
    /// Bits of other outputs that need a quantizer
    #[arg(short, long, value_name = "BITS", default_value_t = 8)]
    pub(crate) output_bits: u8,
    /// Bits of weights
    #[arg(short, long, value_name = "BITS", default_value_t = 8)]
    pub(crate) weight_bits: u8,
    /// Bits of the weights of the first layer
    #[arg(short, long, value_name = "BITS", default_value_t = 8)]
    pub(crate) input_weight_bits: u8,
    /// Bits of the hardware's buffers
    #[arg(short, long, value_name = "BITS", default_value_t = 32)]
    pub(crate) buffer_bits: u8,
    /// Type of the quantized inputs [-id]
    #[arg(long, value_name = "TYPE", default_value = "uint8", value_parser = ["uint8", "int8", "int16"])]
    pub(crate) input_dtype: String,
    /// Quantize the model's outputs to these bits [-lob]
    #[arg(long, value_name = "BITS")]
    pub(crate) last_output_bits: Option<u8>,
    /// One range for each tensor instead of one for each channel
    #[arg(long)]
    pub(crate) per_tensor_activations: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SampleArgs {
    /// Calibration samples: .npy, .npz (array `x_train` or the only one), a raw file, a folder or a
    /// quoted pattern of PNG and JPEG images; random ones if absent [-sa]
    #[arg(long, value_name = "PLACE")]
    pub(crate) samples: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Number of samples to use [default: all; 1024 random ones] [-ns]
    #[arg(long, value_name = "N")]
    pub(crate) num_samples: Option<usize>,
    /// Samples in a calibration step [default: 100] [-bs]
    #[arg(long, value_name = "N")]
    pub(crate) batch_size: Option<usize>,
    /// Passes over the samples
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    pub(crate) epochs: usize,
    /// Seed of random samples [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// What a range is: moving-max (the reference's), max, percentile[:P] of the magnitudes
    /// (P = 99.99), or mse, the least squared error
    #[arg(long, value_name = "OBSERVER", default_value = "moving-max")]
    pub(crate) observer: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum InputQuantizerArg {
    /// Never for integer or random samples, always for floats.
    #[default]
    Auto,
    /// Inserted and calibrated when the model's input is float.
    Always,
    /// Inputs are integers of the input type already.
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Inputs: .npy or .npz, `[batch, ...]`, a raw file, a folder or a quoted pattern of images
    #[arg(long, value_name = "PLACE")]
    pub(crate) inputs: PathBuf,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Where to write the outputs, .npy; .npz, by name, for a model of several
    #[arg(long, value_name = "FILE")]
    pub(crate) outputs: Option<PathBuf>,
    /// Inputs are steps of one sequence: temporal layers remember the earlier ones
    #[arg(long)]
    pub(crate) sequence: bool,
    /// Empty the buffers of temporal layers after every N steps
    #[arg(long, value_name = "N", requires = "sequence")]
    pub(crate) reset_every: Option<std::num::NonZeroUsize>,
    /// Where to write every layer's integers, .npz
    #[arg(long, value_name = "FILE")]
    pub(crate) dump_layers: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Labelled data: .npz with the arrays `x_test` and `y_test`, or a folder that holds a folder of
    /// images for each class
    #[arg(long, value_name = "PLACE", required_unless_present_all = ["images", "labels"])]
    pub(crate) data: Option<PathBuf>,
    /// Images, as `run --inputs` takes them, instead of --data
    #[arg(
        long,
        value_name = "PLACE",
        requires = "labels",
        conflicts_with = "data"
    )]
    pub(crate) images: Option<PathBuf>,
    /// Labels, .npy, instead of --data
    #[arg(
        long,
        value_name = "FILE",
        requires = "images",
        conflicts_with = "data"
    )]
    pub(crate) labels: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// The float model to compare with
    #[arg(long, value_name = "MODEL")]
    pub(crate) float: Option<PathBuf>,
    /// Exit with 1 if the model classifies a smaller share right, such as 0.98
    #[arg(long, value_name = "SHARE")]
    pub(crate) min_accuracy: Option<f64>,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// The model's file
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,
    /// Where to write it: .h5, .onnx or .bpq.safetensors
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct InsertRescalingArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Factor
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) scale: f64,
    /// Offset, added after the factor
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) offset: f64,
    /// Where to write the model, .h5
    #[arg(short, long, value_name = "FILE")]
    pub(crate) save: PathBuf,
}

/// Returns the arguments with QuantizeML's spellings replaced by ours: short flags of several
/// letters, and underscores in long flags.
pub(crate) fn normalized(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    args.map(|arg| {
        let Some(text) = arg.to_str() else { return arg };
        if let Some((_, long)) = LONG_SHORTS.iter().find(|(short, _)| *short == text) {
            return OsString::from(long);
        }
        match text.strip_prefix("--") {
            Some(flag) => {
                let (name, value) = flag.split_at(flag.find('=').unwrap_or(flag.len()));
                OsString::from(format!("--{}{value}", name.replace('_', "-")))
            }
            None => arg,
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(args: &[&str]) -> Vec<String> {
        let args = args.iter().map(OsString::from);
        normalized(args)
            .into_iter()
            .map(|arg| arg.into_string().unwrap())
            .collect()
    }

    #[test]
    fn spellings_of_the_reference_are_accepted() {
        let got = normal(&[
            "bitproof",
            "-ns",
            "4",
            "--batch_size=3",
            "--per_tensor_activations",
        ]);
        let want = [
            "bitproof",
            "--num-samples",
            "4",
            "--batch-size=3",
            "--per-tensor-activations",
        ];
        assert_eq!(got, want, "spellings");
        assert_eq!(
            normal(&["-s", "a_b.h5", "--c=x_y"]),
            ["-s", "a_b.h5", "--c=x_y"],
            "values stay"
        );
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
