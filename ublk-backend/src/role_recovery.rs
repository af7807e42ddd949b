//! A Primary's daemon that died: the new one asks to be Primary again, before requests that wait in block devices go on.
//! Whether it may, and how long the peer is waited for, the engine says (decision 0036).

use crate::administration::Administration;
use crate::mailbox::ToData;
use drbd_core::engine::Level;
use std::rc::Rc;

/// Takes up role and requests.
pub(crate) async fn take_up(administration: Rc<Administration>, was_primary: bool) {
    if was_primary {
        let (level, sentence) = match administration.resume_primary().await {
            Ok(()) => (Level::Info, "The last daemon died as Primary; this one goes on as Primary.".to_owned()),
            Err(refusal) => (
                Level::Error,
                format!("The last daemon died as Primary; this one stays Secondary, and requests that waited fail: {refusal}"),
            ),
        };
        administration.logger.say(level, "role-recovery", &administration.resource, sentence);
        administration.data.send(ToData::Hold(None));
    }
    administration.devices.resume();
}
