//! Reader of `decision_vectors.txt`: examples of decisions, by table.

use crate::states::{Conn84, DiskState, ResyncSuspended, Role};

use super::state_change::Snapshot;

/// One record: fields by column name.
pub(super) struct Record {
    columns: &'static str,
    /// The whole line, to name a failing case.
    pub(super) line: &'static str,
}

impl Record {
    /// The field of that column.
    pub(super) fn text(&self, column: &str) -> &'static str {
        let at = self.columns.split(';').position(|c| c == column);
        let at = at.unwrap_or_else(|| panic!("no column {column} in {}", self.columns));
        self.line.split(';').nth(at).unwrap_or_else(|| panic!("no {column} in {}", self.line))
    }

    /// The field as a number.
    pub(super) fn number(&self, column: &str) -> i32 {
        self.text(column).parse().unwrap_or_else(|_| panic!("{column} is no number in {}", self.line))
    }

    /// The field as 0 or 1.
    pub(super) fn flag(&self, column: &str) -> bool {
        self.number(column) != 0
    }
}

/// All records of a table; at least one.
pub(super) fn table(name: &str) -> Vec<Record> {
    let text = include_str!("decision_vectors.txt");
    let mut records = Vec::new();
    let (mut inside, mut columns) = (false, "");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(title) = line.strip_prefix('[') {
            inside = title.strip_suffix(']') == Some(name);
        } else if let Some(names) = line.strip_prefix('!') {
            columns = names;
        } else if inside {
            records.push(Record { columns, line });
        }
    }
    assert!(!records.is_empty(), "no table {name}");
    records
}

/// Role from its first letter.
pub(super) fn role(letter: char) -> Role {
    match letter {
        'P' => Role::Primary,
        'S' => Role::Secondary,
        'U' => Role::Unknown,
        other => panic!("'{other}' is no role"),
    }
}

/// Own role and the peer's from two letters.
pub(super) fn roles(letters: &str) -> (Role, Role) {
    let mut letters = letters.chars().map(role);
    (letters.next().expect("own role"), letters.next().expect("role of the peer"))
}

/// A state as the vectors write it.
pub(super) fn snapshot(text: &str) -> Snapshot {
    let fields: Vec<&str> = text.split('/').collect();
    let disk = |word: &str| word.parse::<DiskState>().expect("disk state");
    let mut state = Snapshot::INITIAL.with_conn84(conn84(fields[2]));
    (state.role, state.peer_role) = roles(&format!("{}{}", fields[0], fields[1]));
    (state.disk, state.peer_disk) = (disk(fields[3]), disk(fields[4]));
    let isp = fields[5].as_bytes();
    state.resync_suspended =
        ResyncSuspended { dependency: isp[0] == b'a', peer: isp[1] == b'p', user: isp[2] == b'u' };
    state.suspended.no_data = fields[6].contains('N');
    state.suspended.fencing = fields[6].contains('F');
    state
}

fn conn84(word: &str) -> Conn84 {
    const NAMES: [&str; 24] = [
        "StandAlone",
        "Disconnecting",
        "Unconnected",
        "Timeout",
        "BrokenPipe",
        "NetworkFailure",
        "ProtocolError",
        "TearDown",
        "WFConnection",
        "WFReportParams",
        "Connected",
        "StartingSyncS",
        "StartingSyncT",
        "WFBitMapS",
        "WFBitMapT",
        "WFSyncUUID",
        "SyncSource",
        "SyncTarget",
        "VerifyS",
        "VerifyT",
        "PausedSyncS",
        "PausedSyncT",
        "Ahead",
        "Behind",
    ];
    let number = NAMES.iter().position(|name| *name == word);
    Conn84(u8::try_from(number.unwrap_or_else(|| panic!("'{word}' is no conn"))).expect("small"))
}
