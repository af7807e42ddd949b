//! A hostile peer: everything two nodes say to each other passes through a relay that understands it and changes it. So
//! each is lied to in every phase of a connection, before it knows who speaks and after.

mod acknowledgements;
mod lies;
mod relay;

pub use relay::{Relay, Round, RoundReport};
