//! Who is in and who owns what: each rule, kept and broken.

use std::collections::BTreeSet;
use std::time::Duration;

use order_service::domain::membership::{Change, Incarnation, NewMember, NodeState, SlotOwner, View};
use order_service::ports::members::{ChangeError, Joined, MemberError};

use super::{LEASE, READ_FOR, SLOTS, Stage, Way, new};
use crate::harness::members::take_in;

const NOBODY: Incarnation = Incarnation(9_999);
const MOMENT: Duration = Duration::from_secs(60);

fn take(by: Incarnation, slots: &[u16]) -> Change {
    Change::Take { by, slots: slots.to_vec() }
}

fn grant(from: Incarnation, to: Incarnation, slots: &[u16]) -> Change {
    Change::Grant { from, to, slots: slots.to_vec() }
}

fn owner(view: &View, slot: usize) -> (Option<Incarnation>, i64) {
    (view.slots[slot].owner, view.slots[slot].epoch)
}

pub(super) async fn a_node_joins_and_is_told_of<S: Stage>() {
    let stage = S::fresh().await;
    let way = Way::of(&stage).await;
    let empty = way.0.view(0).await.unwrap();
    assert_eq!((empty.version, empty.members, empty.slots), (1, vec![], vec![]));

    let asked = NewMember { name: "a \"b\" ü".into(), build: String::new(), weight: 16, ..new("a") };
    let joined = way.0.join(&asked).await.unwrap();
    assert_eq!(joined, Joined { incarnation: joined.incarnation, version: 2 });
    let update = way.0.view(1).await.unwrap();
    let [member] = &*update.members else { panic!("{update:?}") };
    let told = (&*member.name, &*member.address, member.weight, &*member.version, &*member.build);
    assert_eq!(told, ("a \"b\" ü", "a.example:7000", 16, "1.2.3", ""));
    let told = (member.incarnation, member.state, member.read_for, member.silent_at, member.live_orders);
    assert_eq!(told, (joined.incarnation, NodeState::Active, READ_FOR, None, 0));
    assert!(member.started_at <= update.now && update.now - member.started_at < chrono_of(MOMENT));
    assert!(
        (member.lease_until - member.started_at - chrono_of(LEASE)).abs() < chrono_of(Duration::from_secs(1))
    );

    let renewal = way.0.renew(joined.incarnation, 2 * LEASE, 41).await.unwrap();
    assert_eq!((renewal.is_member, renewal.version, &*renewal.overdue), (true, 2, &[][..]));
    let update = way.0.view(2).await.unwrap();
    assert_eq!((update.members[0].live_orders, update.version), (41, 2));
    assert!(renewal.now <= update.now);
    assert!(update.members[0].lease_until - renewal.now > chrono_of(2 * LEASE - MOMENT));
    // Of a node that nobody knows it is said that it is gone.
    assert!(!way.renew(NOBODY).await.is_member);
    way.0.close().await;
}

fn chrono_of(duration: Duration) -> chrono::Duration {
    chrono::Duration::from_std(duration).unwrap()
}

pub(super) async fn a_change_of_another_view_is_refused<S: Stage>() {
    let stage = S::fresh().await;
    let way = Way::of(&stage).await;
    let (a, b) = (way.join("a").await, way.join("b").await);
    way.made(take(a, &[1])).await;
    let over = way.0.join(&NewMember { lease: Duration::ZERO, ..new("c") }).await.unwrap().incarnation;
    way.0.vote(over, a).await.unwrap();
    way.0.vote(over, b).await.unwrap();
    let newest = way.version().await;
    let changes = [
        Change::Leave { node: a },
        Change::End { node: a },
        Change::Expire { node: over, by: a },
        Change::VoteOut { node: over, by: a },
        grant(a, b, &[1]),
        take(b, &[2]),
        Change::Touch,
    ];
    let before = way.whole().await;
    for change in &changes {
        for wrong in [newest - 1, newest + 1, 0] {
            assert_eq!(way.0.change(wrong, change).await, Err(ChangeError::Refused), "{change:?}");
        }
    }
    assert_eq!(way.whole().await, before);
    // Each of them is allowed in the newest.
    for change in [6, 5, 4, 3, 0, 1].map(|at: usize| changes[at].clone()) {
        way.made(change).await;
    }
    assert_eq!(way.version().await, newest + 6);
}

