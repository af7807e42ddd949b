//! Changing the options of a connection, also while it is connected: what both nodes must have alike is told to the
//! peer in place in the stream (P_PROTOCOL_UPDATE, 3.6 of the wire reference), and taken over from it.

use super::done;
use crate::config::{NetOptions, OnCongestion, OptionSet, OptionSpec};
use crate::control::Done;
use crate::engine::after_split_brain::SplitBrainPolicy;
use crate::engine::command::{Command, Direction, Level};
use crate::engine::connection::Stage;
use crate::engine::resource::Resource;
use crate::engine::senseless::{senseless, Senseless};
use crate::engine::session::Fault;
use crate::engine::state_change::FencingPolicy;
use crate::ids::{NodeId, VolumeNumber};
use crate::refusal::{Reason, Refusal};
use crate::states::{Protocol, ReplicationState, Role};
use crate::wire::{Packet, Settings, SyncParam};

impl Resource {
    pub(super) fn net_options(
        &mut self,
        peer: NodeId,
        options: NetOptions,
        out: &mut Vec<Command>,
    ) -> Result<Done, Refusal> {
        check_net_options(&options)?;
        let both_primary = self.role == Role::Primary;
        let connection = self.peer(peer)?;
        let both_primary = both_primary && connection.peer_role == Role::Primary;
        if !options.two_primaries && both_primary {
            return Err(Reason::NeedAllowTwoPrimaries.into());
        }
        let mut copies = connection.peer_devices.iter();
        if connection.options.csums_alg != options.csums_alg && copies.clone().any(|p| p.resync.is_some()) {
            return Err(Reason::CsumsResyncRunning.into());
        }
        if connection.options.verify_alg != options.verify_alg && copies.any(|p| p.verify.is_some()) {
            return Err(Reason::VerifyRunning.into());
        }
        let agreed = |o: &NetOptions| {
            let policies = (o.after_sb_0pri.clone(), o.after_sb_1pri.clone(), o.after_sb_2pri.clone());
            (o.protocol, o.two_primaries, policies, o.data_integrity_alg.clone())
        };
        let algorithms = |o: &NetOptions| (o.verify_alg.clone(), o.csums_alg.clone());
        let changes = agreed(&connection.options) != agreed(&options);
        let other_algorithms = algorithms(&connection.options) != algorithms(&options);
        let retold = changes || other_algorithms;
        let deciding = connection.session().is_some_and(|s| s.state_sent);
        match connection.session().map(|s| (s.stage, s.version)).filter(|_| retold) {
            Some((Stage::Up, _)) if deciding && other_algorithms => {
                return Err(Reason::InTransientState.into())
            }
            Some((Stage::Up, 0..=99)) if changes => return Err(Reason::NeedProtocol100.into()),
            // The peer compares what it was told with what it has.
            Some((Stage::Settings, _)) => return Err(Reason::InTransientState.into()),
            Some((Stage::Up | Stage::Features | Stage::Challenge | Stage::Response, _)) | None => {}
        }
        let digests = std::mem::replace(&mut connection.options, options).data_integrity_alg;
        if changes {
            self.close_epoch_for_new_settings(out);
            self.tell_changed_settings(&digests, out);
            self.order_by_two_primaries(out);
        }
        if retold {
            (0..self.devices.len()).for_each(|d| self.tell_sync_param(d, out));
        }
        Ok(done(true))
    }

    fn settings_are_known(&self) -> bool {
        self.connection.as_deref().and_then(|c| c.session()).is_some_and(|s| s.stage == Stage::Up)
    }

    /// Behind that packet this node's digests are those of the new data-integrity-alg.
    fn tell_changed_settings(&mut self, digests_before: &str, out: &mut Vec<Command>) {
        if !self.settings_are_known() {
            return;
        }
        let settings = self.settings();
        let digests = settings.integrity_alg.clone();
        self.send(VolumeNumber(0), Packet::ProtocolUpdate(Box::new(settings)), out);
        if digests != digests_before {
            self.set_integrity(Direction::Sending, &digests, out);
        }
    }

    /// Algorithms or rates changed: an 8.4 peer copies and compares by what it was told last.
    pub(super) fn tell_sync_param(&mut self, d: usize, out: &mut Vec<Command>) {
        if self.settings_are_known() {
            self.send_sync_param(d, out);
        }
    }

    /// P_SYNC_PARAM: in a handshake both nodes must have the same algorithms; later a change is taken over.
    pub(in crate::engine) fn sync_param_received(
        &mut self,
        d: usize,
        theirs: &SyncParam,
        out: &mut Vec<Command>,
    ) -> Result<(), Fault> {
        let connection = self.connection.as_deref_mut().expect("packets come from a peer");
        let in_handshake = connection.peer_devices[d].replication == ReplicationState::Off;
        let peer = connection.peer;
        let mut changed = OptionSet::default();
        let version = connection.session().map_or(0, |s| s.version);
        for (name, told_from, ours, theirs) in [
            ("verify-alg", 88, &mut connection.options.verify_alg, &theirs.verify_alg),
            ("csums-alg", 89, &mut connection.options.csums_alg, &theirs.csums_alg),
        ] {
            // A packet that does not carry it says nothing of it.
            if version < told_from || ours == theirs {
                continue;
            }
            if in_handshake {
                return Err(Fault::Fatal(format!(
                    "incompatible {name} settings: make them the same on both nodes"
                )));
            }
            ours.clone_from(theirs);
            if let Some(spec) = OptionSpec::find(name) {
                // Whatever name the peer has for it stays with the session.
                let _ = changed.set(spec, theirs);
            }
        }
        if changed.iter().next().is_some() {
            out.push(Command::SettingsAdopted { peer, options: Box::new(changed) });
        }
        Ok(())
    }

