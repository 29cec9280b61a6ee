//! Nodes that are voted out.

use std::time::Duration;

use order_service::domain::membership::{Change, Incarnation, NodeState, VOTE_FOR};

use super::{READ_FOR, Stage, Way};

async fn nodes(way: &Way, count: usize) -> Vec<Incarnation> {
    let mut nodes = Vec::new();
    for number in 0..count {
        nodes.push(way.join(&format!("n{number}")).await);
    }
    nodes
}

pub(super) async fn most_watchers_vote_a_node_out<S: Stage>() {
    for (others, needed) in [(1, 1), (2, 2), (3, 2), (5, 3), (7, 3)] {
        let stage = S::fresh().await;
        let way = Way::of(&stage).await;
        let all = nodes(&way, others + 1).await;
        // The last one is watched by the first ones.
        let (suspect, by) = (all[others], all[0]);
        let out = Change::VoteOut { node: suspect, by };
        for voter in &all[..needed] {
            way.refused(out.clone()).await;
            way.0.vote(suspect, *voter).await.unwrap();
            // Said twice counts once.
            way.0.vote(suspect, *voter).await.unwrap();
        }
        way.refused(Change::VoteOut { node: suspect, by: Incarnation(9_999) }).await;
        way.refused(Change::VoteOut { node: by, by: suspect }).await;
        way.made(out.clone()).await;
        let update = way.0.view(0).await.unwrap();
        let member = update.members.iter().find(|member| member.incarnation == suspect).unwrap();
        assert_eq!(member.state, NodeState::Dead);
        let silent = (member.silent_at.unwrap() - update.now).to_std().unwrap();
        assert!(silent <= READ_FOR && silent > READ_FOR / 2, "{silent:?}");
        assert!(!way.renew(suspect).await.is_member);
        way.refused(out).await;
    }
}

pub(super) async fn votes_age_and_are_taken_back<S: Stage>() {
    let stage = S::fresh().await;
    let way = Way::of(&stage).await;
    let all = nodes(&way, 3).await;
    let (a, b, c) = (all[0], all[1], all[2]);
    let out = Change::VoteOut { node: a, by: b };
    way.0.vote(a, b).await.unwrap();
    way.0.vote(a, c).await.unwrap();
    stage.pass(VOTE_FOR + Duration::from_secs(1)).await;
    way.refused(out.clone()).await;
    way.0.vote(a, b).await.unwrap();
    way.refused(out.clone()).await;
    way.0.vote(a, c).await.unwrap();
    way.0.withdraw(a, b).await.unwrap();
    way.0.withdraw(a, b).await.unwrap();
    way.0.withdraw(b, a).await.unwrap();
    way.refused(out.clone()).await;
    way.0.vote(a, b).await.unwrap();
    way.made(out).await;
}

pub(super) async fn votes_of_others_do_not_count<S: Stage>() {
    let stage = S::fresh().await;
    let way = Way::of(&stage).await;
    let all = nodes(&way, 9).await;
    // Those that follow: 5, 6, 7, 8, 0; once 5 is gone 6, 7, 8, 0, 1.
    let suspect = all[4];
    let out = Change::VoteOut { node: suspect, by: all[2] };
    for other in [1, 2, 3, 4] {
        way.0.vote(suspect, all[other]).await.unwrap();
    }
    way.0.vote(all[5], all[6]).await.unwrap();
    way.0.vote(suspect, all[0]).await.unwrap();
    way.0.vote(suspect, all[5]).await.unwrap();
    way.refused(out.clone()).await;
    way.made(Change::End { node: all[5] }).await;
    // The vote of one that is gone does not count any more, and that of the one that came in its place does.
    way.refused(out.clone()).await;
    way.made(Change::Leave { node: all[8] }).await;
    way.0.vote(suspect, all[8]).await.unwrap();
    way.made(out).await;
}
