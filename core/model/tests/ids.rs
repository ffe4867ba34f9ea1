//! The text of ids, as clients keep it.

use haggle_model::{CommandId, ConversationId, Hex, MessageId};

#[test]
fn ids_are_lowercase_hex_digits_and_come_back() {
    let conversation = ConversationId(0x0123_4567_89ab_cdef);
    assert_eq!(conversation.to_string(), "0123456789abcdef00000000");
    assert_eq!(conversation.to_string().parse(), Ok(conversation));

    let message: MessageId = conversation.message(0xfa);
    assert_eq!(message.to_string(), "0123456789abcdef000000fa");
    assert_eq!(message.to_string().parse(), Ok(message));

    let command = CommandId([0xa5; 16]);
    assert_eq!(command.to_string(), "a5".repeat(16));
    assert_eq!(command.to_string().parse(), Ok(command));

    assert_eq!(Hex::<4>::of(&[0x0f, 0xf0]).as_str(), "0ff0");
}
