//! One order on the pure core, with a model of the world: one call at a time, every law held after every commit.

use chrono::TimeDelta;
use order_service::domain::Timestamp;
use order_service::domain::command::OrderCommand;
use order_service::domain::error::OrderError;
use order_service::domain::item::StockLine;
use order_service::domain::order::Order;
use order_service::domain::react::{Input, Policy, Reaction, react};
use order_service::domain::repair::{Explanation, Outcome, Repair, RepairOrder, explain, method};
use order_service::domain::saga::{SagaMove, StepCall, StepResult};
use order_service::domain::status::OrderStatus;

use crate::harness::laws::Store;
use crate::harness::world::{Mood, World};
use crate::harness::{Wish, ask, dawn, policy, set_status};

/// One order, one call at a time.
pub(super) struct Life {
    pub(super) store: Store,
    pub(super) world: World,
    pub(super) now: Timestamp,
    pub(super) policy: Policy,
    pub(super) act: SagaMove,
}

impl Life {
    /// An order that is about to make its first call.
    pub(super) fn new() -> Self {
        Self::with(policy())
    }

    /// One whose calls may follow each other without each being stored before.
    pub(super) fn ahead() -> Self {
        Self::with(Policy { run_ahead: std::time::Duration::from_secs(1), ..policy() })
    }

    fn with(policy: Policy) -> Self {
        let draft = Wish::plain().draft(1);
        let line = |item: &order_service::domain::item::OrderItem| StockLine {
            product: item.product,
            quantity: item.quantity,
        };
        let lines: Vec<_> = draft.items.iter().map(line).collect();
        let world = World::new(&lines, true, 0);
        let (store, act) = (Store::default(), SagaMove::Settled);
        let mut life = Self { store, world, now: dawn(), policy, act };
        life.ask(OrderCommand::Create(Box::new(draft)), false).unwrap();
        life
    }

    /// An order at this status, at rest.
    pub(super) fn at(status: OrderStatus) -> Self {
        use OrderStatus::{Confirmed, Delivered, Processing, Shipped};
        let mut life = Self::new();
        life.finish();
        for next in [Processing, Shipped, Delivered] {
            if status != Confirmed && life.order().status != status {
                life.ask(set_status(next), false).unwrap();
                life.finish();
            }
        }
        assert_eq!(life.order().status, status);
        life
    }

    pub(super) fn order(&self) -> &Order {
        self.store.order.as_ref().unwrap()
    }

    pub(super) fn input(&mut self, input: Input) -> Result<(), OrderError> {
        self.now += TimeDelta::milliseconds(10);
        let (order, saga) = (self.store.order.as_ref(), self.store.saga.as_ref());
        match react(order, saga, input, self.now, &self.policy)? {
            Reaction::Commit(change) => {
                self.store.commit(&change, &self.world, self.now).unwrap();
                if change.act != SagaMove::Keep {
                    self.act = change.act;
                }
            }
            Reaction::Act(act) => self.act = act,
            Reaction::Repeat(_) | Reaction::Join | Reaction::Unchanged => {}
        }
        Ok(())
    }

    pub(super) fn ask(&mut self, command: OrderCommand, calling: bool) -> Result<(), OrderError> {
        self.input(Input::Command { ask: ask(command, None, None), calling })
    }

    pub(super) fn repair(&mut self, repair: Repair) -> Result<(), OrderError> {
        let (reason, by) = ("ticket 4711".to_owned(), "ada".to_owned());
        self.ask(OrderCommand::Repair(RepairOrder { repair, reason, by }), false)
    }

    /// Why a repair is refused.
    #[track_caller]
    pub(super) fn refused(&mut self, repair: Repair) -> String {
        let before = (self.order().clone(), self.store.events.len());
        let Err(OrderError::RepairRefused { status, what }) = self.repair(repair) else {
            panic!("it was not refused")
        };
        assert_eq!(status, Some(self.order().status));
        assert_eq!(before, (self.order().clone(), self.store.events.len()), "a refusal changes nothing");
        what
    }

    pub(super) fn settle(&mut self, outcome: Outcome, reference: Option<&str>) -> Result<(), OrderError> {
        self.repair(Repair::Settle { outcome, reference: reference.map(str::to_owned), key: None })
    }

    pub(super) fn call(&self) -> StepCall {
        match &self.act {
            SagaMove::Run(call) => call.clone(),
            other => panic!("no call is under way but {other:?}"),
        }
    }

    /// Answers the call that is under way.
    pub(super) fn answer(&mut self, result: StepResult) {
        let call = self.call();
        self.input(Input::StepFinished { call, result }).unwrap();
    }

    pub(super) fn answer_well(&mut self) {
        let call = self.call();
        let result = self.world.execute(&call, Mood::default(), self.now);
        self.answer(result);
    }

    pub(super) fn unavailable(&mut self) {
        self.answer(StepResult::Unavailable { dependency: "somebody", error: "no way".to_owned() });
    }

    /// Nobody hears of it; `done` says whether it happened.
    pub(super) fn lost(&mut self, done: bool) {
        let call = self.call();
        if done {
            self.world.execute(&call, Mood::default(), self.now);
        }
        self.answer(StepResult::Unknown { dependency: "somebody", error: "no answer".to_owned() });
    }

    pub(super) fn refuse(&mut self, dependency: &'static str, reason: &str) {
        let reason = reason.to_owned();
        self.answer(StepResult::Refused { dependency, reason, shortages: Vec::new() });
    }

    /// The process dies with its call on the way, and another takes the order up.
    pub(super) fn died(&mut self) {
        self.input(Input::Resume).unwrap();
    }

    /// Lets time pass until the next call is made.
    pub(super) fn wait(&mut self) {
        if let SagaMove::Wait(at) = self.act {
            self.now = self.now.max(at);
            self.input(Input::Resume).unwrap();
        }
    }

    /// Everything goes well from here.
    pub(super) fn finish(&mut self) {
        for _ in 0..50 {
            match &self.act {
                SagaMove::Run(_) => self.answer_well(),
                SagaMove::Wait(_) => self.wait(),
                SagaMove::Keep | SagaMove::Settled => break,
            }
        }
        assert_eq!(self.act, SagaMove::Settled);
        self.store.at_rest(&self.world, false).unwrap();
        self.store.verify(self.now).unwrap();
    }

    pub(super) fn explain(&self) -> Explanation {
        match &self.act {
            SagaMove::Run(call) => self.explain_if(Some(call)),
            _ => self.explain_if(None),
        }
    }

    pub(super) fn explain_if(&self, running: Option<&StepCall>) -> Explanation {
        let (order, saga) = (self.order(), self.store.saga.as_ref());
        explain(order, saga, &self.store.events, running, self.now, &self.policy)
    }

    /// Makes the calls well until this one is under way.
    pub(super) fn until(&mut self, name: &str) {
        while method(&self.call()) != name {
            self.answer_well();
        }
    }

    pub(super) fn kinds(&self) -> Vec<&'static str> {
        self.store.events.iter().map(|event| event.event.kind()).collect()
    }
}
