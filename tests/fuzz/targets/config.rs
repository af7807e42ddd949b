//! drbd.conf and the text of `drbdsetup show`: no text may make drbdadm's parser panic or hang.

#![no_main]

use drbdadm::diagnostics::Sources;
use drbdadm::parser::Parser;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut sources = Sources::default();
    let file = sources.add("fuzz.conf", text);
    let (_, noted) = Parser::new(&sources, file, text).items();
    for diagnostic in noted {
        let _ = diagnostic.render(&sources);
    }
    let _ = Parser::new(&sources, file, text).template();
    let _ = Parser::new(&sources, file, text).shown();
});
