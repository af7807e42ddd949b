//! Node ids of the classic form: two hosts with addresses and no connection sections.
//!
//! Both nodes compute them alone, so the rule is part of compatibility: CRC-32C of each host's IP address, without
//! the usual inversions, from a fixed seed; compared as signed numbers, the greater gets 0.

use crate::syntax::Resource;

const SEED: u32 = 0x1a65_6f21;

/// Gives ids to both hosts if neither has one and the form allows it.
pub(super) fn assign(resource: &mut Resource) {
    if !resource.connections.is_empty() || !resource.meshes.is_empty() {
        return;
    }
    let [first, second] = resource.hosts.as_mut_slice() else { return };
    if first.node_id.is_some() || second.node_id.is_some() {
        return;
    }
    let (Some(one), Some(other)) = (&first.address, &second.address) else { return };
    let first_is_greater = hash(&one.ip) > hash(&other.ip);
    first.node_id = Some(u32::from(!first_is_greater));
    second.node_id = Some(u32::from(first_is_greater));
}

fn hash(ip: &str) -> i32 {
    i32::from_ne_bytes((!crc32c::crc32c_append(!SEED, ip.as_bytes())).to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use super::hash;

    #[test]
    fn the_greater_hash_is_node_0() {
        // As drbdadm 9.34 decides for these pairs.
        assert!(hash("10.0.0.1") > hash("10.0.0.2"));
        assert!(hash("10.1.1.31") > hash("10.1.1.32"));
        assert!(hash("127.0.0.1") < hash("127.0.0.2"));
        assert!(hash("192.168.42.1") < hash("192.168.42.2"));
    }
}
