//! Flags: rules O01-O11, C30-C35, and sources that are no trees (rules H11, D12, D13).

use graph::op;
use store::content::Content;

use super::support::{Stack, Temp, assert_layer, copied, copy_op, items, show, stack};
use crate::engine::copy::{GivenFile, ImageUsers, Limits, Means, Source, plan_copy, select};

const USERS: &str = "
    etc/
    etc/passwd = root:x:0:0:root:/root:/bin/sh
    etc/group = root:x:0:
";

fn source() -> Stack {
    stack(&["
        f 600 5:6 @1 = F
        d/ 700 7:8 @2
        d/f 4755 1:1 @3 = D
        d/s/ 711 1:2 @4
        d/s/x.md @5 = X
        d/s/y.txt @5 = Y
        d/z.md @6 = Z
        d/l 3:3 @7 -> f
        d/t/ 2775 4:4 @8
        d/t/u/ @8
        d/t/u/v.txt @8 = V
    "])
}

fn run(
    line: &str,
    change: impl FnOnce(&mut op::Copy),
    before: &str,
) -> Result<Vec<String>, String> {
    let mut op = copy_op(line);
    change(&mut op);
    copied(&op, &source(), &stack(&[before]))
}

#[test]
fn o05_o09_chown_owns_all_that_is_made() {
    let got = run(
        "d /p/x",
        |op| op.chown = Some("20:30".into()),
        "p/ 755 1:1 @5",
    )
    .unwrap();
    assert_eq!(
        got,
        [
            "p/ 755 1:1 @5",
            "p/x/ 755 20:30 @2",
            "p/x/f 4755 20:30 @3 = D",
            "p/x/l 20:30 @7 -> f",
            "p/x/s/ 711 20:30 @4",
            "p/x/s/x.md 644 20:30 @5 = X",
            "p/x/s/y.txt 644 20:30 @5 = Y",
            "p/x/t/ 2775 20:30 @8",
            "p/x/t/u/ 755 20:30 @8",
            "p/x/t/u/v.txt 644 20:30 @8 = V",
            "p/x/z.md 644 20:30 @6 = Z",
        ]
    );
    let got = run(
        "f /p/q/x",
        |op| op.chown = Some("20".into()),
        "p/ 755 1:1 @5",
    )
    .unwrap();
    assert_eq!(
        got,
        [
            "p/ 755 1:1 @5",
            "p/q/ 755 20:20 @9",
            "p/q/x 600 20:20 @1 = F"
        ]
    );
}

#[test]
fn o02_unknown_names_are_refused() {
    for spec in ["nosuch", "20:nosuch"] {
        let refused = run("f /x", |op| op.chown = Some(spec.into()), USERS);
        assert!(refused.unwrap_err().contains("nosuch"), "{spec}");
    }
}

#[test]
fn o08_c08_octal_chmod() {
    let got = run("d/s /p/x", |op| op.chmod = Some("2640".into()), "").unwrap();
    assert_eq!(
        got,
        [
            "p/ 640 0:0 @9",
            "p/x/ 640 0:0 @4",
            "p/x/x.md 2640 0:0 @5 = X",
            "p/x/y.txt 2640 0:0 @5 = Y",
        ]
    );
    // What exists keeps its mode; symlinks have none.
    let got = run(
        "d /x",
        |op| op.chmod = Some("600".into()),
        "x/ 751 @1; x/s/ 751 @1",
    )
    .unwrap();
    assert_eq!(got[0], "x/ 751 0:0 @2");
    assert_eq!(got[2], "x/l 3:3 @7 -> f");
    assert_eq!(got[3], "x/s/ 600 1:2 @4");
}

#[test]
fn o07_symbolic_chmod() {
    let got = run("d/s /p/x", |op| op.chmod = Some("go=u-w,+X".into()), "").unwrap();
    assert_eq!(
        got,
        [
            "p/ 755 0:0 @9",
            "p/x/ 755 0:0 @4",
            "p/x/x.md 644 0:0 @5 = X",
            "p/x/y.txt 644 0:0 @5 = Y",
        ]
    );
    let got = run("d /x", |op| op.chmod = Some("a-x".into()), "").unwrap();
    assert_eq!(got[3], "x/s/ 600 1:2 @4");
    let error = run("f /x", |op| op.chmod = Some("888".into()), "").unwrap_err();
    assert!(error.contains("888"), "{error}");
}

#[test]
fn c30_c31_exclude() {
    let exclude = |list: &[&str]| {
        let list: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect();
        let got = run("d /x", |op| op.exclude = list, "").unwrap();
        let names = got
            .iter()
            .map(|line| line.split(' ').next().unwrap().to_owned());
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(exclude(&["**/*.md", "t"]), "x/ x/f x/l x/s/ x/s/y.txt");
    assert_eq!(
        exclude(&["*.md"]),
        "x/ x/f x/l x/s/ x/s/x.md x/s/y.txt x/t/ x/t/u/ x/t/u/v.txt"
    );
    // Excluded directories come back with what a later rule brings back.
    assert_eq!(exclude(&["*", "!t/u/v.txt"]), "x/ x/t/ x/t/u/ x/t/u/v.txt");
    assert_eq!(exclude(&["*", "!s/x.md", "!nothing"]), "x/ x/s/ x/s/x.md");
    assert_eq!(exclude(&["*"]), "x/");
    // A file that is a source itself is not excluded.
    let got = run("f d/*.md /x/", |op| op.exclude = vec!["*".into()], "").unwrap();
    assert_eq!(
        got,
        [
            "x/ 755 0:0 @9",
            "x/f 600 5:6 @1 = F",
            "x/z.md 644 0:0 @6 = Z"
        ]
    );
    let error = run("f /x", |op| op.exclude = vec!["a[".into()], "").unwrap_err();
    assert!(error.contains("exclude"), "{error}");
}

#[test]
fn c32_c33_parents() {
    let parents = |line: &str| run(line, |op| op.parents = true, "");
    assert_eq!(
        parents("d/s/x.md f /x/").unwrap(),
        [
            "x/ 755 0:0 @0",
            "x/d/ 700 7:8 @2",
            "x/d/s/ 711 1:2 @4",
            "x/d/s/x.md 644 0:0 @5 = X",
            "x/f 600 5:6 @1 = F",
        ]
    );
    assert_eq!(
        parents("d/./s/x.md /x").unwrap(),
        [
            "x/ 755 0:0 @2",
            "x/s/ 711 1:2 @4",
            "x/s/x.md 644 0:0 @5 = X",
        ]
    );
    // Only the first pivot counts.
    assert_eq!(
        parents("d/./t/./u/v.txt /x").unwrap()[1..3],
        ["x/t/ 2775 4:4 @8", "x/t/u/ 755 0:0 @8"]
    );
    assert_eq!(
        parents("**/v.txt /x/").unwrap(),
        [
            "x/ 755 0:0 @0",
            "x/d/ 700 7:8 @2",
            "x/d/t/ 2775 4:4 @8",
            "x/d/t/u/ 755 0:0 @8",
            "x/d/t/u/v.txt 644 0:0 @8 = V",
        ]
    );
    assert_eq!(
        parents("*/s /x/").unwrap()[1..4],
        [
            "x/d/ 700 7:8 @2",
            "x/d/s/ 711 1:2 @4",
            "x/d/s/x.md 644 0:0 @5 = X",
        ]
    );
    assert_eq!(parents("no*thing /x/").unwrap(), ["x/ 755 0:0 @0"]);
    for missing in [
        "d/absent /x/",
        "absent /x/",
        "absent/./f /x/",
        "d/./absent /x/",
        "d/l/x /x/",
    ] {
        let error = parents(missing).unwrap_err();
        assert!(error.contains("not found"), "{missing}: {error}");
    }
}

#[test]
fn c32_parents_of_a_whole_directory_select_nothing() {
    let parents = |line: &str| run(line, |op| op.parents = true, "");
    for line in [". /x/", "/ /x/", "d/./ /x", "d/./. /x"] {
        let error = parents(line).unwrap_err();
        assert!(error.contains("selects nothing"), "{line}: {error}");
    }
    assert_eq!(parents("d*/./. /x").unwrap(), ["x/ 755 0:0 @2"]);
}

#[test]
fn c32_what_parents_requires_may_not_be_excluded() {
    let parents = |line: &str, exclude: &[&str]| {
        let exclude = exclude.iter().map(|s| (*s).to_owned()).collect();
        let change = |op: &mut op::Copy| (op.parents, op.exclude) = (true, exclude);
        run(line, change, "")
    };
    for exclude in [&["d/s"][..], &["**"], &["d"]] {
        let error = parents("d/s /x/", exclude).unwrap_err();
        assert!(error.contains("not found"), "{exclude:?}: {error}");
    }
    let kept = parents("d/s /x/", &["d/s", "!d/s/x.md"]).unwrap();
    assert_eq!(kept.last().unwrap(), "x/d/s/x.md 644 0:0 @5 = X");
    assert!(parents("d/s /x/", &["d/s/*"]).is_ok());
    assert!(parents("d/s* /x/", &["d/s"]).is_ok());
}

#[test]
fn c33_parents_that_exist_take_only_the_mode() {
    let parents = |op: &mut op::Copy| op.parents = true;
    assert_eq!(
        run("d/s /", parents, "d/ 750 20:30 @9; d/s/ 750 20:30 @9").unwrap(),
        [
            "d/ 700 20:30 @9",
            "d/s/ 711 1:2 @4",
            "d/s/x.md 644 0:0 @5 = X",
            "d/s/y.txt 644 0:0 @5 = Y",
        ]
    );
}

#[test]
fn c32_parents_with_exclude() {
    let change = |op: &mut op::Copy| {
        op.parents = true;
        op.exclude = vec!["d/s".into(), "**/*.md".into()];
    };
    assert_eq!(
        run("d /x/", change, "").unwrap(),
        [
            "x/ 755 0:0 @0",
            "x/d/ 700 7:8 @2",
            "x/d/f 4755 1:1 @3 = D",
            "x/d/l 3:3 @7 -> f",
            "x/d/t/ 2775 4:4 @8",
            "x/d/t/u/ 755 0:0 @8",
            "x/d/t/u/v.txt 644 0:0 @8 = V",
        ]
    );
}

#[test]
fn c34_link_does_not_look_at_the_destination() {
    let before = "t/ 700 1:1 @1; l -> t; o/ 700 1:1 @1; o/f = old; x/";
    let link = |op: &mut op::Copy| op.link = true;
    assert_eq!(
        run("f /l/", link, before).unwrap(),
        ["l/ 755 0:0 @9", "l/f 600 5:6 @1 = F"]
    );
    assert_eq!(
        run("f /o/f", link, before).unwrap(),
        ["o/ 755 0:0 @9", "o/f 600 5:6 @1 = F"]
    );
    assert_eq!(run("f /x", link, before).unwrap(), ["x 600 5:6 @1 = F"]);
    let named = |op: &mut op::Copy| {
        op.link = true;
        op.chown = Some("root:daemon".into());
    };
    let error = run("f /x", named, USERS).unwrap_err();
    assert!(
        error.contains("\"daemon\" cannot be looked up under --link"),
        "{error}"
    );
}

#[test]
fn c35_chmod_takes_link_back() {
    let change = |op: &mut op::Copy| {
        op.link = true;
        op.chmod = Some("600".into());
    };
    assert_eq!(
        run("f /l/", change, "t/ @1; l -> t").unwrap(),
        ["t/ 755 0:0 @1", "t/f 600 5:6 @1 = F"]
    );
}

fn plan_one(op: &op::Copy, source: Source<'_>, to: &Stack) -> Vec<String> {
    let sources = [source];
    let selection = select(op, &sources).unwrap();
    let means = Means {
        temp: &Temp,
        below: to,
        limits: Limits::default(),
    };
    let users = ImageUsers::new(&to.view, to);
    let planned = plan_copy(op, &selection, &to.view, &users, means).unwrap();
    assert_layer(&planned.items);
    show(&planned.items)
}

#[test]
fn h11_inline_files() {
    let mut op = copy_op("/p/");
    op.sources = vec![op::CopySource::Inline {
        name: "EOF".into(),
        content: "text".into(),
    }];
    let to = stack(&[""]);
    let want = ["p/ 755 0:0 @9", "p/EOF 644 0:0 @9 = text"];
    assert_eq!(plan_one(&op, Source::Inline, &to), want);
    op.destination = "/p".into();
    op.chmod = Some("u+x".into());
    op.chown = Some("3".into());
    assert_eq!(plan_one(&op, Source::Inline, &to), ["p 744 3:3 @9 = text"]);
}

#[test]
fn d12_d13_downloads() {
    let mut op = copy_op("/p/");
    op.sources = vec![op::CopySource::Download {
        input: 1,
        name: "file.bin".into(),
        unpack: false,
    }];
    let content = b"0123";
    let file = GivenFile {
        content: Content::Bytes(content[..].into()),
        size: 4,
        hash: *blake3::hash(content).as_bytes(),
        mode: 0o600,
        mtime: Some(77),
    };
    let got = plan_one(&op, Source::File(file), &stack(&[""]));
    assert_eq!(got, ["p/ 755 0:0 @9", "p/file.bin 600 0:0 @77 = 0123"]);
}

#[test]
fn l12_only_capabilities_stay_of_extended_attributes() {
    let mut files = items("f 600 @1 = F");
    let value = |name: &str| (name.into(), b"value".to_vec());
    files[0].entry.xattrs = vec![value("security.capability"), value("user.note")];
    let mut source = Stack::default();
    source.push(files);
    let made = copied(&copy_op("f /x"), &source, &stack(&[""])).unwrap();
    assert_eq!(made, ["x 600 0:0 @1 security.capability = F"]);
}
