//! Answers that need not be encoded where they are sent from.

use std::fmt;

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message};

/// An order as an answer.
pub type Order = Answer<super::order::Order>;

/// A message to be sent, or the bytes of one: what another node has answered goes on as it came.
#[derive(Clone)]
pub enum Answer<M> {
    /// A message of this node.
    Message(Box<M>),
    /// A message that is encoded already.
    Bytes(Bytes),
}

impl<M: Message + Default> Answer<M> {
    /// The message.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn read(self) -> Result<M, DecodeError> {
        match self {
            Self::Message(message) => Ok(*message),
            Self::Bytes(bytes) => M::decode(bytes),
        }
    }
}

impl<M> From<M> for Answer<M> {
    fn from(message: M) -> Self {
        Self::Message(Box::new(message))
    }
}

impl<M> Default for Answer<M> {
    fn default() -> Self {
        Self::Bytes(Bytes::new())
    }
}

/// Messages may hold personal data, which an encoded one would show.
impl<M: fmt::Debug> fmt::Debug for Answer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(message) => message.fmt(f),
            Self::Bytes(bytes) => write!(f, "Answer({} bytes)", bytes.len()),
        }
    }
}

/// On the wire it is the message. One that is received stays as it is until it is read.
impl<M: Message + Default> Message for Answer<M> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        match self {
            Self::Message(message) => message.encode_raw(buf),
            Self::Bytes(bytes) => buf.put_slice(bytes),
        }
    }

    fn encoded_len(&self) -> usize {
        match self {
            Self::Message(message) => message.encoded_len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    fn decode(mut buf: impl Buf) -> Result<Self, DecodeError> {
        Ok(Self::Bytes(buf.copy_to_bytes(buf.remaining())))
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        let mut message = std::mem::take(self).read()?;
        message.merge_field(tag, wire_type, buf, ctx)?;
        *self = Self::from(message);
        Ok(())
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::order as pb;

    #[test]
    fn an_answer_is_on_the_wire_what_its_message_is() {
        let order = pb::Order { id: "an id".into(), version: 7, ..Default::default() };
        let bytes = order.encode_to_vec();
        let passed_on = Order::decode(&*bytes).unwrap();
        assert!(matches!(&passed_on, Answer::Bytes(same) if **same == *bytes));
        for answer in [Order::from(order.clone()), passed_on] {
            assert_eq!(answer.encode_to_vec(), bytes);
            assert_eq!(answer.read(), Ok(order.clone()));
        }
    }

    #[test]
    fn fields_that_come_one_by_one_add_up() {
        let (one, other) =
            (pb::Order { version: 7, ..Default::default() }.encode_to_vec(), b"\x0a\x01x".to_vec());
        let mut answer = Order::decode(&*one).unwrap();
        answer.merge(&*other).unwrap();
        assert_eq!(answer.read(), pb::Order::decode(&*[one, other].concat()));
    }

    #[test]
    fn an_encoded_answer_does_not_show_what_is_in_it() {
        let order = pb::Order { notes: "a secret".into(), ..Default::default() };
        let answer = Order::decode(&*order.encode_to_vec()).unwrap();
        assert_eq!(format!("{answer:?}"), "Answer(10 bytes)");
    }
}