pub(super) async fn a_node_leaves_and_ends<S: Stage>() {
    let stage = S::fresh().await;
    let way = Way::of(&stage).await;
    let (a, b) = (way.join("a").await, way.join("b").await);
    way.refused(Change::Leave { node: NOBODY }).await;
    way.refused(Change::End { node: NOBODY }).await;
    way.made(Change::Leave { node: a }).await;
    assert_eq!(way.state(a).await, NodeState::Leaving);
    assert!(way.renew(a).await.is_member);
    way.refused(Change::Leave { node: a }).await;
    way.made(Change::End { node: a }).await;
    let view = way.whole().await;
    assert_eq!(view.members[&a].state, NodeState::Left);
    assert!(view.members[&a].silent_at.is_some());
    assert!(!way.renew(a).await.is_member);
    way.refused(Change::End { node: a }).await;
    way.refused(Change::Leave { node: a }).await;
    // Without leaving before.
    way.made(Change::End { node: b }).await;
    assert_eq!(way.state(b).await, NodeState::Left);
    way.made(Change::Touch).await;
}

pub(super) async fn a_lease_that_is_over_can_be_expired<S: Stage>() {
    let stage = S::fresh().await;
    let way = Way::of(&stage).await;
    let (a, b, c) = (way.join("a").await, way.join("b").await, way.join("c").await);
    way.made(Change::Leave { node: c }).await;
    way.refused(Change::Expire { node: a, by: b }).await;
    stage.pass(LEASE + MOMENT).await;
    let renewal = way.renew(b).await;
    assert_eq!((renewal.is_member, &*renewal.overdue), (true, &[a, c][..]));
    way.refused(Change::Expire { node: a, by: a }).await;
    way.refused(Change::Expire { node: a, by: NOBODY }).await;
    way.refused(Change::Expire { node: b, by: c }).await;
    way.refused(Change::Expire { node: NOBODY, by: b }).await;
    // Renewed at last: it is not over.
    assert_eq!(way.renew(a).await.overdue, [c]);
    way.refused(Change::Expire { node: a, by: b }).await;
    way.made(Change::Expire { node: c, by: b }).await;
    let (view, now) = (way.whole().await, way.0.view(0).await.unwrap().now);
    assert_eq!(view.members[&c].state, NodeState::Dead);
    assert!(view.members[&c].silent_at.unwrap() <= now);
    assert!(!way.renew(c).await.is_member);
    assert_eq!(way.renew(b).await.overdue, []);
    way.refused(Change::Expire { node: c, by: b }).await;
    way.made(Change::End { node: a }).await;
    stage.pass(LEASE + MOMENT).await;
    way.refused(Change::Expire { node: b, by: a }).await;
}

pub(super) async fn slots_are_taken_by_active_nodes_alone<S: Stage>() {
    let stage = S::fresh().await;
    let way = Way::of(&stage).await;
    let (a, b) = (way.join("a").await, way.join("b").await);
    let all: Vec<u16> = (0..4_096).collect();
    let epoch = way.made(take(a, &all[..100])).await;
    assert_eq!(owner(&way.whole().await, 99), (Some(a), epoch));
    assert_eq!(owner(&way.whole().await, 100), (None, 0));
    way.refused(take(b, &all[99..])).await;
    way.refused(take(a, &[99])).await;
    way.refused(take(b, &[200, 4_096])).await;
    way.refused(take(b, &[200, u16::MAX])).await;
    way.refused(take(NOBODY, &[200])).await;
    way.made(take(b, &[])).await;
    // Named twice is as good as once.
    way.made(take(b, &[200, 300, 200])).await;
    way.made(Change::Leave { node: a }).await;
    way.refused(take(a, &[400])).await;
    way.made(Change::End { node: a }).await;
    way.refused(take(a, &[400])).await;
    // Of somebody who ended, of nobody, and of one's own.
    way.refused(take(b, &[1, 200])).await;
    let epoch = way.made(take(b, &[1, 400])).await;
    let view = way.whole().await;
    assert_eq!([1, 400].map(|slot| owner(&view, slot)), [(Some(b), epoch); 2]);
    assert_eq!((view.slots_of(a), view.slots_of(b)), (99, 4));
}

