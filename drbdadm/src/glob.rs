//! File name patterns of `include`: `*`, `?` and `[…]` in any part of a path, sorted, without hidden files.

use std::path::{Path, PathBuf};

/// Files and directories looked at for one part of a pattern.
const ENTRIES_MAX: usize = 100_000;

/// Whether a name has wildcards at all.
pub fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

/// The existing files a pattern means.
pub fn expand(pattern: &str) -> Vec<String> {
    let mut found = vec![PathBuf::from(if pattern.starts_with('/') { "/" } else { "" })];
    for part in pattern.split('/').filter(|p| !p.is_empty()) {
        found = found.iter().flat_map(|dir| step(dir, part)).collect();
        found.truncate(ENTRIES_MAX);
    }
    found.sort();
    found.iter().map(|p| p.to_string_lossy().into_owned()).collect()
}

fn step(dir: &Path, part: &str) -> Vec<PathBuf> {
    if !is_pattern(part) {
        let path = dir.join(part);
        return if path.exists() || part == ".." { vec![path] } else { Vec::new() };
    }
    let place = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let Ok(entries) = std::fs::read_dir(place) else { return Vec::new() };
    let names = entries.take(ENTRIES_MAX).flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    names
        .filter(|n| (!n.starts_with('.') || part.starts_with('.')) && matches(part, n))
        .map(|n| dir.join(n))
        .collect()
}

/// Whether a name fits a pattern.
pub fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            retry = Some((p + 1, n));
            p += 1;
        } else if let Some(after) = one(&pattern, p, name[n]) {
            p = after;
            n += 1;
        } else if let Some((star, from)) = retry {
            retry = Some((star, from + 1));
            (p, n) = (star, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Where the pattern goes on if its next element fits a character.
fn one(pattern: &[char], p: usize, c: char) -> Option<usize> {
    match *pattern.get(p)? {
        '?' => Some(p + 1),
        '[' => class(pattern, p, c),
        literal => (literal == c).then_some(p + 1),
    }
}

fn class(pattern: &[char], p: usize, c: char) -> Option<usize> {
    let inverted = matches!(pattern.get(p + 1), Some('!' | '^'));
    let start = p + 1 + usize::from(inverted);
    let Some(length) = pattern[start..].iter().skip(1).position(|c| *c == ']') else {
        return (c == '[').then_some(p + 1);
    };
    let end = start + 1 + length;
    let set = &pattern[start..end];
    let mut inside = false;
    let mut i = 0;
    while i < set.len() {
        if set.get(i + 1) == Some(&'-') && i + 2 < set.len() {
            inside |= (set[i]..=set[i + 2]).contains(&c);
            i += 3;
        } else {
            inside |= set[i] == c;
            i += 1;
        }
    }
    (inside != inverted).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn wildcards() {
        assert!(matches("*.res", "r0.res"));
        assert!(!matches("*.res", "r0.res~"));
        assert!(matches("a?c*", "abcd"));
        assert!(matches("*a*b", "xaxbxab"));
        assert!(matches("r[0-9].res", "r5.res"));
        assert!(!matches("r[!0-9].res", "r5.res"));
        assert!(matches("[", "["));
        assert!(matches("[]]", "]"));
    }
}
