//! Runs udrbd's drbdmeta in a directory of its own, with a drbdsetup beside it that answers what the test wants.

use crate::programs::program;
use crate::scratch::Scratch;
use crate::transcript::Step;
use std::fs::{write, File, Permissions};
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The program and its surroundings.
#[derive(Debug)]
pub struct Drbdmeta {
    /// Images, run directory, programs.
    pub scratch: Scratch,
    program: PathBuf,
}

impl Drbdmeta {
    /// Nothing is attached.
    pub fn new(test: &str) -> Drbdmeta {
        let scratch = Scratch::new(test);
        let bin = scratch.path().join("bin");
        std::fs::create_dir(&bin).expect("a directory can be made");
        let link = bin.join("drbdmeta");
        symlink(program("drbdmeta"), &link).expect("a link can be made");
        let drbdmeta = Drbdmeta { scratch, program: link };
        drbdmeta.drbdsetup_says("exit 20");
        drbdmeta
    }

    /// What `drbdsetup dstate` does from now on, in shell.
    pub fn drbdsetup_says(&self, script: &str) {
        let path = self.scratch.path().join("bin/drbdsetup");
        write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script can be written");
        std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("permissions can be set");
    }

    /// Path of a file of the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A sparse file of zeroes.
    pub fn blank(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        let made = File::create(&path).and_then(|file| file.set_len(bytes));
        made.expect("a sparse file can be made");
        path
    }

    /// Runs it without a terminal.
    pub fn run(&self, words: &[String]) -> Step {
        let output = self.command(words).output().expect("drbdmeta can be run");
        Step::of(words, &output)
    }

    /// The same with words in one text.
    pub fn say(&self, line: &str) -> Step {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        self.run(&words)
    }

    /// Ready to be started.
    pub fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(words)
            .stdin(Stdio::null())
            .current_dir(self.scratch.path())
            .env("UDRBD_RUN_DIR", self.path("run"));
        command
    }
}