pub(super) async fn slots_are_granted_by_their_owner_to_active_nodes<S: Stage>() {
    let stage = S::fresh().await;
    let way = Way::of(&stage).await;
    let (a, b, c) = (way.join("a").await, way.join("b").await, way.join("c").await);
    way.made(take(a, &[1, 2, 3])).await;
    way.made(take(b, &[4])).await;
    way.refused(grant(a, a, &[1])).await;
    way.refused(grant(a, c, &[1, 4])).await;
    way.refused(grant(a, c, &[1, 5])).await;
    way.refused(grant(a, c, &[1, 4_096])).await;
    way.refused(grant(a, c, &[1, 40_000])).await;
    way.refused(grant(a, NOBODY, &[1])).await;
    way.refused(grant(NOBODY, a, &[4])).await;
    let epoch = way.made(grant(a, c, &[2, 1, 2])).await;
    let view = way.whole().await;
    assert_eq!([1, 2].map(|slot| owner(&view, slot)), [(Some(c), epoch); 2]);
    way.made(grant(a, c, &[])).await;
    // Whoever leaves may give and not get.
    way.made(Change::Leave { node: c }).await;
    way.refused(grant(a, c, &[3])).await;
    let epoch = way.made(grant(c, b, &[1])).await;
    assert_eq!(owner(&way.whole().await, 1), (Some(b), epoch));
    way.made(Change::End { node: c }).await;
    way.refused(grant(c, b, &[2])).await;
    way.refused(grant(a, c, &[3])).await;
}

pub(super) async fn slots_of_the_dead_are_free_once_they_are_silent<S: Stage>() {
    let stage = S::fresh().await;
    let way = Way::of(&stage).await;
    let (a, b, c) = (way.join("a").await, way.join("b").await, way.join("c").await);
    way.made(take(a, &[1])).await;
    way.made(take(b, &[2])).await;
    way.0.vote(a, b).await.unwrap();
    way.0.vote(a, c).await.unwrap();
    way.made(Change::VoteOut { node: a, by: c }).await;
    way.refused(take(c, &[1])).await;
    stage.pass(READ_FOR / 2).await;
    way.refused(take(c, &[1])).await;
    stage.pass(READ_FOR / 2 + MOMENT).await;
    way.made(take(c, &[1])).await;
    stage.pass(LEASE).await;
    way.renew(c).await;
    way.refused(take(c, &[2])).await;
    way.made(Change::Expire { node: b, by: c }).await;
    let epoch = way.made(take(c, &[2])).await;
    assert_eq!(owner(&way.whole().await, 2), (Some(c), epoch));
}

pub(super) async fn a_new_life_at_an_address_ends_the_one_before<S: Stage>() {
    let stage = S::fresh().await;
    let way = Way::of(&stage).await;
    let (a, b) = (way.join("a").await, way.join("b").await);
    way.made(take(a, &[1])).await;
    way.made(Change::Leave { node: a }).await;
    let again = way.join("a").await;
    // By address; the name does not matter.
    let other = way.0.join(&NewMember { name: "z".into(), ..new("b") }).await.unwrap().incarnation;
    let (view, now) = (way.whole().await, way.0.view(0).await.unwrap().now);
    for old in [a, b] {
        assert_eq!(view.members[&old].state, NodeState::Dead);
        let silent = view.members[&old].silent_at.unwrap() - now;
        assert!(silent <= chrono_of(READ_FOR) && silent > chrono_of(READ_FOR - MOMENT), "{silent}");
        assert!(!way.renew(old).await.is_member);
    }
    assert_eq!(view.all_active().map(|member| member.incarnation).collect::<Vec<_>>(), [again, other]);
    way.refused(take(again, &[1])).await;
    stage.pass(READ_FOR + MOMENT).await;
    way.made(take(again, &[1])).await;
}

