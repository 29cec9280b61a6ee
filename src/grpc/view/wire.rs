//! Walks through an encoded message and copies what may be seen of it.

use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

use super::fields::{Kind, Message};
use super::{See, Viewer, Whose};

/// One field of an encoded message.
struct Part<'a> {
    tag: u32,
    /// With its key.
    whole: &'a [u8],
    /// A text, or a message; none for a number.
    content: Option<&'a [u8]>,
}

/// Takes the next field off; none at the end, and for what is no message.
fn next<'a>(rest: &mut &'a [u8]) -> Option<Part<'a>> {
    let start = *rest;
    let mut at = start;
    let (tag, wire) = decode_key(&mut at).ok()?;
    let mut content = None;
    match wire {
        WireType::Varint => drop(decode_varint(&mut at).ok()?),
        WireType::SixtyFourBit => at = at.get(8..)?,
        WireType::ThirtyTwoBit => at = at.get(4..)?,
        WireType::LengthDelimited => {
            let length = usize::try_from(decode_varint(&mut at).ok()?).ok()?;
            let (inner, after) = at.split_at_checked(length)?;
            (content, at) = (Some(inner), after);
        }
        // Nothing of ours has groups.
        WireType::StartGroup | WireType::EndGroup => return None,
    }
    let whole = start.get(..start.len().checked_sub(at.len())?)?;
    *rest = at;
    Some(Part { tag, whole, content })
}

/// The text of the field `tag`.
fn text(message: &[u8], tag: u32) -> Option<&str> {
    let mut rest = message;
    while let Some(part) = next(&mut rest) {
        if part.tag == tag {
            return std::str::from_utf8(part.content?).ok();
        }
    }
    None
}

/// Appends what `viewer` sees of `bytes` to `out`. What has no row, and what cannot be read, is left out.
pub(super) fn reduce(viewer: &Viewer, whose: Whose, bytes: &[u8], message: &Message, out: &mut Vec<u8>) {
    let mut whose = whose;
    if let Some(tag) = message.owner {
        let owner = text(bytes, tag).and_then(|id| id.parse().ok());
        whose.own = owner.is_some() && owner == viewer.user;
    }
    if let Some(tag) = message.author {
        whose.mine = text(bytes, tag).is_some_and(|author| *author == *viewer.principal);
    }
    let mut rest = bytes;
    while let Some(part) = next(&mut rest) {
        let Some(field) = message.fields.iter().find(|field| field.tag == part.tag) else { continue };
        match (viewer.sees(&field.see, whose), field.kind, part.content) {
            (See::Whole, Kind::Message(inner), Some(content)) => {
                let mut reduced = Vec::with_capacity(content.len());
                reduce(viewer, whose, content, inner, &mut reduced);
                put(part.tag, &reduced, out);
            }
            (See::Whole, Kind::Message(_), None) => {}
            (See::Whole, Kind::Plain | Kind::Text(_), _) => out.extend_from_slice(part.whole),
            (See::Masked, Kind::Text(mask), Some(content)) => {
                let masked = std::str::from_utf8(content).map(|text| mask.apply(text, viewer, whose));
                put(part.tag, masked.unwrap_or_default().as_bytes(), out);
            }
            (See::Masked | See::Mine | See::Hidden, _, _) => {}
        }
    }
}

fn put(tag: u32, content: &[u8], out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}
