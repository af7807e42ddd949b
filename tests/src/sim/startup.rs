//! Daemons begin.

use super::cluster::Cluster;
use super::node::{Daemon, Step};
use drbd_core::engine::Resource;
use drbd_core::ids::NodeId;

impl Cluster {
    /// The daemon of a node's present run, which has nothing yet.
    pub(crate) fn fresh_daemon(&self, node: usize) -> Daemon {
        let options = self.setup.resource_options();
        let seed = self.seed ^ (node as u64) << 56 ^ u64::from(self.nodes[node].run) << 40;
        let mut resource = Resource::new("r0", NodeId(node as u8), options, seed);
        resource.cap_protocol(self.setup.nodes[node].protocol_max);
        if let Some(bug) = self.limits.bug {
            super::planted::plant(&mut resource, bug);
        }
        Daemon::new(resource)
    }

    /// A daemon, and if need be its node, starts, and the operator brings the resource up.
    pub(crate) fn start(&mut self, node: usize) {
        self.nodes[node].starting = false;
        if self.nodes[node].daemon.is_some() {
            return;
        }
        let recovers = self.nodes[node].recovers;
        self.note(Some(node), "start", format_args!("recovery {recovers}"));
        if !self.nodes[node].power {
            self.nodes[node].power = true;
            self.forget_silent(node);
        }
        self.nodes[node].run += 1;
        let mut daemon = self.fresh_daemon(node);
        let recovery = std::mem::take(&mut self.nodes[node].recovers);
        let volumes = self.sizes.len();
        daemon.script.extend((0..volumes).map(Step::NewMinor));
        daemon.script.extend([Step::NewPeer, Step::NewPath]);
        daemon.script.extend((0..volumes).map(Step::PeerDeviceOptions));
        for volume in 0..volumes {
            if self.nodes[node].wants_attached[volume] {
                daemon.script.push_back(Step::Attach { volume, recovery });
            }
        }
        if self.nodes[node].wants_connected {
            daemon.script.push_back(Step::Connect { discard: false });
        }
        if self.nodes[node].held.is_some() {
            daemon.script.push_back(Step::ResumePrimary);
        }
        self.agreement.is_over(node);
        self.nodes[node].daemon = Some(daemon);
        self.tell_foreign(node);
        self.advance(node);
    }
}
