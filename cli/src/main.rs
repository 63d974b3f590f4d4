//! The `bitproof` command.
#![expect(clippy::print_stderr, reason = "the binary talks to its user")]

/// Prints a line on stdout; a reader that went away ends the program quietly.
macro_rules! outln {
    () => { $crate::print_line(format_args!("")) };
    ($($arg:tt)*) => { $crate::print_line(format_args!($($arg)*)) };
}
pub(crate) use outln;

/// Prints a line on stderr.
macro_rules! errln {
    ($($arg:tt)*) => { $crate::print_message(format_args!($($arg)*)) };
}
pub(crate) use errln;

mod args;
mod commands;
mod inputs;
mod progress;
mod samples;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command, Format, FormatArgs};

/// What a command that was carried out says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done.
    Yes,
    /// Done, and the answer is no: a proof is refuted, a check failed.
    No,
}

/// Done, and the answer is no.
const ANSWER_IS_NO: u8 = 1;
/// Wrong use or bad input.
const BAD_INPUT: u8 = 2;
/// A fault of the tool.
const OUR_FAULT: u8 = 3;

/// What a shell reports for a program that a closed pipe ended.
const PIPE_CLOSED: i32 = 141;

/// Writes a line to stdout, or ends the program if nobody can read it.
///
/// Files are complete before anything is printed, so nothing is lost.
fn print_line(line: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let Err(error) = writeln!(std::io::stdout(), "{}", shown(&line.to_string())) else {
        return;
    };
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(PIPE_CLOSED);
    }
    errln!("error: cannot write to stdout: {error}");
    std::process::exit(i32::from(BAD_INPUT));
}

/// Writes a line to stderr.
fn print_message(line: std::fmt::Arguments<'_>) {
    eprintln!("{}", shown(&line.to_string()));
}

/// Returns a text for a terminal: names from files could hold sequences that move its cursor or more.
///
/// Newlines stay: names that hold one are refused where models are read.
fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

fn main() -> ExitCode {
    let cli = Cli::parse_from(args::normalized(std::env::args_os()));
    let demo = Command::Demo(FormatArgs {
        format: Format::Text,
    });
    let command = cli.command.unwrap_or(demo);
    // A panic is a fault of ours, whatever the input; its message is already on stderr.
    match catch_unwind(AssertUnwindSafe(|| commands::run(command))) {
        Ok(Ok(Answer::Yes)) => ExitCode::SUCCESS,
        Ok(Ok(Answer::No)) => ExitCode::from(ANSWER_IS_NO),
        Ok(Err(error)) => {
            errln!("error: {error:#}");
            ExitCode::from(BAD_INPUT)
        }
        Err(_) => {
            errln!("error: this is a fault of bitproof; please report it with the command");
            ExitCode::from(OUR_FAULT)
        }
    }
}