    /// The peer's administrator changed what both nodes must have alike: this node follows.
    pub(in crate::engine) fn changed_settings_received(
        &mut self,
        theirs: &Settings,
        out: &mut Vec<Command>,
    ) -> Result<(), Senseless> {
        self.integrity_updated(&theirs.integrity_alg, out);
        let own_role = self.role;
        let Some(connection) = self.connection.as_deref_mut() else { return Ok(()) };
        if own_role == Role::Primary && connection.peer_role == Role::Primary && !theirs.two_primaries {
            return senseless("two_primaries", 0, "forbidden while both nodes are Primary");
        }
        let protocol = match theirs.protocol {
            1 if !theirs.two_primaries => Protocol::A,
            2 if !theirs.two_primaries => Protocol::B,
            3 => Protocol::C,
            1 | 2 => return senseless("protocol", theirs.protocol.into(), "not the one of two Primaries"),
            number => return senseless("protocol", number.into(), "no protocol"),
        };
        let mut policies = [SplitBrainPolicy::default(); 3];
        let told = [
            ("after_sb_0p", "after-sb-0pri", theirs.after_sb_0p),
            ("after_sb_1p", "after-sb-1pri", theirs.after_sb_1p),
            ("after_sb_2p", "after-sb-2pri", theirs.after_sb_2p),
        ];
        for (policy, (field, option, number)) in policies.iter_mut().zip(told) {
            let Some(known) = policy_of(option, number) else {
                return senseless(field, number.into(), "no policy for that");
            };
            *policy = known;
        }
        let options = &mut connection.options;
        options.protocol = protocol;
        options.two_primaries = theirs.two_primaries;
        let own = [&mut options.after_sb_0pri, &mut options.after_sb_1pri, &mut options.after_sb_2pri];
        for (own, policy) in own.into_iter().zip(policies) {
            policy.name().clone_into(own);
        }
        let adopted = adopted(options);
        let peer = connection.peer;
        out.push(Command::SettingsAdopted { peer, options: Box::new(adopted) });
        let options = &connection.options;
        let text = format!(
            "The peer changed the settings: protocol {}, allow-two-primaries {}, after-sb {}, {}, {}",
            options.protocol,
            if options.two_primaries { "yes" } else { "no" },
            options.after_sb_0pri,
            options.after_sb_1pri,
            options.after_sb_2pri
        );
        self.log("settings", Level::Info, self.peer_subject(), text, out);
        self.close_epoch_for_new_settings(out);
        self.order_by_two_primaries(out);
        self.admin.state_changed = true;
        self.notify_changes(out);
        Ok(())
    }

    /// What was sent under the old protocol is acknowledged by its barrier at the latest.
    fn close_epoch_for_new_settings(&mut self, out: &mut Vec<Command>) {
        if let Some(session) = self.connection.as_mut().and_then(|c| c.session_mut()) {
            session.sent_epochs.closed = true;
        }
        self.send_owed_barrier(out);
        self.urge_peer(out);
    }
}

/// What both nodes must have alike, as an administrator would say it.
pub(in crate::engine) fn adopted(options: &NetOptions) -> OptionSet {
    let mut set = OptionSet::default();
    let protocol = options.protocol.to_string();
    for (name, value) in [
        ("protocol", protocol.as_str()),
        ("allow-two-primaries", if options.two_primaries { "yes" } else { "no" }),
        ("after-sb-0pri", &options.after_sb_0pri),
        ("after-sb-1pri", &options.after_sb_1pri),
        ("after-sb-2pri", &options.after_sb_2pri),
    ] {
        if let Some(spec) = OptionSpec::find(name) {
            // They were judged before they were taken over.
            let _ = set.set(spec, value);
        }
    }
    set
}

/// The policy a peer named, as this node's configuration has it: one that it cannot have an administrator could neither
/// see nor take back.
fn policy_of(option: &str, number: u32) -> Option<SplitBrainPolicy> {
    let policy = SplitBrainPolicy::from_number(number)?.mirrored();
    let spec = OptionSpec::find(option)?;
    OptionSet::default().set(spec, policy.name()).is_ok().then_some(policy)
}

pub(super) fn check_net_options(options: &NetOptions) -> Result<(), Refusal> {
    if options.two_primaries && options.protocol != Protocol::C {
        return Err(Reason::NotProtocolC.into());
    }
    let stonith = options.fencing == FencingPolicy::ResourceAndStonith;
    if stonith && options.protocol == Protocol::A {
        return Err(Reason::StonithAndProtocolA.into());
    }
    let goes_on = options.on_congestion != OnCongestion::Block;
    if goes_on && options.protocol != Protocol::A {
        return Err(Reason::CongestionNotProtocolA.into());
    }
    if !options.cram_hmac_alg.is_empty() && options.shared_secret.is_empty() {
        return Err(Refusal::because(Reason::AuthAlgorithm, "cram-hmac-alg needs a shared-secret"));
    }
    Ok(())
}
