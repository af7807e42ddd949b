//! The memory that is used most is pinned by the kernel once, not looked up for every transfer. It is made resident by a
//! thread of its own first, because that takes a while, and not before whoever waits for this daemon is served.

use super::DataLoop;
use crate::mailbox::ToData;
use drbd_core::engine::Level;

impl DataLoop {
    /// Makes it resident; [`ToData::Pin`] says when it is.
    pub(super) fn populate(&self) {
        let (memory, done) = (self.pools.pinned, self.control.data_plane());
        let body = move || {
            crate::process::give_way();
            memory.populate();
            done.send(ToData::Pin);
        };
        // Without a thread it stays as it is.
        let _ = std::thread::Builder::new().name("memory".to_owned()).spawn(body);
    }

    /// Has it pinned.
    pub(super) fn pin(&mut self) {
        if let Err(why) = self.ring.pin(self.pools.pinned) {
            let text = format!("Buffers are pinned for every transfer, not once ({why}); that is slower.");
            self.logger.say(Level::Info, "memory", &self.name, text);
        }
    }
}
