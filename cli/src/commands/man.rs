//! `bitproof man`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use bitproof::model_files::write_file;
use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;

use crate::args::Cli;

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write bitproof.1 and a page for each command into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Prints the manual page of the program, or writes those of all commands.
pub(super) fn run(args: &ManArgs) -> Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    // Commands get their full names, `bitproof-run`.
    command.build();
    let Some(folder) = &args.out else {
        crate::outln!("{}", page(&command)?.trim_end());
        return Ok(());
    };
    if !folder.is_dir() {
        bail!("{}: there is no such folder", folder.display());
    }
    let pages = std::iter::once(&command).chain(command.get_subcommands());
    let mut n_pages = 0_usize;
    for command in pages {
        let name = command
            .get_display_name()
            .unwrap_or_else(|| command.get_name());
        let path = folder.join(format!("{name}.1"));
        write_file(&path, page(command)?.as_bytes())?;
        n_pages += 1;
    }
    crate::outln!("{n_pages} pages written to {}", folder.display());
    Ok(())
}

/// Returns the manual page of a command.
fn page(command: &Command) -> Result<String> {
    let mut text = Vec::new();
    Man::new(command.clone())
        .render(&mut text)
        .context("a manual page")?;
    Ok(String::from_utf8(text)?)
}
