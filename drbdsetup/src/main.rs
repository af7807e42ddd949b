//! The `drbdsetup` program; everything is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Result<Vec<String>, _> =
        std::env::args_os().skip(1).map(std::ffi::OsString::into_string).collect();
    match words {
        Ok(words) => ExitCode::from(drbdsetup::run(&words)),
        Err(word) => {
            eprintln!("drbdsetup: '{}' is not UTF-8", word.to_string_lossy());
            ExitCode::from(20)
        }
    }
}
