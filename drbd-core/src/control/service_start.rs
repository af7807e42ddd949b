//! What `drbdsetup new-resource` leaves for the service that is to be a resource's daemon: a unit of systemd knows of it no
//! more than the name of the resource.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A daemon to be started, in the file `RESOURCE.start` of the run directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ServiceStart {
    /// The arguments of `udrbd supervise`.
    pub arguments: Vec<String>,
    /// Variables of the environment of whoever asked that a daemon knows.
    pub environment: BTreeMap<String, String>,
}

impl ServiceStart {
    /// Name of the file of a resource whose daemon is asked for.
    pub fn asked(resource: &str) -> String {
        format!("{resource}.start")
    }

    /// Its name when it was taken up.
    pub fn taken_up(resource: &str) -> String {
        format!("{resource}.started")
    }

    /// Whether a daemon knows a variable.
    pub fn is_known(variable: &str) -> bool {
        variable.starts_with("UDRBD_") || ["__DRBD_NODE__", "DRBD_CONF", "XDG_STATE_HOME"].contains(&variable)
    }

    /// As text.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("it has nothing that is no text")
    }

    /// Reads it, or says what is wrong with it.
    pub fn decode(text: &str) -> Result<ServiceStart, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written() {
        let environment = [("UDRBD_FRONTEND".to_owned(), "auto,r1=socket \"x\"\n".to_owned())].into();
        let start = ServiceStart { arguments: vec!["r0".to_owned(), "--node-id".to_owned()], environment };
        assert_eq!(ServiceStart::decode(&start.encode()), Ok(start));
        assert!(ServiceStart::decode("{\"arguments\": 1}").is_err());
    }

    #[test]
    fn other_variables_stay_where_they_are() {
        assert!(ServiceStart::is_known("UDRBD_NBD_LISTEN") && ServiceStart::is_known("__DRBD_NODE__"));
        assert!(!ServiceStart::is_known("PATH") && !ServiceStart::is_known("OCF_ROOT"));
    }
}