pub(super) async fn a_name_is_taken_while_its_lease_lasts<S: Stage>() {
    let stage = S::fresh().await;
    let way = Way::of(&stage).await;
    let a = way.join("a").await;
    way.made(take(a, &[1])).await;
    let elsewhere = NewMember { address: "elsewhere:1".into(), ..new("a") };
    let before = way.whole().await;
    assert_eq!(way.rival(&elsewhere).await, "a.example:7000");
    assert_eq!(way.whole().await, before);
    stage.pass(LEASE + MOMENT).await;
    let taken = way.0.join(&elsewhere).await.unwrap().incarnation;
    let view = way.whole().await;
    assert_eq!(view.members[&a].state, NodeState::Dead);
    // Its lease was over, but its last renewal may have been lost.
    way.refused(take(taken, &[1])).await;
    stage.pass(READ_FOR + MOMENT).await;
    way.made(take(taken, &[1])).await;
    assert_eq!(way.rival(&new("a")).await, "elsewhere:1");
    // One that went in order has no name any more.
    way.made(Change::End { node: taken }).await;
    way.join("a").await;
}

pub(super) async fn what_is_new_adds_up_to_the_whole<S: Stage>() {
    let stage = S::fresh().await;
    let (way, watching) = (Way::of(&stage).await, Way::of(&stage).await);
    let mut known = View { slots: vec![SlotOwner::default(); SLOTS], ..View::default() };
    let mut nodes = Vec::new();
    for round in 0..12u16 {
        nodes.push(way.join(&format!("n{round}")).await);
        let node = *nodes.last().unwrap();
        way.made(take(node, &[round, 100 + round, 200 + round])).await;
        if round % 3 == 1 {
            way.made(grant(nodes[usize::from(round) - 1], node, &[round - 1])).await;
        }
        if round % 6 == 5 {
            way.made(Change::End { node }).await;
            way.made(take(nodes[0], &[100 + round])).await;
        }
        let update = watching.0.view(known.version).await.unwrap();
        assert!(update.slots.len() <= 5, "{} slots are sent", update.slots.len());
        take_in(&mut known, update);
        assert_eq!(known, way.whole().await);
    }
    let update = watching.0.view(known.version).await.unwrap();
    assert_eq!((update.version, &*update.slots), (known.version, &[][..]));
    assert_eq!(update.members.len(), known.members.len());
}

pub(super) async fn who_is_gone_is_forgotten_but_for_owners<S: Stage>() {
    let stage = S::fresh().await;
    let way = Way::of(&stage).await;
    let (a, b, c) = (way.join("a").await, way.join("b").await, way.join("c").await);
    way.made(take(a, &[1])).await;
    way.made(Change::End { node: a }).await;
    way.made(Change::End { node: b }).await;
    let told = async || {
        let update = way.0.view(0).await.unwrap();
        update.members.iter().map(|member| member.incarnation).collect::<BTreeSet<_>>()
    };
    assert_eq!(told().await, [a, b, c].into());
    stage.pass(Duration::from_secs(500)).await;
    assert_eq!(told().await, [a, b, c].into());
    stage.pass(Duration::from_secs(200)).await;
    assert_eq!(told().await, [a, c].into());
    stage.pass(Duration::from_secs(4_000)).await;
    let d = way.join("d").await;
    assert_eq!(told().await, [a, c, d].into());
    way.made(take(d, &[1])).await;
    assert_eq!(told().await, [c, d].into());
    for gone in [a, b] {
        assert!(!way.renew(gone).await.is_member);
        way.refused(Change::End { node: gone }).await;
    }
}

pub(super) async fn incarnations_are_never_used_again<S: Stage>() {
    let stage = S::fresh().await;
    let way = Way::of(&stage).await;
    let mut last = Incarnation(0);
    for round in 0..6 {
        let joined = way.0.join(&new("a")).await.unwrap();
        assert!(joined.incarnation > last, "{joined:?} after {last}");
        last = joined.incarnation;
        if round % 2 == 0 {
            way.made(Change::End { node: last }).await;
            stage.pass(Duration::from_secs(4_000)).await;
        }
        let refused = way.0.join(&NewMember { address: "elsewhere:1".into(), ..new("b") }).await;
        assert!(matches!(refused, Ok(_) | Err(MemberError::NameTaken { .. })));
        last = refused.map_or(last, |joined| joined.incarnation);
    }
}
