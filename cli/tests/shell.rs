//! `completions` and `man`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::process::Command as Process;

use assert_cmd::Command;

/// Runs the binary and returns its exit code and stdout.
fn bitproof(args: &[&str]) -> (i32, String) {
    let run = Command::cargo_bin("bitproof").unwrap().args(args).output();
    let run = run.unwrap();
    let out = String::from_utf8(run.stdout).unwrap();
    (run.status.code().unwrap(), out)
}

/// Returns the names of all commands, from `--help`.
fn commands() -> Vec<String> {
    let (_, help) = bitproof(&["--help"]);
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let name = |line: &str| line.split_whitespace().next().unwrap().to_owned();
    lines
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(name)
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn every_shell_completes_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, script) = bitproof(&["completions", shell]);
        assert_eq!(code, 0, "{shell}");
        for command in commands() {
            assert!(script.contains(&command), "{shell} lacks {command}");
        }
        assert!(script.contains("dump-layers"), "{shell} lacks a flag");
    }
    assert_eq!(bitproof(&["completions", "tcsh"]).0, 2, "an unknown shell");
}

#[test]
fn bash_takes_the_completions() {
    let (_, script) = bitproof(&["completions", "bash"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bitproof.bash");
    fs::write(&file, script).unwrap();
    let words =
        "COMP_WORDS=(bitproof verify-c); COMP_CWORD=1; _bitproof bitproof verify-c bitproof";
    let line = format!(
        "source '{}'; {words}; echo \"${{COMPREPLY[@]}}\"",
        file.display()
    );
    // Where there is no bash, nothing can take its completions.
    let Ok(run) = Process::new("bash").args(["--norc", "-c", &line]).output() else {
        return;
    };
    let out = String::from_utf8(run.stdout).unwrap();
    assert_eq!(out.trim(), "verify-certificate", "{:?}", run.stderr);
}

#[test]
fn every_command_has_a_manual_page_with_its_example() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let (code, out) = bitproof(&["man", "--out", place]);
    assert_eq!(code, 0, "{out}");
    let commands = commands();
    let n_pages = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(
        n_pages,
        commands.len() + 1,
        "a page each, and the program's"
    );
    for command in commands {
        let page = folder.path().join(format!("bitproof-{command}.1"));
        let page = fs::read_to_string(page).unwrap();
        assert!(page.contains("Example:"), "{command} has no example");
        let title = format!(".TH bitproof-{command}");
        assert!(page.contains(&title), "{command}: {page}");
    }
    let (code, page) = bitproof(&["man"]);
    assert_eq!(
        (code, page.contains(".SH SUBCOMMANDS")),
        (0, true),
        "{page}"
    );
    let missing = folder.path().join("no/such");
    assert_eq!(
        bitproof(&["man", "--out", missing.to_str().unwrap()]).0,
        2,
        "no folder"
    );
}
