//! What a variable of the environment says of one resource: it is a value for all of them, or `RESOURCE=value`, several of
//! these apart by commas (`auto,r1=socket`).

/// That value, if there is one: what is said of the resource alone counts more than what is said of all.
pub(super) fn value<'a>(text: &'a str, resource: &str) -> Option<&'a str> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let (mut all, mut one) = (None, None);
    for entry in entries {
        match entry.split_once('=') {
            None => all = Some(entry),
            Some((name, value)) if name == resource => one = Some(value),
            Some(_) => {}
        }
    }
    one.or(all).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_one_resource_counts_more_than_of_all() {
        for (text, of_r0, of_r1) in [
            ("", None, None),
            ("socket", Some("socket"), Some("socket")),
            ("r1=nbd", None, Some("nbd")),
            ("r1=socket, nbd", Some("nbd"), Some("socket")),
            (",r0=,", None, None),
        ] {
            assert_eq!((value(text, "r0"), value(text, "r1")), (of_r0, of_r1), "{text}");
        }
    }
}
