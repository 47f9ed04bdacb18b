//! Any word expands or fails, with any value: the first line is the value of `A`.
#![no_main]

use std::collections::BTreeMap;

use layercake_dockerfile::word::{expand, expand_for_display, expand_heredoc, expand_words};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (value, word) = text.split_once('\n').unwrap_or(("", text));
    let env = BTreeMap::from([("A".to_owned(), value.to_owned()), ("B".to_owned(), String::new())]);
    for escape in ['\\', '`'] {
        let _ = expand(word, escape, &env);
        let _ = expand_words(word, escape, &env);
        let _ = expand_for_display(word, escape, &env);
    }
    let _ = expand_heredoc(word, &env);
});
