use super::*;
use crate::syntax::{Setting, Settings};

fn set(pairs: &[(&str, &str)]) -> Settings {
    let setting = |(name, value): &(&str, &str)| Setting {
        name: (*name).to_owned(),
        value: Some((*value).to_owned()),
        at: Default::default(),
    };
    Settings(pairs.iter().map(setting).collect())
}

#[test]
fn values_are_compared_not_spellings() {
    let same = |a: &[(&str, &str)], b: &[(&str, &str)]| !differ(Section::PeerDevice, &set(a), &set(b));
    assert!(same(&[("c-max-rate", "200M")], &[("c-max-rate", "204800k")]));
    assert!(same(&[("c-plan-ahead", "20")], &[]));
    assert!(!same(&[("c-plan-ahead", "21")], &[]));
    assert!(!same(&[], &[("bitmap", "no")]));
}

#[test]
fn what_cannot_be_changed_is_not_compared() {
    let transport = set(&[("transport", "tcp"), ("tls-keyring", "(null)")]);
    assert!(!differ(Section::Net, &Settings::default(), &transport));
    assert!(differ(Section::Net, &Settings::default(), &set(&[("_name", "bravo")])));
}
