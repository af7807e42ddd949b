//! Whole nodes from outside: two of them on this machine, driven through their own tools ([`nodes`]), written to through
//! their NBD sockets ([`nbd_client`]) by a writer that remembers what was acknowledged ([`ledger`]); what a
//! resync copied and why ([`resync_account`]).

pub mod control_client;
pub mod ledger;
pub mod nbd_client;
pub mod nodes;
pub mod resync_account;
