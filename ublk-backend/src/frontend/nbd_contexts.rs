//! Metadata contexts: what a client may list, and choose, of what the server can tell of blocks.

use super::nbd_negotiation::be32;
use super::StatusContext;

/// A context of ours, by its number on the wire.
struct Known {
    number: u32,
    namespace: &'static str,
    name: &'static str,
    context: StatusContext,
}

const KNOWN: [Known; 2] = [
    Known { number: 1, namespace: "base:", name: "base:allocation", context: StatusContext::Allocation },
    Known { number: 2, namespace: "udrbd:", name: "udrbd:out-of-sync", context: StatusContext::OutOfSync },
];

/// What a client chose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Contexts([bool; KNOWN.len()]);

impl Contexts {
    /// Those chosen, with their numbers.
    pub(crate) fn chosen(self) -> impl Iterator<Item = (u32, StatusContext)> {
        KNOWN.iter().zip(self.0).filter(|(_, chosen)| *chosen).map(|(known, _)| (known.number, known.context))
    }

    /// Those chosen, with number and name.
    pub(crate) fn named(self) -> impl Iterator<Item = (u32, &'static str)> {
        KNOWN.iter().zip(self.0).filter(|(_, chosen)| *chosen).map(|(known, _)| (known.number, known.name))
    }
}

/// The export's name and the contexts that the data of LIST_META_CONTEXT or SET_META_CONTEXT ask for; `None`: its lengths
/// do not add up. A list without queries means all, a choice without queries none.
pub(crate) fn asked_for(data: &[u8], list: bool) -> Option<(&[u8], Contexts)> {
    let (name, rest) = text(data)?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let count = be32(count);
    let mut contexts = Contexts([list && count == 0; KNOWN.len()]);
    for _ in 0..count {
        let (query, left) = text(rest)?;
        rest = left;
        for (known, chosen) in KNOWN.iter().zip(&mut contexts.0) {
            *chosen |= query == known.name.as_bytes() || list && query == known.namespace.as_bytes();
        }
    }
    rest.is_empty().then_some((name, contexts))
}

/// A length and so many bytes.
fn text(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first_chunk::<4>()?;
    rest.split_at_checked(be32(length) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(name: &str, queries: &[&str]) -> Vec<u8> {
        let mut data = Vec::new();
        let mut push = |text: &str| {
            data.extend_from_slice(&(text.len() as u32).to_be_bytes());
            data.extend_from_slice(text.as_bytes());
        };
        push(name);
        let mut all = Vec::new();
        for query in queries {
            all.extend_from_slice(&(query.len() as u32).to_be_bytes());
            all.extend_from_slice(query.as_bytes());
        }
        data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
        data.append(&mut all);
        data
    }

    fn names(queries: &[&str], list: bool) -> Vec<&'static str> {
        let data = option("", queries);
        let (name, contexts) = asked_for(&data, list).expect("well made");
        assert!(name.is_empty());
        contexts.named().map(|(_, name)| name).collect()
    }

    #[test]
    fn contexts_are_listed_and_chosen_by_name() {
        let (allocation, ours) = ("base:allocation", "udrbd:out-of-sync");
        assert_eq!(names(&[], true), [allocation, ours]);
        assert_eq!(names(&[], false), [""; 0]);
        assert_eq!(names(&["base:"], true), [allocation]);
        assert_eq!(names(&["base:"], false), [""; 0]);
        assert_eq!(names(&[ours, "qemu:dirty-bitmap:x"], false), [ours]);
        assert_eq!(names(&[ours, allocation, ours], false), [allocation, ours]);
    }

    #[test]
    fn lengths_that_do_not_add_up_are_none() {
        let whole = option("", &["base:allocation"]);
        for length in 0..whole.len() {
            assert!(asked_for(&whole[..length], false).is_none(), "{length}");
        }
        assert!(asked_for(&[&whole[..], &[0]].concat(), false).is_none());
        assert!(asked_for(&[0xff; 12], true).is_none());
    }
}
