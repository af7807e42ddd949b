use super::*;

const MIB: usize = 1 << 20;

#[test]
fn buffers_are_aligned_and_distinct() {
    let mut pool = PayloadPool::new(4 * MIB, 4 * MIB).unwrap();
    let a = pool.take(4096, Share::Peer).unwrap();
    let b = pool.take(5000, Share::Peer).unwrap();
    assert_eq!(pool.span(a).len(), 4096);
    assert_eq!(pool.span(b).len(), 8192);
    assert_eq!(pool.span(b).as_ptr() as usize % 8192, 0);
    pool.span(a).put(&[7; 4096]);
    pool.span(b).put(&[8; 8192]);
    assert!(pool.span(a).bytes().iter().all(|&x| x == 7));
}

#[test]
fn everything_merges_again() {
    let mut pool = PayloadPool::new(2 * MIB, 2 * MIB).unwrap();
    let small: Vec<_> = (0..512).map(|_| pool.take(4096, Share::Peer).unwrap()).collect();
    assert!(pool.take(1, Share::Peer).is_none());
    for (n, id) in small.iter().enumerate() {
        if n % 2 == 0 {
            pool.release(*id);
        }
    }
    assert!(pool.take(8192, Share::Peer).is_none(), "only single pages are free");
    for (n, id) in small.iter().enumerate() {
        if n % 2 == 1 {
            pool.release(*id);
        }
    }
    assert_eq!(pool.free_bytes(), 2 * MIB);
    assert!(pool.take(MIB, Share::Peer).is_some());
    assert!(pool.take(MIB, Share::Peer).is_some());
}

#[test]
fn references_keep_a_buffer() {
    let mut pool = PayloadPool::new(MIB, MIB).unwrap();
    let id = pool.take(MIB, Share::Peer).unwrap();
    pool.retain(id);
    pool.release(id);
    assert_eq!(pool.free_bytes(), 0);
    pool.release(id);
    assert_eq!(pool.free_bytes(), MIB);
}

#[test]
fn a_buffer_is_divided_and_grows_together_again() {
    let mut pool = PayloadPool::new(MIB, MIB).unwrap();
    let whole = pool.take(100 << 10, Share::Peer).unwrap();
    let bytes: Vec<u8> = (0..128 << 10).map(|n| (n >> 12) as u8).collect();
    pool.span(whole).put(&bytes);
    let parts = pool.divide(whole, 32 << 10);
    assert_eq!(parts.len(), 4);
    for (part, bytes) in parts.iter().zip(bytes.chunks(32 << 10)) {
        assert_eq!(pool.span(*part).bytes(), bytes);
    }
    parts.iter().rev().for_each(|part| pool.release(*part));
    assert_eq!(pool.free_bytes(), MIB);
    let small = pool.take(4096, Share::Peer).unwrap();
    assert_eq!(pool.divide(small, 32 << 10), [small], "smaller than a part");
}

#[test]
fn front_ends_leave_a_share_to_peers() {
    let mut pool = PayloadPool::new(8 * MIB, 8 * MIB).unwrap();
    let mut taken = 0;
    while pool.take(MIB, Share::FrontEnd).is_some() {
        taken += 1;
    }
    assert_eq!(taken, 6);
    assert!(pool.take(MIB, Share::Engine).is_some());
    assert!(pool.take(MIB, Share::Engine).is_none());
    assert!(pool.take(MIB, Share::Peer).is_some());
}

#[test]
fn a_pool_grows_within_its_mapping() {
    let mut pool = PayloadPool::new(MIB, 3 * MIB).unwrap();
    let taken: Vec<_> = (0..4).map(|_| pool.take_growing(MIB)).collect();
    assert_eq!(taken.iter().filter(|t| t.is_some()).count(), 3);
}

#[test]
#[should_panic(expected = "is in use")]
fn a_double_release_is_our_own_bug() {
    let mut pool = PayloadPool::new(MIB, MIB).unwrap();
    let id = pool.take(4096, Share::Peer).unwrap();
    pool.release(id);
    pool.release(id);
}

#[test]
fn random_use_keeps_the_books() {
    let mut pool = PayloadPool::new(8 * MIB, 8 * MIB).unwrap();
    let mut held = Vec::new();
    let mut state = 12345u64;
    for _ in 0..100_000 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let roll = (state >> 33) as usize;
        if roll % 3 == 0 && !held.is_empty() {
            let id = held.swap_remove(roll % held.len());
            pool.release(id);
        } else if let Some(id) = pool.take(1 + roll % MIB, Share::Peer) {
            held.push(id);
        }
    }
    for id in held {
        pool.release(id);
    }
    assert_eq!(pool.free_bytes(), 8 * MIB);
}

#[test]
fn the_beginning_is_used_first() {
    let mut pool = PayloadPool::new(4 * MIB, 6 * MIB).unwrap();
    assert_eq!(pool.prefer_beginning(9 * MIB).len(), 4 * MIB, "what there is");
    let beginning = pool.prefer_beginning(2 * MIB + 4096);
    assert_eq!(beginning.len(), 2 * MIB, "whole blocks");
    let within = |pool: &PayloadPool, payload| {
        let at = pool.span(payload).as_ptr() as usize;
        (beginning.as_ptr() as usize..beginning.as_ptr() as usize + beginning.len()).contains(&at)
    };
    pool.grow_to(6 * MIB);
    let taken: Vec<_> = (0..6).map(|_| pool.take(MIB, Share::Peer).unwrap()).collect();
    assert_eq!(
        taken.iter().map(|&p| within(&pool, p)).collect::<Vec<_>>(),
        [true, true, false, false, false, false]
    );
    assert!(pool.take(4096, Share::Peer).is_none());
    taken.iter().rev().for_each(|&payload| pool.release(payload));
    let small = pool.take(4096, Share::Peer).unwrap();
    assert!(within(&pool, small), "a large block of the beginning is divided before the rest is touched");
}
