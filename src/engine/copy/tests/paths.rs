//! Which files go where: rules C01-C38, L03-L10.

use super::support::{Stack, copied, copy_op, stack};

const SOURCE: &str = "
    a.txt 640 5:6 @1 = A
    b.txt @2 = B
    d/ 711 7:8 @3
    d/f @4 = F
    d/s/ 700 1:1 @5
    d/s/g 4755 2:2 @6 = G
    d/s/l 3:3 @7 -> ../f
    e/ @3
    e/f @8 = E
    lf @1 -> a.txt
    ld @1 -> /d
    up @1 -> ../../../b.txt
    gone @1 -> nowhere
    loop @1 -> loop
";

fn source() -> Stack {
    stack(&[SOURCE])
}

/// `COPY` line, what is there before, the layer.
type Row<'a> = (&'a str, &'a str, &'a [&'a str]);

fn check(rows: &[Row<'_>]) {
    for (line, before, want) in rows {
        let got = copied(&copy_op(line), &source(), &stack(&[before]));
        assert_eq!(
            got,
            Ok(want.iter().map(|s| (*s).to_owned()).collect()),
            "{line} on {before:?}"
        );
    }
}

fn check_errors(rows: &[(&str, &str, &str)]) {
    for (line, before, want) in rows {
        let error = copied(&copy_op(line), &source(), &stack(&[before])).unwrap_err();
        assert!(error.contains(want), "{line} on {before:?}: {error}");
    }
}

#[test]
fn c01_sources_are_clamped_to_the_root() {
    for line in [
        "a.txt /x",
        "/a.txt /x",
        "./d/../../../a.txt /x",
        "a.txt/ /x",
    ] {
        check(&[(line, "", &["x 640 5:6 @1 = A"])]);
    }
}

#[test]
fn c02_c03_c08_files() {
    check(&[
        ("a.txt /x", "", &["x 640 5:6 @1 = A"]),
        (
            "a.txt /x/",
            "",
            &["x/ 755 0:0 @9", "x/a.txt 640 5:6 @1 = A"],
        ),
        (
            "a.txt /x",
            "x/ 700 1:2 @3",
            &["x/ 700 1:2 @3", "x/a.txt 640 5:6 @1 = A"],
        ),
        ("a.txt /", "", &["a.txt 640 5:6 @1 = A"]),
        (
            "a.txt /p/q/x",
            "p/ 711 @3",
            &["p/ 711 0:0 @3", "p/q/ 755 0:0 @9", "p/q/x 640 5:6 @1 = A"],
        ),
        (
            "a.txt b.txt /x/",
            "",
            &[
                "x/ 755 0:0 @9",
                "x/a.txt 640 5:6 @1 = A",
                "x/b.txt 644 0:0 @2 = B",
            ],
        ),
        // Of the old file nothing is left.
        ("a.txt /x", "x 4777 1:1 @5 = longer", &["x 640 5:6 @1 = A"]),
    ]);
}

#[test]
fn c05_c06_c07_directories() {
    let below: &[&str] = &[
        "x/s/ 700 1:1 @5",
        "x/s/g 4755 2:2 @6 = G",
        "x/s/l 3:3 @7 -> ../f",
    ];
    let whole = |first: &[&'static str]| -> Vec<&'static str> {
        first.iter().chain(below).copied().collect()
    };
    let new = whole(&["x/ 755 0:0 @3", "x/f 644 0:0 @4 = F"]);
    let existing = whole(&["x/ 700 1:2 @3", "x/f 644 0:0 @4 = F"]);
    check(&[
        ("d /x", "", &new),
        ("d/ /x/", "", &new),
        ("d/. /x", "", &new),
        ("d /x", "x/ 700 1:2 @77; x/s/ 755 9:9 @9; x/old", &existing),
        ("d/s/../../e /", "", &["f 644 0:0 @8 = E"]),
    ]);
    // Several directories are merged, later files win.
    check(&[(
        "d e /x",
        "",
        &whole(&["x/ 755 0:0 @3", "x/f 644 0:0 @8 = E"]),
    )]);
}

#[test]
fn c08_made_directories_inherit_a_set_group_id_bit() {
    check(&[
        (
            "a.txt /s/n/m/",
            "s/ 2775 1:50 @5",
            &[
                "s/ 2775 1:50 @5",
                "s/n/ 2755 0:50 @9",
                "s/n/m/ 2755 0:50 @9",
                "s/n/m/a.txt 640 5:6 @1 = A",
            ],
        ),
        (
            "a.txt /s/o/n/",
            "s/ 2775 1:50 @5; s/o/ 755 1:1 @6",
            &[
                "s/ 2775 1:50 @5",
                "s/o/ 755 1:1 @6",
                "s/o/n/ 755 0:0 @9",
                "s/o/n/a.txt 640 5:6 @1 = A",
            ],
        ),
        (
            "e /s/e",
            "s/ 2775 1:50 @5",
            &[
                "s/ 2775 1:50 @5",
                "s/e/ 2755 0:50 @3",
                "s/e/f 644 0:0 @8 = E",
            ],
        ),
    ]);
}

#[test]
fn c09_owners_are_kept_from_stages_only() {
    let mut op = copy_op("a.txt /x");
    op.keep_owner = false;
    assert_eq!(
        copied(&op, &source(), &stack(&[])).unwrap(),
        ["x 640 0:0 @1 = A"]
    );
}

#[test]
fn c15_c38_hard_links_only_within_one_source() {
    let from = stack(&["d/; d/a @1 = x; d/b @1 => d/a; d/c/; d/c/z @1 => d/a"]);
    let to = stack(&[]);
    assert_eq!(
        copied(&copy_op("d /x"), &from, &to).unwrap(),
        [
            "x/ 755 0:0 @0",
            "x/a 644 0:0 @1 = x",
            "x/b 644 0:0 @1 => x/a",
            "x/c/ 755 0:0 @0",
            "x/c/z 644 0:0 @1 => x/a"
        ]
    );
    assert_eq!(
        copied(&copy_op("d/a d/b /x/"), &from, &to).unwrap(),
        ["x/ 755 0:0 @9", "x/a 644 0:0 @1 = x", "x/b 644 0:0 @1 = x"]
    );
    // The first name is overwritten: the others stay what they were.
    let from = stack(&["d/; d/a @1 = x; d/b @1 => d/a; d/c @1 => d/a; e/; e/a @2 = y"]);
    assert_eq!(
        copied(&copy_op("d e /x"), &from, &to).unwrap(),
        [
            "x/ 755 0:0 @0",
            "x/a 644 0:0 @2 = y",
            "x/b 644 0:0 @1 = x",
            "x/c 644 0:0 @1 => x/b"
        ]
    );
}

#[test]
fn c15_hard_links_whose_file_another_layer_hides() {
    let from = stack(&["d/; d/a @1 = x; d/b @1 => d/a", "d/; d/a @2 = y"]);
    assert_eq!(
        copied(&copy_op("d /x"), &from, &stack(&[])).unwrap(),
        ["x/ 755 0:0 @0", "x/a 644 0:0 @2 = y", "x/b 644 0:0 @1 = x"]
    );
}

#[test]
fn c16_c17_c18_wildcards() {
    check(&[
        (
            "*.txt /x/",
            "",
            &[
                "x/ 755 0:0 @9",
                "x/a.txt 640 5:6 @1 = A",
                "x/b.txt 644 0:0 @2 = B",
            ],
        ),
        (
            "?.t* /x/",
            "",
            &[
                "x/ 755 0:0 @9",
                "x/a.txt 640 5:6 @1 = A",
                "x/b.txt 644 0:0 @2 = B",
            ],
        ),
        ("[b-z].txt /x", "", &["x 644 0:0 @2 = B"]),
        ("*/f /x/", "", &["x/ 755 0:0 @9", "x/f 644 0:0 @8 = E"]),
        ("**/g /x/", "", &[]),
        ("*/*/g /x", "", &["x 4755 2:2 @6 = G"]),
        ("no*thing /x/y/", "", &[]),
        (
            "d/s/* /x/",
            "",
            &["x/ 755 0:0 @9", "x/g 4755 2:2 @6 = G", "x/l 644 0:0 @4 = F"],
        ),
        // Matched directories give their content, not themselves.
        ("[e] /x", "", &["x/ 755 0:0 @3", "x/f 644 0:0 @8 = E"]),
        // Symlinks on the way are followed when written out, and not when matched.
        (
            "ld/? /x/",
            "x/",
            &[
                "x/ 755 0:0 @5",
                "x/f 644 0:0 @4 = F",
                "x/g 4755 2:2 @6 = G",
                "x/l 3:3 @7 -> ../f",
            ],
        ),
        ("l?/f /x/", "", &[]),
    ]);
    check_errors(&[
        (
            "nowhere/*.txt /x",
            "",
            "\"/nowhere\" not found in the stage",
        ),
        ("gon[e] /x", "", "\"/gone\" not found"),
        ("a[ /x", "", "a["),
    ]);
}

#[test]
fn c19_missing_sources_are_named() {
    check_errors(&[
        ("absent /x", "", "\"/absent\" not found in the stage"),
        ("d/absent /x", "", "\"/d/absent\" not found"),
        ("a.txt/x /x", "", "\"/a.txt/x\" not found"),
        ("gone /x", "", "\"/gone\" not found"),
        ("loop /x", "", "too many symbolic links"),
    ]);
}

#[test]
fn c20_c21_links_named_are_followed_inside_the_root() {
    check(&[
        ("lf /x/", "", &["x/ 755 0:0 @9", "x/lf 640 5:6 @1 = A"]),
        ("up /x", "", &["x 644 0:0 @2 = B"]),
        ("ld/s/l /x", "", &["x 644 0:0 @4 = F"]),
        (
            "ld/s /x",
            "",
            &["x/ 755 0:0 @5", "x/g 4755 2:2 @6 = G", "x/l 3:3 @7 -> ../f"],
        ),
    ]);
}

#[test]
fn c22_c23_links_in_the_destination() {
    check(&[
        (
            "a.txt /l",
            "t/ @1; l -> t",
            &["t/ 755 0:0 @1", "t/a.txt 640 5:6 @1 = A"],
        ),
        (
            "a.txt /l/new/x",
            "t/ @1; l -> /t",
            &[
                "t/ 755 0:0 @1",
                "t/new/ 755 0:0 @9",
                "t/new/x 640 5:6 @1 = A",
            ],
        ),
        ("a.txt /l", "t = old; l -> t", &["t 640 5:6 @1 = A"]),
        (
            "a.txt /l",
            "l -> made/up",
            &["made/ 755 0:0 @9", "made/up 640 5:6 @1 = A"],
        ),
        ("a.txt /l", "l -> ../../up", &["up 640 5:6 @1 = A"]),
        (
            "e /l",
            "t/ 700 1:1 @1; l -> t",
            &["t/ 700 1:1 @3", "t/f 644 0:0 @8 = E"],
        ),
        // A link with the name of the file is replaced, whatever it leads to.
        (
            "a.txt /t/",
            "t/ @1; t/a.txt -> /v; v = keep",
            &["t/ 755 0:0 @1", "t/a.txt 640 5:6 @1 = A"],
        ),
        (
            "e /t",
            "t/ @3; t/f -> /v; v = keep",
            &["t/ 755 0:0 @3", "t/f 644 0:0 @8 = E"],
        ),
    ]);
    check_errors(&[("a.txt /l/x", "l -> l", "destination")]);
}

#[test]
fn c24_files_and_directories_do_not_replace_each_other() {
    check_errors(&[
        (
            "a.txt /x/",
            "x/; x/a.txt/",
            "cannot replace directory /x/a.txt",
        ),
        ("e /x", "x/; x/f/", "cannot replace directory /x/f"),
        ("e /x", "x", "/x, which is not a directory"),
        ("d /x", "x/; x/s = file", "/x/s, which is not a directory"),
        (
            "d /x",
            "x/; x/s -> /t; t/",
            "/x/s, which is not a directory",
        ),
        ("a.txt /x/y", "x", "mkdir /x: /x is not a directory"),
        ("a.txt /x/", "x", "mkdir /x: /x is not a directory"),
        ("a.txt /x/y/z", "x", "mkdir /x/y: /x is not a directory"),
    ]);
}

#[test]
fn c25_of_several_files_for_one_name_the_last_stays() {
    check(&[
        ("a.txt b.txt /x", "", &["x 644 0:0 @2 = B"]),
        ("*.txt /x", "x = old", &["x 644 0:0 @2 = B"]),
    ]);
    check(&[(
        "e a.txt /x",
        "",
        &[
            "x/ 755 0:0 @3",
            "x/a.txt 640 5:6 @1 = A",
            "x/f 644 0:0 @8 = E",
        ],
    )]);
}

#[test]
fn l03_l04_l05_only_what_differs() {
    check(&[
        ("a.txt /x", "x 640 5:6 @1 = A", &[]),
        ("a.txt /x", "x 640 5:6 @2 = A", &["x 640 5:6 @1 = A"]),
        ("a.txt /x", "x 640 5:6 @1 = B", &["x 640 5:6 @1 = A"]),
        ("e /x", "x/ @3; x/f @8 = E; x/g", &[]),
        ("e /x", "x/ @4; x/f @8 = E; x/g", &["x/ 755 0:0 @3"]),
        (
            "a.txt /p/q/",
            "p/ 711 1:1 @5; p/q/ 700 2:2 @6; p/o",
            &[
                "p/ 711 1:1 @5",
                "p/q/ 700 2:2 @6",
                "p/q/a.txt 640 5:6 @1 = A",
            ],
        ),
        // Directories that no layer describes are what unpacking makes of them.
        (
            "a.txt /p/",
            "p/f",
            &["p/ 755 0:0 @0", "p/a.txt 640 5:6 @1 = A"],
        ),
    ]);
}

#[test]
fn l10_names_that_mean_removal_are_refused() {
    let from = stack(&["d/; d/.wh.f = x"]);
    let error = copied(&copy_op("d /x"), &from, &stack(&[])).unwrap_err();
    assert!(error.contains("/x/.wh.f"), "{error}");
    check_errors(&[("a.txt /.wh.x/f", "", ".wh.x")]);
}

#[test]
fn l16_the_root_has_no_metadata() {
    check(&[("e /", "f @8 = E", &[])]);
}

#[test]
fn s12_scratch_is_an_empty_tree() {
    let nothing = Stack::default();
    let made = copied(&copy_op("/ /x/"), &nothing, &stack(&[""])).unwrap();
    assert_eq!(made, ["x/ 755 0:0 @0"]);
}
