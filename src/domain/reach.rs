//! Whose orders a caller gets at.

use super::ids::{IdKey, OrderId, UserId};

/// Whose orders a caller gets at. To all others there is no such order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Everybody's.
    All,
    /// Those of this user; none = nobody's, since the caller is no user.
    Own(Option<UserId>),
}

impl Reach {
    /// Whether orders of `owner` are among them.
    pub fn covers(self, owner: UserId) -> bool {
        match self {
            Self::All => true,
            Self::Own(user) => user == Some(owner),
        }
    }

    /// Whether the order of that id is surely not among them, by the id alone: it holds a hash of its owner, which few users
    /// share.
    pub fn excludes(self, key: &IdKey, id: OrderId) -> bool {
        match self {
            Self::All => false,
            Self::Own(user) => user.is_none_or(|user| OrderId::slot_of(key, user) != id.slot()),
        }
    }

    /// Whether it ends at the caller's own orders.
    pub fn is_own(self) -> bool {
        matches!(self, Self::Own(_))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn own_means_the_same_user_and_no_user_owns_nothing() {
        let (one, other) = (UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        assert!(Reach::All.covers(one) && Reach::Own(Some(one)).covers(one));
        assert!(!Reach::Own(Some(one)).covers(other) && !Reach::Own(None).covers(one));
        assert!(Reach::Own(None).is_own() && !Reach::All.is_own());
    }

    #[test]
    fn an_id_tells_most_strangers() {
        let key = IdKey(b"a key".to_vec());
        let [owner, stranger] = [1, 2].map(|user| UserId(Uuid::from_u128(user)));
        let id = OrderId::for_request(&key, owner, None, chrono::DateTime::UNIX_EPOCH, 7);
        assert!(!Reach::All.excludes(&key, id) && !Reach::Own(Some(owner)).excludes(&key, id));
        assert!(Reach::Own(Some(stranger)).excludes(&key, id) && Reach::Own(None).excludes(&key, id));
    }
}
