//! What administrators type. Besides the verbs of drbdadm there are those of drbdsetup it is made of: new-peer, del-peer,
//! new-path, del-path, new-minor, del-minor. Disk options count for volume 0.

use super::super::super::node::{net, options, VOLUME};
use super::super::telling::Wanted;
use super::Stage;
use crate::config::{DiskOptions, OptionSet, OptionSpec, Section};
use crate::engine::AdminRequest;
use crate::ids::{NodeId, VolumeNumber};

impl Stage {
    /// `drbdadm VERB [--FLAG…] r0`, with `&` or `|| refused` behind.
    pub(super) fn administer(&mut self, n: usize, words: &[&str]) {
        let (words, wanted) = match words {
            [words @ .., "&"] => (words, Wanted::Later),
            [words @ .., "||", "refused"] => (words, Wanted::Failure),
            words => (words, Wanted::Success),
        };
        let [verb, flags @ .., resource] = words else { panic!("{words:?} names no resource") };
        let volume = match *resource {
            "r0" => VOLUME,
            "r0/1" => VolumeNumber(1),
            other => panic!("{other} is not configured"),
        };
        if let Some((section, _)) = verb.rsplit_once("-options") {
            self.change_options(n, section, flags);
        }
        if *verb == "up" {
            for volume in (0..self.volumes()).map(VolumeNumber) {
                self.ask(n, "attach", &[], volume, wanted);
            }
            return self.ask(n, "connect", &[], volume, wanted);
        }
        if *verb == "create-md" {
            return self.lab().nodes[n].make_disk_anew();
        }
        self.ask(n, verb, flags, volume, wanted);
    }

    fn ask(&mut self, n: usize, verb: &str, flags: &[&str], volume: VolumeNumber, wanted: Wanted) {
        let request = self.request(n, verb, flags, volume);
        let label = ["drbdadm", verb].iter().chain(flags).copied().collect::<Vec<_>>().join(" ");
        self.begin_request(n, request, label, wanted);
    }

    fn begin_request(&mut self, n: usize, request: AdminRequest, label: String, wanted: Wanted) {
        let lab = self.lab();
        let began = lab.now;
        let ticket = lab.begin(n, request);
        if wanted != Wanted::Later {
            lab.wait("the answer", |lab| lab.nodes[n].replies.contains_key(&ticket));
            let took_ms = lab.now.ms_since(began);
            let answer = &lab.nodes[n].replies[&ticket];
            assert_eq!(answer.is_ok(), wanted == Wanted::Success, "{label}: {answer:?}");
            self.took_ms = took_ms;
        }
        self.teller.commands.insert((n, ticket), (label, wanted));
    }

    /// A daemon that began again where one died as Primary.
    pub(super) fn resume(&mut self, n: usize, wanted: Wanted) {
        self.begin_request(n, AdminRequest::ResumePrimary, "the resumption".to_owned(), wanted);
    }

    fn change_options(&mut self, n: usize, section: &str, flags: &[&str]) {
        for flag in flags {
            let (name, value) =
                flag.trim_start_matches("--").split_once('=').expect("an option and its value");
            let spec = OptionSpec::find(name).expect("an option");
            let sections = [
                ("net", Section::Net),
                ("disk", Section::Disk),
                ("resource", Section::Resource),
                ("peer-device", Section::PeerDevice),
            ];
            assert!(sections.contains(&(section, spec.section)), "{name} is no {section} option");
            self.options[n].push((name.to_owned(), value.to_owned()));
        }
    }

    fn request(&mut self, n: usize, verb: &str, flags: &[&str], volume: VolumeNumber) -> AdminRequest {
        let peer = NodeId(1 - n as u8);
        let path = |n: u8, port: u16| core::net::SocketAddr::from(([10, 0, 0, n + 1], port));
        let (local, remote) = (path(n as u8, 7789), path(1 - n as u8, 7789));
        let has = |flag: &str| flags.contains(&flag);
        let number = |name: &str| {
            let value = flags.iter().find_map(|flag| flag.strip_prefix(name))?;
            Some(value.trim_end_matches('s').parse().expect("a sector"))
        };
        let reset_bitmap = !has("--reset-bitmap=no");
        match verb {
            "attach" => self.attachment(n, volume),
            "new-peer" => AdminRequest::NewPeer { peer, options: net(&self.of(n, Section::Net)) },
            "del-peer" => AdminRequest::DelPeer { peer, force: has("--force") },
            "new-path" => AdminRequest::NewPath { peer, local, remote },
            "del-path" => AdminRequest::DelPath { peer, local, remote },
            "new-minor" => {
                let minor = Stage::minor(n, volume);
                AdminRequest::NewMinor { minor, volume, options: (&OptionSet::default()).into() }
            }
            "del-minor" => AdminRequest::DelMinor { volume },
            "detach" => AdminRequest::Detach { volume, force: has("--force"), diskless: has("--diskless") },
            "connect" => AdminRequest::Connect {
                peer,
                tentative: has("--tentative"),
                discard_my_data: has("--discard-my-data"),
            },
            "disconnect" => AdminRequest::Disconnect { peer, force: has("--force") },
            "primary" => AdminRequest::Primary { force: has("--force") },
            "secondary" => AdminRequest::Secondary { force: has("--force") },
            "down" => AdminRequest::Down,
            "invalidate" => AdminRequest::Invalidate { volume, reset_bitmap },
            "invalidate-remote" => AdminRequest::InvalidateRemote { peer, volume, reset_bitmap },
            "pause-sync" => AdminRequest::PauseSync { peer, volume },
            "resume-sync" => AdminRequest::ResumeSync { peer, volume },
            "outdate" => AdminRequest::Outdate { volume },
            "new-current-uuid" => {
                AdminRequest::NewCurrentUuid { volume, clear_bitmap: has("--clear-bitmap") }
            }
            "verify" => {
                AdminRequest::Verify { peer, volume, start: number("--start="), stop: number("--stop=") }
            }
            "suspend-io" => AdminRequest::SuspendIo { volume },
            "resume-io" => AdminRequest::ResumeIo { volume },
            "net-options" => AdminRequest::NetOptions { peer, options: net(&self.of(n, Section::Net)) },
            "disk-options" => {
                let options = DiskOptions::from(&options(&self.of(n, Section::Disk)));
                AdminRequest::DiskOptions { volume, options }
            }
            "resource-options" => {
                AdminRequest::ResourceOptions((&options(&self.of(n, Section::Resource))).into())
            }
            "peer-device-options" => {
                let options = (&options(&self.of(n, Section::PeerDevice))).into();
                AdminRequest::PeerDeviceOptions { peer, volume, options }
            }
            _ => panic!("there is no `drbdadm {verb}` here"),
        }
    }

    /// `drbdadm attach` has the log applied before.
    fn attachment(&mut self, n: usize, volume: VolumeNumber) -> AdminRequest {
        let options = DiskOptions::from(&options(&self.of(n, Section::Disk)));
        let node = &mut self.lab().nodes[n];
        node.disk_closed = false;
        let mut request = node.attach_request_of(volume, true, false);
        if volume == VOLUME {
            request.options = options;
        }
        AdminRequest::Attach(request)
    }
}
