use super::*;

fn parsed(line: &str) -> Result<Arguments, String> {
    parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<String>>())
}

#[test]
fn options_stand_anywhere_and_may_be_short() {
    let found = parsed("-d verify --star=5 -c a.conf r0 --stop 9 r1 -vW --x").expect("a command line");
    assert!(found.dry_run && found.verbose);
    assert_eq!(found.config_file.as_deref(), Some("a.conf"));
    assert_eq!(found.resources, ["r0", "r1"]);
    assert_eq!(found.setup, ["--x", "--start=5", "--stop=9"]);
}

#[test]
fn the_old_form_passes_options_on() {
    let found = parsed("-d -- --force --overwrite primary r0").expect("a command line");
    assert_eq!(
        (found.setup, found.resources),
        (vec!["--force".to_owned(), "--overwrite".to_owned()], vec!["r0".to_owned()])
    );
    let late = parsed("primary r0 -- --force").expect("a command line");
    assert_eq!((late.setup.len(), late.resources), (0, vec!["r0".to_owned(), "--force".to_owned()]));
}

#[test]
fn a_resource_may_be_called_like_a_command() {
    let found = parsed("up status down").expect("a command line");
    assert_eq!(found.command.map(|c| c.name), Some("up"));
    assert_eq!(found.resources, ["status", "down"]);
}

#[test]
fn refusals_name_the_word_and_the_way_out() {
    assert_eq!(
        parsed("prmiary r0").err().as_deref(),
        Some("drbdadm: Unknown command 'prmiary'\n  hint: did you mean 'primary'?")
    );
    let said = "drbdadm: unrecognized option '--frob=1'\ntry 'drbdadm help down'";
    assert_eq!(parsed("down --frob=1 r0").err().as_deref(), Some(said));
    assert!(parsed("-c").is_err());
}
