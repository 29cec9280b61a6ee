//! Many at once.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use order_service::domain::membership::{Change, Incarnation, NewMember, NodeState};
use order_service::ports::members::{ChangeError, MemberError, ViewUpdate};

use super::{Stage, Way, new};
use crate::harness::Chance;

/// Nodes that change things at once, and how often each.
const NODES: u16 = 6;
const CHANGES: u16 = 15;

/// Of one node: takes its slots, and gives each on as soon as it has it. Returns the versions it made, and all it saw.
async fn busy(way: Way, me: Incarnation, next: Incarnation, number: u16) -> (Vec<i64>, Vec<ViewUpdate>) {
    let (mut made, mut seen) = (Vec::new(), Vec::new());
    let mut chance = Chance::new(u64::from(number));
    while made.len() < usize::from(CHANGES) {
        let update = way.0.view(0).await.unwrap();
        let owned = update.slots.iter().filter(|(_, slot)| slot.owner == Some(me)).map(|(slot, _)| *slot);
        let owned: Vec<u16> = owned.collect();
        let version = update.version;
        seen.push(update);
        let change = match chance.below(3) {
            0 => Change::Touch,
            // The same slots for all.
            1 => Change::Take { by: me, slots: vec![chance.below(40) as u16, 40 + chance.below(40) as u16] },
            _ => Change::Grant { from: me, to: next, slots: owned },
        };
        match way.0.change(version, &change).await {
            Ok(version) => made.push(version),
            Err(ChangeError::Refused | ChangeError::NotMade(_)) => {}
            Err(error) => panic!("{change:?}: {error}"),
        }
    }
    (made, seen)
}

pub(super) async fn changes_of_many_have_one_order<S: Stage>() {
    let stage = S::fresh().await;
    let mut ways = Vec::new();
    for _ in 0..NODES {
        ways.push(Way::of(&stage).await);
    }
    let joining = ways
        .iter()
        .zip(0..)
        .map(|(way, number): (_, u16)| async move { way.join(&format!("n{number}")).await });
    let nodes: Vec<Incarnation> = join_all(joining).await;
    let start = ways[0].version().await;
    assert_eq!(start, 1 + i64::from(NODES), "each node made one view");
    let next = |number: u16| nodes[usize::from((number + 1) % NODES)];
    let working = ways.into_iter().zip(0..).map(|(way, number): (_, u16)| {
        tokio::spawn(busy(way, nodes[usize::from(number)], next(number), number))
    });
    let (mut made, mut owners) = (Vec::new(), BTreeMap::new());
    for worked in join_all(working).await {
        let (versions, seen) = worked.unwrap();
        assert!(versions.is_sorted(), "{versions:?}");
        made.extend(versions);
        for update in seen {
            for (slot, at) in update.slots {
                assert!(at.epoch <= update.version);
                let before = owners.insert((slot, at.epoch), at.owner);
                assert!(
                    before.is_none_or(|before| before == at.owner),
                    "two owners of slot {slot} in one epoch"
                );
            }
        }
    }
    made.sort_unstable();
    assert!(made.iter().copied().eq(start + 1..=start + i64::from(NODES * CHANGES)), "{made:?}");
    assert_eq!(Way::of(&stage).await.version().await, *made.last().unwrap());
}

pub(super) async fn a_renewal_and_an_expiry_do_not_both_succeed<S: Stage>() {
    let stage = S::fresh().await;
    let (way, other) = (Way::of(&stage).await, Way::of(&stage).await);
    let by = way.join("judge").await;
    let mut renewed = 0;
    for round in 0..80u32 {
        let over = NewMember { lease: Duration::ZERO, ..new("late") };
        let joined = way.0.join(&over).await.unwrap();
        let node = joined.incarnation;
        let expire = Change::Expire { node, by };
        let (renewal, expired) = if round % 2 == 0 {
            tokio::join!(other.renew(node), way.0.change(joined.version, &expire))
        } else {
            let (expired, renewal) = tokio::join!(way.0.change(joined.version, &expire), other.renew(node));
            (renewal, expired)
        };
        match (renewal.is_member, &expired) {
            (true, Err(ChangeError::Refused | ChangeError::NotMade(_))) => {
                renewed += 1;
                assert_eq!(way.state(node).await, NodeState::Active);
                assert_eq!(way.version().await, joined.version);
            }
            (false, Ok(version)) => {
                assert_eq!(*version, joined.version + 1);
                assert_eq!(way.state(node).await, NodeState::Dead);
            }
            both => panic!("{both:?}"),
        }
        assert_eq!(other.renew(node).await.is_member, renewal.is_member, "it is not as it was told");
    }
    println!("{renewed} of 80 renewed in time");
}

pub(super) async fn a_name_has_one_bearer<S: Stage>() {
    let stage = S::fresh().await;
    let mut ways = Vec::new();
    for _ in 0..5 {
        ways.push(Way::of(&stage).await);
    }
    for round in 0..5 {
        let joining = ways.iter().zip(0..).map(|(way, number): (_, u16)| async move {
            let address = format!("n{number}:{round}");
            way.0.join(&NewMember { name: format!("same{round}"), address, ..new("x") }).await
        });
        let joined = join_all(joining).await;
        let taken = |one: &&Result<_, _>| matches!(one, Err(MemberError::NameTaken { .. }));
        assert_eq!(joined.iter().filter(taken).count(), 4, "{joined:?}");
        assert_eq!(joined.iter().filter(|one| one.is_ok()).count(), 1, "{joined:?}");
    }
    assert_eq!(ways[0].version().await, 6);
}
