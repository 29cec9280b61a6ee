//! Ids for traces and spans: unique, not secret.

use std::cell::Cell;

use uuid::Uuid;

use crate::domain::trace::{SpanId, TraceId};

const MULTIPLIER: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;

thread_local! {
    /// A permuted congruential generator (PCG XSL RR 128/64), begun anew in each thread.
    static STATE: Cell<u128> = Cell::new(Uuid::new_v4().as_u128() | 1);
}

/// 64 random bits, at the cost of a multiplication.
pub(super) fn random() -> u64 {
    STATE.with(|state| {
        let next = state.get().wrapping_mul(MULTIPLIER).wrapping_add(MULTIPLIER | 1);
        state.set(next);
        let folded = ((next >> 64) as u64) ^ (next as u64);
        folded.rotate_right((next >> 122) as u32)
    })
}

pub(super) fn span() -> SpanId {
    SpanId::of_random(random())
}

pub(super) fn trace() -> TraceId {
    TraceId::of_random(u128::from(random()) << 64 | u128::from(random()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_differ_also_between_threads() {
        let some = || (0..10_000).map(|_| trace()).collect::<Vec<_>>();
        let others = std::thread::spawn(some).join().unwrap();
        let all: BTreeSet<TraceId> = some().into_iter().chain(others).collect();
        assert_eq!(all.len(), 20_000);
        let ones: u32 = (0..10_000).map(|_| random().count_ones()).sum();
        assert!((310_000..330_000).contains(&ones), "{ones} bits of 640,000");
    }
}
