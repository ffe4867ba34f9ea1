//! The hook of workload W4: lower-cases the text, looks for a word, counts the words, and adds both findings to the message.
//! The same work as the in-process hooks that other systems were measured with.

use haggle_sdk::prelude::*;

/// What is not said here.
const FORBIDDEN: &str = "forbidden";

/// See the crate.
#[derive(Default)]
pub struct BenchHook;

impl BeforeMessage for BenchHook {
    fn before_message(&mut self, _call: &Call, mut draft: Draft) -> Decision {
        if draft.op == Op::Delete {
            return Decision::Continue;
        }
        let text = draft.content.to_lowercase();
        if text.contains(FORBIDDEN) {
            return Decision::reject("forbidden_word", "please rephrase");
        }
        let words = text.split_whitespace().count();
        draft.metadata = Some(format!(r#"{{"words":{words},"clean":true}}"#));
        Decision::Replace(draft)
    }
}

haggle_sdk::plugin! { BenchHook, hooks: [before_message] }

#[cfg(test)]
mod tests {
    use haggle_sdk::test::Harness;

    use super::*;

    #[test]
    fn words_are_counted_and_the_forbidden_one_is_found() {
        let mut app = Harness::<BenchHook>::new();
        let conversation = app.direct("alice", "bob");
        let id = app.send("alice", Draft::text(&conversation, "One two  THREE")).unwrap();
        let message = app.message(&id).unwrap();
        assert_eq!(message.content, "One two  THREE");
        assert_eq!(message.metadata.as_deref(), Some(r#"{"words":3,"clean":true}"#));
        let refused = app.send("alice", Draft::text(&conversation, "a FORBIDDEN word")).unwrap_err();
        assert_eq!(refused.code, "forbidden_word");
    }
}
