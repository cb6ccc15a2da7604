//! Messages of protocol buffers, as far as an ONNX file needs them (<https://protobuf.dev/programming-guides/encoding/>).
//!
//! A message is kept in pieces, so that a large one is not copied into those around it.

use std::io::{self, Write};

/// A message that is being put together, field by field.
#[derive(Debug, Default)]
pub(super) struct Message {
    pieces: Vec<Vec<u8>>,
    length: u64,
}

/// How a field is encoded.
#[derive(Clone, Copy)]
enum Wire {
    Varint = 0,
    Bytes = 2,
    Four = 5,
}

impl Message {
    /// Bytes of the message.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// With a whole number. A repeated field is written by repeating it.
    #[must_use]
    pub(super) fn int(mut self, field: u32, number: i64) -> Self {
        let mut bytes = key(field, Wire::Varint);
        push_varint(&mut bytes, number.cast_unsigned());
        self.push(bytes);
        self
    }

    /// With whole numbers.
    #[must_use]
    pub(super) fn ints(self, field: u32, numbers: impl IntoIterator<Item = i64>) -> Self {
        numbers.into_iter().fold(self, |message, number| message.int(field, number))
    }

    /// With a 32-bit float.
    #[must_use]
    pub(super) fn float(mut self, field: u32, number: f32) -> Self {
        let mut bytes = key(field, Wire::Four);
        bytes.extend(number.to_le_bytes());
        self.push(bytes);
        self
    }

    /// With a text.
    #[must_use]
    pub(super) fn text(self, field: u32, text: &str) -> Self {
        self.bytes(field, text.as_bytes().to_vec())
    }

    /// With bytes.
    #[must_use]
    pub(super) fn bytes(mut self, field: u32, bytes: Vec<u8>) -> Self {
        let mut head = key(field, Wire::Bytes);
        push_varint(&mut head, bytes.len() as u64);
        self.push(head);
        self.push(bytes);
        self
    }

    /// With a message.
    #[must_use]
    pub(super) fn message(mut self, field: u32, message: Self) -> Self {
        let mut head = key(field, Wire::Bytes);
        push_varint(&mut head, message.length);
        self.push(head);
        self.length += message.length;
        self.pieces.extend(message.pieces);
        self
    }

    /// With messages.
    #[must_use]
    pub(super) fn messages(self, field: u32, messages: impl IntoIterator<Item = Self>) -> Self {
        messages.into_iter().fold(self, |message, inner| message.message(field, inner))
    }

    /// Writes the message.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        self.pieces.iter().try_for_each(|piece| out.write_all(piece))
    }

    fn push(&mut self, bytes: Vec<u8>) {
        self.length += bytes.len() as u64;
        self.pieces.push(bytes);
    }
}

fn key(field: u32, wire: Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_varint(&mut bytes, u64::from(field << 3 | wire as u32));
    bytes
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(message: &Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.write(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, message.length());
        bytes
    }

    #[test]
    fn messages_are_those_of_the_specification() {
        // The examples of the encoding guide: 150 in field 1, "testing" in field 2, a message with 150 in field 3.
        let number = || Message::default().int(1, 150);
        assert_eq!(bytes(&number()), [0x08, 0x96, 0x01]);
        let text = Message::default().text(2, "testing");
        assert_eq!(bytes(&text), [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67]);
        assert_eq!(bytes(&Message::default().message(3, number())), [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert_eq!(
            bytes(&Message::default().ints(1, [-2]))[1..],
            [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]
        );
        assert_eq!(bytes(&Message::default().float(20, 1.0)), [0xa5, 0x01, 0, 0, 0x80, 0x3f]);
    }
}
