//! `auto-promote`, where a resource's configuration says it: the first write to the block device of a Secondary asks for
//! the promotion, and waits for it as long as `auto-promote-timeout` says. DRBD 9 asks when the device is opened; of that
//! no driver of the kernel's tells its server, and so nothing demotes by itself either.

use crate::administration::Administration;
use crate::mailbox::ToData;
use drbd_core::config::{OptionSet, OptionValue};
use drbd_core::control::Request;
use drbd_core::engine::Level;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{sleep, Instant};

const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// Whether it is on. Only where it was configured: by DRBD's default every Secondary's device would have to be writable.
pub(crate) fn is_on(options: &OptionSet) -> bool {
    options.is_set("auto-promote") && options.value("auto-promote") == OptionValue::Boolean(true)
}

/// Promotes, and tells what waits.
pub(crate) async fn promote(administration: Rc<Administration>) {
    let tenths = administration.facts.borrow().options.value("auto-promote-timeout").to_string();
    let deadline = Instant::now() + Duration::from_millis(tenths.parse().unwrap_or(20u64) * 100);
    let outcome = loop {
        match administration.carry_out(Request::Primary { force: false }, true).await {
            Err(_) if Instant::now() < deadline => sleep(BETWEEN_TRIES).await,
            outcome => break outcome,
        }
    };
    let (level, sentence) = match &outcome {
        Ok(_) => (Level::Info, "Promoted by a write to the block device (auto-promote).".to_owned()),
        Err(refusal) => {
            let why = format!("A write to the block device fails, because auto-promote cannot: {refusal}");
            (Level::Warning, why)
        }
    };
    administration.logger.say(level, "auto-promote", &administration.resource, sentence);
    administration.data.send(ToData::Promoted(outcome.is_ok()));
}
