//! The control protocol's page for people against its types.

use drbd_core::control::{ClientLine, DaemonLine, Request};
use serde_json::Value;

const PAGE: &str = include_str!("../docs/control.md");

fn examples(mark: &str) -> Vec<&'static str> {
    PAGE.lines().filter_map(|line| line.strip_prefix(mark)).collect()
}

/// Read and written again: every member of the example is known, and none is missing.
fn assert_survives<T: serde::Serialize + serde::de::DeserializeOwned>(example: &str) {
    let read: T = serde_json::from_str(example).unwrap_or_else(|e| panic!("{e}: {example}"));
    let written = serde_json::to_value(read).expect("it is JSON");
    let wanted: Value = serde_json::from_str(example).expect("it is JSON");
    assert_eq!(written, wanted, "{example}");
}

#[test]
fn the_page_says_what_the_types_say() {
    let (asked, told) = (examples("> "), examples("< "));
    assert!(asked.len() > 20 && told.len() > 10, "the examples were not found");
    for example in asked {
        assert_survives::<ClientLine>(example);
    }
    for example in told {
        assert_survives::<DaemonLine>(example);
    }
}

#[test]
fn every_request_is_on_the_page() {
    // A new request that is not here does not compile; one that is here and not on the page fails below.
    let word = |request: &Request| match request {
        Request::NewMinor { .. } => "new-minor",
        Request::DelMinor { .. } => "del-minor",
        Request::NewPeer { .. } => "new-peer",
        Request::DelPeer { .. } => "del-peer",
        Request::NewPath { .. } => "new-path",
        Request::DelPath { .. } => "del-path",
        Request::Attach { .. } => "attach",
        Request::Detach { .. } => "detach",
        Request::Connect { .. } => "connect",
        Request::Disconnect { .. } => "disconnect",
        Request::Primary { .. } => "primary",
        Request::Secondary { .. } => "secondary",
        Request::ResourceOptions { .. } => "resource-options",
        Request::NetOptions { .. } => "net-options",
        Request::DiskOptions { .. } => "disk-options",
        Request::PeerDeviceOptions { .. } => "peer-device-options",
        Request::Down => "down",
        Request::DelResource => "del-resource",
        Request::Upgrade { .. } => "upgrade",
        Request::Status => "status",
        Request::Show => "show",
        Request::GetGi { .. } => "get-gi",
        Request::Invalidate { .. } => "invalidate",
        Request::InvalidateRemote { .. } => "invalidate-remote",
        Request::PauseSync { .. } => "pause-sync",
        Request::ResumeSync { .. } => "resume-sync",
        Request::Resize { .. } => "resize",
        Request::Outdate { .. } => "outdate",
        Request::NewCurrentUuid { .. } => "new-current-uuid",
        Request::Verify { .. } => "verify",
        Request::Subscribe => "subscribe",
        Request::SuspendIo { .. } => "suspend-io",
        Request::ResumeIo { .. } => "resume-io",
    };
    let mut words: Vec<&str> = examples("> ")
        .iter()
        .filter_map(|example| match serde_json::from_str(example).expect("checked above") {
            ClientLine::Request { request, .. } => Some(word(&request)),
            ClientLine::Hello { .. } => None,
        })
        .collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), 33);
}
