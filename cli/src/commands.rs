//! One module a command.

pub(crate) mod analyze;
pub(crate) mod bench;
mod calibrate;
pub(crate) mod check;
pub(crate) mod completions;
mod config;
mod convert;
mod demo;
mod eval;
mod insert_rescaling;
pub(crate) mod man;
pub(crate) mod prove;
mod quantize;
pub(crate) mod report;
mod run;
pub(crate) mod schema;
mod summary;
pub(crate) mod verify;
pub(crate) mod verify_certificate;

use anyhow::Result;

use crate::Answer;
use crate::args::Command;

/// Runs a command.
pub(crate) fn run(command: Command) -> Result<Answer> {
    bitproof::check_instruction_set().map_err(anyhow::Error::msg)?;
    match command {
        Command::Prove(args) => return prove::run(&args),
        Command::Check(args) => return check::run(&args),
        Command::Eval(args) => return eval::run(&args),
        Command::Verify(args) => return verify::run(&args),
        Command::VerifyCertificate(args) => return verify_certificate::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Summary(args) => summary::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Analyze(args) => analyze::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::InsertRescaling(args) => insert_rescaling::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Demo(args) => demo::run(&args),
    }?;
    Ok(Answer::Yes)
}
