//! Content keys: rules C37, K02-K05, K18.

use super::support::{Stack, copy_op, stack};
use crate::engine::copy::{ContentKey, Source, StageTree, select};

fn key_with(line: &str, exclude: &[&str], from: &str) -> ContentKey {
    let stack: Stack = stack(&[from]);
    let tree = StageTree::new("the stage", &stack.view, &stack);
    let mut op = copy_op(line);
    op.exclude = exclude.iter().map(|s| (*s).to_owned()).collect();
    let sources = vec![Source::Tree(&tree); op.sources.len()];
    select(&op, &sources).unwrap().key()
}

fn key(line: &str, from: &str) -> ContentKey {
    key_with(line, &[], from)
}

const FROM: &str = "a/; a/f = x; a/g = y; b/; b/f = x; l -> a/f; d -> a; o = other";

#[test]
fn c37_k03_a_source_is_known_by_its_base_name() {
    assert_eq!(key("a/f /x", FROM), key("b/f /y", FROM));
    assert_ne!(key("a/f /x", FROM), key("a/g /x", FROM));
    assert_ne!(key("a/f /x", "a/; a/f = x"), key("a/e /x", "a/; a/e = x"));
    assert_ne!(key("a/f /x", FROM), key("l /x", FROM));
    // A directory gives no name.
    assert_eq!(key("a /x", FROM), key("d /x", FROM));
    // Under a wildcard the matched names count.
    assert_ne!(key("* /x/", "f = x; g = x"), key("* /x/", "f = x; h = x"));
    assert_eq!(key("* /x/", "f = x"), key("[f] /x/", "f = x"));
}

#[test]
fn k04_only_what_is_selected_counts() {
    assert_eq!(
        key("a /x", FROM),
        key("a /x", &FROM.replace("o = other", "o = more; p = new"))
    );
    assert_ne!(
        key("a /x", FROM),
        key("a /x", &FROM.replace("a/g = y", "a/g = z"))
    );
    let with = |from| key_with("a /x", &["*.log"], from);
    assert_eq!(
        with("a/; a/f = x; a/y.log = 1"),
        with("a/; a/f = x; a/z.log = 2")
    );
}

#[test]
fn k02_everything_but_times_counts() {
    let base = key("a /x", "a/; a/f = x");
    let same = ["a/ 700 1:1 @7; a/f = x", "a/; a/f @9 = x"];
    let other = [
        "a/; a/f = X",
        "a/; a/f 600 = x",
        "a/; a/f 1:0 = x",
        "a/; a/f 0:1 = x",
        "a/; a/g = x",
        "a/; a/f -> x",
        "a/; a/f fifo",
        "a/; a/f/",
        "a/; a/f = x; a/g = x",
        "a/",
    ];
    for from in same {
        assert_eq!(key("a /x", from), base, "{from}");
    }
    for from in other {
        assert_ne!(key("a /x", from), base, "{from}");
    }
    // Below the source the directories count as well.
    assert_ne!(key("a /x", "a/; a/d/ 700"), key("a /x", "a/; a/d/ 755"));
}

#[test]
fn k02_names_of_one_file_count_when_several_are_taken() {
    let linked = "a/; a/f = x; a/g => a/f";
    let copies = "a/; a/f = x; a/g = x";
    assert_ne!(key("a /x", linked), key("a /x", copies));
    assert_eq!(key("a/f /x", linked), key("a/f /x", copies));
}

#[test]
fn k05_a_followed_link_counts_by_name_and_target() {
    let with = |target: &str| key("l /x/", &format!("f = x; g = y; h = x; l -> {target}"));
    assert_ne!(with("f"), with("g"));
    assert_eq!(with("f"), with("h"));
}

#[test]
fn k18_lists_do_not_run_together() {
    assert_ne!(
        key("a b /x", "a/; a/f = x; b/"),
        key("a b /x", "a/; b/; b/f = x")
    );
    assert_ne!(
        key("a /x", "a/; a/f = xy; a/g"),
        key("a /x", "a/; a/f = x; a/g = y")
    );
    assert_ne!(key("a/f a/f /x/", FROM), key("a/f /x/", FROM));
}
