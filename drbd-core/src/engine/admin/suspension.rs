//! `suspend-io` and `resume-io`.

use super::done;
use crate::control::Done;
use crate::engine::command::Command;
use crate::engine::resource::Resource;
use crate::ids::VolumeNumber;
use crate::refusal::{Reason, Refusal};

impl Resource {
    /// `suspend-io`: what is new waits, in all volumes; what is under way ends.
    pub(super) fn suspend_io(
        &mut self,
        volume: VolumeNumber,
        out: &mut Vec<Command>,
    ) -> Result<Done, Refusal> {
        self.device_index(volume).ok_or(Reason::MinorInvalid)?;
        let changed = !self.suspended.user;
        self.force(&|_, s| s.suspended.user = true, out);
        Ok(done(changed))
    }

    /// `resume-io`: whatever the reason was, requests go on, even where that means that they fail.
    pub(super) fn resume_io(
        &mut self,
        volume: VolumeNumber,
        out: &mut Vec<Command>,
    ) -> Result<Done, Refusal> {
        self.device_index(volume).ok_or(Reason::MinorInvalid)?;
        let changed = self.suspended.any();
        if changed {
            self.force(&|_, s| s.suspended.user = false, out);
            self.lift_freeze(out);
            self.start_all_held(out);
        }
        Ok(done(changed))
    }
}
