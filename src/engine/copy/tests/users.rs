//! Owners and identities: rules O01-O03, W10-W13; and `WORKDIR`: rules W02-W04.

use graph::op;

use super::support::{Stack, assert_layer, show, stack};
use crate::engine::copy::{
    Identity, ImageUsers, Owner, Ownership, Unknown, UserLookup, plan_workdir,
};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment:x:5:5::/:\n\n\
    app:x:1000:1001:App:/home/app:/bin/sh\nodd line\nbare:x:7:8\n12:x:34:56::/digits:\n\
    twin:x:1000:61::/home/twin:\nbadgid:x:70:zz::/bad:\n";
const GROUP: &str = "root:x:0:\nstaff:x:50:other,app\nweb:x:1001:app\nextra:x:60:app\nempty:x:61:\nodd\n\
    #no:x:62:app\n";

fn image() -> Stack {
    let mut image = stack(&["etc/; etc/passwd -> ../lib/passwd; lib/"]);
    let mut items = super::support::items("lib/; lib/passwd; etc/; etc/group");
    for item in &mut items {
        let text = match item.entry.path.as_slice() {
            b"lib/passwd" => PASSWD,
            b"etc/group" => GROUP,
            _ => continue,
        };
        let hash = *blake3::hash(text.as_bytes()).as_bytes();
        item.entry.kind = store::tree::Kind::File {
            size: text.len() as u64,
            hash,
        };
        item.content = store::content::Content::Bytes(text.as_bytes().into());
    }
    image.push(items);
    image
}

#[test]
fn o01_owners() {
    let image = image();
    let users = ImageUsers::new(&image.view, &image);
    let table = [
        ("0", 0, 0),
        ("1000", 1000, 1000),
        ("4321", 4321, 4321),
        ("app", 1000, 1001),
        ("app:50", 1000, 50),
        ("app:staff", 1000, 50),
        ("1234:staff", 1234, 50),
        ("1:2", 1, 2),
        ("root", 0, 0),
        ("root:root", 0, 0),
        (":7", 0, 7),
        ("app:", 1000, 0),
        ("4321:", 4321, 0),
        ("+4321", 4321, 4321),
        ("bare", 7, 8),
        ("odd line", 0, 0),
    ];
    for (spec, uid, gid) in table {
        assert_eq!(
            users.owner(spec, Unknown::Root).unwrap(),
            known(uid, gid),
            "{spec}"
        );
    }
}

fn known(uid: u32, gid: u32) -> Ownership {
    Ownership {
        owner: Owner { uid, gid },
        warnings: Vec::new(),
    }
}

#[test]
fn o02_unknown_names_are_refused_or_root_with_a_warning() {
    let image = image();
    let users = ImageUsers::new(&image.view, &image);
    for (spec, uid, gid, warnings) in [
        ("nobody", 0, 0, 1),
        ("app:nobody", 1000, 1001, 1),
        ("4321:nobody", 4321, 4321, 1),
        ("nobody:nobody", 0, 0, 2),
        ("nobody:staff", 0, 50, 1),
        ("-1", 0, 0, 1),
        ("99999999999", 0, 0, 1),
    ] {
        let made = users.owner(spec, Unknown::Root).unwrap();
        assert_eq!(made.owner, Owner { uid, gid }, "{spec}");
        assert_eq!(made.warnings.len(), warnings, "{spec}");
        let refused = users.owner(spec, Unknown::Refused).unwrap_err();
        assert!(refused.is_unknown(), "{spec}: {refused}");
    }
    let warnings = users.owner("nobody", Unknown::Root).unwrap().warnings;
    assert_eq!(
        warnings,
        [
            "unable to find user nobody: no matching entries in passwd file of the image: taken for root"
        ]
    );
}

#[test]
fn o03_names_mean_nothing_to_an_empty_image() {
    let image = Stack::default();
    let users = ImageUsers::new(&image.view, &image);
    assert_eq!(users.owner("5:6", Unknown::Root).unwrap(), known(5, 6));
    assert_eq!(users.owner("root:", Unknown::Root).unwrap(), known(0, 0));
    for spec in ["app", "5:app"] {
        let error = users.owner(spec, Unknown::Root).unwrap_err().to_string();
        assert!(error.contains("\"app\""), "{error}");
    }
}

#[test]
fn o03_files_that_are_missing_or_none() {
    let image = stack(&[""]);
    let users = ImageUsers::new(&image.view, &image);
    assert_eq!(users.owner("5:6", Unknown::Root).unwrap(), known(5, 6));
    assert_eq!(
        users.owner("app", Unknown::Root).unwrap().owner,
        Owner::default()
    );
    let image = stack(&["etc/; etc/passwd/"]);
    let users = ImageUsers::new(&image.view, &image);
    assert_eq!(
        users.owner("app", Unknown::Root).unwrap_err().to_string(),
        "/etc/passwd is not a regular file"
    );
}

