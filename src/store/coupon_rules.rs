//! Who gets a coupon, and who comes too late.

use std::collections::{BTreeMap, HashSet};

use crate::domain::ids::OrderId;
use crate::ports::store::{Commit, CouponMove};

/// What the moves of some orders come to.
#[derive(Default)]
pub(super) struct Verdict<'a> {
    /// Orders that ask in vain.
    pub(super) exhausted: HashSet<OrderId>,
    /// Uses to count.
    pub(super) claims: Vec<(&'a str, OrderId)>,
    /// Uses to give back.
    pub(super) releases: Vec<(&'a str, OrderId)>,
}

/// The coupon that a commit claims or releases.
pub(super) fn code(coupon: &CouponMove) -> &str {
    match coupon {
        CouponMove::Claim { code, .. } | CouponMove::Release { code } => code,
    }
}

/// Judges the moves of `commits` one after the other. `used` has the count of every coupon before and has it after;
/// `claimed` are the uses that are counted already.
pub(super) fn judge<'a>(
    commits: &[&'a Commit],
    used: &mut BTreeMap<&str, i64>,
    claimed: &HashSet<(String, OrderId)>,
) -> Verdict<'a> {
    let mut verdict = Verdict::default();
    for commit in commits {
        let Some(coupon) = &commit.coupon else { continue };
        let (code, order) = (code(coupon), commit.order.id);
        let Some(used) = used.get_mut(code) else { continue };
        let has_it = claimed.contains(&(String::from(code), order));
        match coupon {
            CouponMove::Claim { .. } if has_it => {}
            CouponMove::Claim { use_limit: Some(limit), .. } if *used >= i64::from(*limit) => {
                verdict.exhausted.insert(order);
            }
            CouponMove::Claim { .. } => {
                *used = used.saturating_add(1);
                verdict.claims.push((code, order));
            }
            CouponMove::Release { .. } if has_it => {
                *used = used.saturating_sub(1);
                verdict.releases.push((code, order));
            }
            CouponMove::Release { .. } => {}
        }
    }
    verdict
}
