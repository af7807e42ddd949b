use super::Slab;
use proptest::prelude::*;
use std::collections::BTreeMap;

proptest! {
    #[test]
    fn a_slab_is_a_map_with_small_numbers(steps in prop::collection::vec((any::<bool>(), any::<u32>()), 0..200)) {
        const CAPACITY: usize = 8;
        let mut slab = Slab::new(CAPACITY);
        let mut model: BTreeMap<u32, u32> = BTreeMap::new();
        for (insert, number) in steps {
            if insert && model.len() < CAPACITY {
                let key = slab.insert(number);
                prop_assert!((key as usize) < CAPACITY);
                prop_assert_eq!(model.insert(key, number), None, "a number is reused only after its removal");
            } else if let Some(&key) = model.keys().nth(number as usize % model.len().max(1)) {
                prop_assert_eq!(slab.remove(key), model.remove(&key).unwrap());
            }
            prop_assert_eq!(slab.len(), model.len());
            prop_assert_eq!(slab.room(), CAPACITY - model.len());
            prop_assert!(slab.iter().eq(model.iter().map(|(&key, value)| (key, value))));
            for key in 0..CAPACITY as u32 + 2 {
                prop_assert_eq!(slab.find(key), model.get(&key));
            }
        }
    }
}

#[test]
#[should_panic(expected = "room in the table")]
fn a_full_slab_says_so() {
    let mut slab = Slab::new(1);
    slab.insert(1);
    slab.insert(2);
}
