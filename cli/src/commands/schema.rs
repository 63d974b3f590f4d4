//! `bitproof schema`.

use anyhow::Result;
use bitproof::config_schema::{json_schema, to_indented};
use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// What the schema is of: a q_config, a certificate, or what a command prints with --format json
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    of: Of,
}

/// What has a schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Of {
    /// A file of `quantize -c`.
    #[default]
    QConfig,
    /// `config`: a q_config.
    Config,
    /// A file of `prove --certificate`.
    Certificate,
    Analyze,
    Bench,
    Calibrate,
    Check,
    Convert,
    Demo,
    Eval,
    Prove,
    Quantize,
    Report,
    Run,
    Summary,
    Verify,
    VerifyCertificate,
}

/// Prints a JSON Schema.
#[expect(clippy::unnecessary_wraps, reason = "every command returns a result")]
pub(super) fn run(args: &SchemaArgs) -> Result<()> {
    crate::outln!("{}", schema(args.of).trim_end());
    Ok(())
}

fn schema(of: Of) -> String {
    let text = match of {
        Of::QConfig | Of::Config => return to_indented(&json_schema()),
        Of::Certificate => include_str!("../schemas/certificate.json"),
        Of::Analyze => include_str!("../schemas/analyze.json"),
        Of::Bench => include_str!("../schemas/bench.json"),
        Of::Calibrate => include_str!("../schemas/calibrate.json"),
        Of::Check => include_str!("../schemas/check.json"),
        Of::Convert => include_str!("../schemas/convert.json"),
        Of::Demo => include_str!("../schemas/demo.json"),
        Of::Eval => include_str!("../schemas/eval.json"),
        Of::Prove => include_str!("../schemas/prove.json"),
        Of::Quantize => include_str!("../schemas/quantize.json"),
        Of::Report => include_str!("../schemas/report.json"),
        Of::Run => include_str!("../schemas/run.json"),
        Of::Summary => include_str!("../schemas/summary.json"),
        Of::Verify => include_str!("../schemas/verify.json"),
        Of::VerifyCertificate => include_str!("../schemas/verify-certificate.json"),
    };
    text.to_owned()
}
