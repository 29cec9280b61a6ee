//! For which call a thread works just now, so that every log line can say so.

use std::cell::RefCell;
use std::future::poll_fn;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::domain::trace::{SpanId, TraceContext, TraceId};

/// The call that is worked for.
#[derive(Clone, Debug)]
pub struct Current {
    /// Names its request.
    pub request_id: Arc<str>,
    /// Its trace.
    pub trace: TraceId,
    /// The operation of it.
    pub span: SpanId,
}

impl Current {
    /// A call by its request's id and its place in a trace; none where nobody traces it.
    pub fn new(request_id: &Arc<str>, context: Option<&TraceContext>) -> Option<Self> {
        let context = context?;
        Some(Self { request_id: Arc::clone(request_id), trace: context.trace, span: context.span })
    }
}

#[derive(Debug)]
enum Place {
    /// Nothing here looks after what is set.
    Outside,
    /// For this one, if it is known yet.
    For(Option<Current>),
}

thread_local! {
    static PLACE: RefCell<Place> = const { RefCell::new(Place::Outside) };
}

/// For which call this thread works; none where that is not known, or it works for none.
pub fn current() -> Option<Current> {
    // A log line that is written while the place is changed has none.
    let look = |place: &RefCell<Place>| match &*place.try_borrow().ok()? {
        Place::For(current) => current.clone(),
        Place::Outside => None,
    };
    // Nor has one of a thread that ends.
    PLACE.try_with(look).ok().flatten()
}

/// Notes, within a [`Scope`], for which call it is. Elsewhere it does nothing.
pub fn enter(current: Option<Current>) {
    PLACE.with(|place| {
        if let Ok(mut place) = place.try_borrow_mut()
            && matches!(*place, Place::For(_))
        {
            *place = Place::For(current);
        }
    });
}

/// What a future keeps between its polls.
#[derive(Debug)]
struct Kept(Place);

impl Kept {
    /// Swaps what is kept with what the thread has; back again when dropped.
    fn put(&mut self) -> Put<'_> {
        self.swap();
        Put(self)
    }

    fn swap(&mut self) {
        PLACE.with(|place| {
            if let Ok(mut place) = place.try_borrow_mut() {
                mem::swap(&mut *place, &mut self.0);
            }
        });
    }
}

struct Put<'a>(&'a mut Kept);

impl Drop for Put<'_> {
    fn drop(&mut self) {
        self.0.swap();
    }
}

/// A future whose log lines belong to the call that is noted in it by [`enter`].
#[derive(Debug)]
pub struct Scope<F> {
    future: F,
    kept: Kept,
}

impl<F> Scope<F> {
    /// A scope in which no call is noted yet.
    pub const fn new(future: F) -> Self {
        Self { future, kept: Kept(Place::For(None)) }
    }
}

impl<F: Future + Unpin> Future for Scope<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, kept } = self.get_mut();
        let _put = kept.put();
        Pin::new(future).poll(context)
    }
}

/// Runs `future` for this call.
pub async fn within<F: Future>(current: Option<Current>, future: F) -> F::Output {
    let mut kept = Kept(Place::For(current));
    let mut future = pin!(future);
    poll_fn(|context| {
        let _put = kept.put();
        future.as_mut().poll(context)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str) -> Option<Current> {
        let context = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        Current::new(&Arc::from(name), context.as_ref())
    }

    fn here() -> Option<String> {
        current().map(|current| current.request_id.to_string())
    }

    #[tokio::test]
    async fn each_future_works_for_its_own_call() {
        let one = within(call("one"), async {
            assert_eq!(here().as_deref(), Some("one"));
            tokio::task::yield_now().await;
            assert_eq!(here().as_deref(), Some("one"));
            within(call("inner"), async { assert_eq!(here().as_deref(), Some("inner")) }).await;
            assert_eq!(here().as_deref(), Some("one"));
        });
        let two = Scope::new(Box::pin(async {
            assert_eq!(here(), None);
            enter(call("two"));
            tokio::task::yield_now().await;
            assert_eq!(here().as_deref(), Some("two"));
        }));
        tokio::join!(one, two);
        assert_eq!(here(), None);
        // Nobody would take it away again.
        enter(call("three"));
        assert_eq!(here(), None);
    }

    #[test]
    fn a_panic_leaves_nothing_behind() {
        let broken = Scope::new(Box::pin(async {
            enter(call("broken"));
            assert!(here().is_none(), "on purpose");
        }));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(broken)
        }));
        assert!(ended.is_err() && here().is_none());
    }
}