#[test]
fn w10_w11_w12_w13_identities() {
    let image = image();
    let users = ImageUsers::new(&image.view, &image);
    let identity = |uid, gid, groups: &[u32], home: &str| Identity {
        uid,
        gid,
        groups: groups.to_vec(),
        home: home.into(),
    };
    let table = [
        ("", identity(0, 0, &[0], "/root")),
        ("root", identity(0, 0, &[0], "/root")),
        ("app", identity(1000, 1001, &[1001, 50, 60], "/home/app")),
        ("1000", identity(1000, 1001, &[1001, 50, 60], "/home/app")),
        ("app:staff", identity(1000, 50, &[50], "/home/app")),
        ("app:61", identity(1000, 61, &[61], "/home/app")),
        ("1000:1001", identity(1000, 1001, &[1001], "/home/app")),
        ("4321", identity(4321, 0, &[0], "/")),
        ("4321:8765", identity(4321, 8765, &[8765], "/")),
        ("4321:web", identity(4321, 1001, &[1001], "/")),
        // Digits are a number, never a name.
        ("12", identity(12, 0, &[0], "/")),
        ("bare", identity(7, 8, &[8], "/")),
        ("app:", identity(1000, 1001, &[1001, 50, 60], "/home/app")),
        (":staff", identity(0, 50, &[50], "/root")),
        // HOME goes by the number.
        ("twin", identity(1000, 61, &[61], "/home/app")),
        // Malformed lines (rule M17), and `#` that is no comment in passwd.
        ("odd line", identity(0, 0, &[0], "/root")),
        ("badgid", identity(70, 0, &[0], "/bad")),
        ("5", identity(5, 5, &[5], "/")),
    ];
    for (spec, want) in table {
        assert_eq!(users.identity(spec).unwrap(), want, "{spec}");
    }
    for spec in ["nosuch", "app:nosuch", "nosuch:5"] {
        assert!(users.identity(spec).unwrap_err().is_unknown(), "{spec}");
    }
    let empty = stack(&[""]);
    let users = ImageUsers::new(&empty.view, &empty);
    assert_eq!(users.identity("").unwrap(), identity(0, 0, &[0], "/"));
}

fn workdir(path: &str, user: &str, before: &Stack) -> Result<(Vec<String>, usize), String> {
    let op = op::Workdir {
        path: path.into(),
        user: user.into(),
        epoch: 9,
    };
    let users = ImageUsers::new(&before.view, before);
    let planned = plan_workdir(&op, &before.view, &users).map_err(|e| e.to_string())?;
    assert_layer(&planned.items);
    Ok((show(&planned.items), planned.warnings.len()))
}

#[test]
fn w02_w03_w04_workdir() {
    let image = image();
    let made = |lines: &[&str]| lines.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let table: &[(&str, &str, &[&str])] = &[
        ("/", "", &[]),
        ("/etc", "app", &[]),
        ("/a/b", "", &["a/ 755 0:0 @9", "a/b/ 755 0:0 @9"]),
        (
            "/a/b",
            "app",
            &["a/ 755 1000:1001 @9", "a/b/ 755 1000:1001 @9"],
        ),
        ("/a", "5:6", &["a/ 755 5:6 @9"]),
        ("/a", "5", &["a/ 755 5:5 @9"]),
        (
            "/etc/a",
            "app:staff",
            &["etc/ 755 0:0 @0", "etc/a/ 755 1000:50 @9"],
        ),
    ];
    for (path, user, want) in table {
        assert_eq!(
            workdir(path, user, &image),
            Ok((made(want), 0)),
            "{path} {user}"
        );
    }
    // Nobody needs to be known where nothing is made.
    assert_eq!(workdir("/etc", "nosuch", &image), Ok((vec![], 0)));
    assert_eq!(
        workdir("/a", "nosuch", &image),
        Ok((made(&["a/ 755 0:0 @9"]), 1))
    );
}

#[test]
fn w03_workdir_follows_links_and_stops_at_files() {
    let before = stack(&["t/ 700 1:1 @1; l -> t; f; dang -> no/where; loop -> loop"]);
    let (made, _) = workdir("/l/x", "", &before).unwrap();
    assert_eq!(made, ["t/ 700 1:1 @1", "t/x/ 755 0:0 @9"]);
    assert_eq!(workdir("/l", "", &before).unwrap().0, Vec::<String>::new());
    assert_eq!(
        workdir("/dang", "", &before).unwrap().0,
        ["no/ 755 0:0 @9", "no/where/ 755 0:0 @9"]
    );
    for path in ["/f", "/f/x"] {
        assert!(
            workdir(path, "", &before)
                .unwrap_err()
                .contains("/f is not a directory")
        );
    }
    assert!(workdir("/loop", "", &before).is_err());
}
