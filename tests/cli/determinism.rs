//! Same input, same bytes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use crate::rungs::ways;
use crate::support::{Env, can_run};

const DOCKERFILE: &str = "FROM busybox AS a\nRUN mkdir /d && echo 1 > /d/b && echo 2 > /d/a && ln /d/a /d/c\n\
    FROM busybox\nWORKDIR /app\nCOPY . .\nCOPY --from=a /d /d\nRUN cp -r /app /copy && env > /env\n";

/// A context with the same content, made in this order, its files of this age.
fn fill(env: &Env, names: &[&str], age: Duration) {
    env.dockerfile(DOCKERFILE);
    for name in names {
        env.write(&format!("src/{name}"), name);
        let path = env.context().join("src").join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }
    fs::set_permissions(env.context().join("src"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn order_and_age_of_files_store_and_clock_do_not_show() {
    if !can_run() {
        return;
    }
    let (one, two) = (Env::new(), Env::new());
    fill(&one, &["a", "b", "c"], Duration::from_secs(5));
    fill(&two, &["c", "a", "b"], Duration::from_secs(50_000));
    let first = one.build(&[]).success().digest();
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(two.build(&["--jobs", "1"]).success().digest(), first);
}

#[test]
fn a_warm_store_gives_the_bytes_of_a_cold_one() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    fill(&env, &["a"], Duration::ZERO);
    let cold = env.build(&[]).success().digest();
    assert_eq!(env.build(&[]).success().digest(), cold);
    assert_eq!(env.build(&["--no-cache"]).success().digest(), cold);
}

#[test]
fn times_of_the_step_become_the_epoch_and_others_are_kept() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox\nRUN echo x > /new && touch -d '2001-02-03 04:05:06' /old\n\
         RUN stat -c %Y /new > /seen\n",
    );
    env.build(&[]).success();
    let image = env.image();
    assert_eq!(image.file("new").mtime, 315_619_200);
    assert_eq!(image.file("old").mtime, 981_173_106);
    assert_eq!(image.text("seen"), "315619200\n");
}

#[test]
fn e01_source_date_epoch_is_everywhere_when_it_is_given() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.write("f", "1");
    env.dockerfile("FROM busybox\nCOPY f /f\nRUN echo $SOURCE_DATE_EPOCH > /e\n");
    env.build(&["--build-arg", "SOURCE_DATE_EPOCH=1000000000"])
        .success();
    let image = env.image();
    assert_eq!(image.text("e"), "1000000000\n");
    assert_eq!(
        (image.file("e").mtime, image.file("f").mtime),
        (1_000_000_000, 1_000_000_000)
    );
    assert_eq!(image.config["created"], "2001-09-09T01:46:40Z");
    assert!(
        !image.config["config"]["Env"]
            .to_string()
            .contains("SOURCE_DATE_EPOCH")
    );
}

/// What packages leave behind when they are installed: times, random identities, transcripts of
/// terminals that are not everywhere.
const INSTALLED: &str = r#"FROM busybox
COPY shadow /etc/shadow
RUN <<EOF
set -e
now=$(date -u '+%Y-%m-%d  %H:%M:%S')
mkdir -p /var/log/apt /var/lib/dbus
random=$(busybox od -An -tx1 -N16 /dev/urandom | tr -d ' \n')
printf '\nLog started: %s\n%s\nLog ended: %s\n' "$now" "$random" "$now" > /var/log/apt/term.log
echo "$now startup" > /var/log/dpkg.log
printf '/c: invalid cache file: %s\n' b a > /var/log/fontconfig.log
echo "$random" | sed 's/^\(.\{12\}\).\(...\)./\14\28/' > /etc/machine-id
cp /etc/machine-id /var/lib/dbus/machine-id
echo "app:!:$(($(date +%s) / 86400)):0:99999:7:::" >> /etc/shadow
t=$(date +%s)
echo 'x = 1' > /m.py
{ printf '\247\r\r\n\0\0\0\0'
for n in $t $((t >> 8)) $((t >> 16)) $((t >> 24)); do printf "\\$(printf %o $((n & 255)))"; done
printf '\6\0\0\0code'; } > /m.pyc
EOF
RUN echo more >> /etc/machine-id
"#;

#[test]
fn what_packages_leave_behind_does_not_differ() {
    if !can_run() {
        return;
    }
    let mut digests = Vec::new();
    for way in ways() {
        let env = Env::new();
        env.write("shadow", "root:*:19000:0:99999:7:::\n");
        env.dockerfile(INSTALLED);
        digests.push((env.build(way).success().digest(), way));
        let image = env.image();
        assert_eq!(
            image.text("var/log/apt/term.log"),
            "\nLog started: 1980-01-02  00:00:00\nLog ended: 1980-01-02  00:00:00\n"
        );
        assert_eq!(
            image.text("var/log/fontconfig.log"),
            "/c: invalid cache file: a\n/c: invalid cache file: b\n"
        );
        assert_eq!(
            image.text("etc/shadow"),
            "root:*:19000:0:99999:7:::\napp:!:3653:0:99999:7:::\n"
        );
        let id = image.text("var/lib/dbus/machine-id");
        assert_eq!(image.text("etc/machine-id"), format!("{id}more\n"));
        assert_eq!(id.len(), 33);
        // As the time of the source.
        assert_eq!(
            image.file("m.pyc").content[8..12],
            315_619_200_u32.to_le_bytes()
        );
    }
    for (digest, way) in &digests {
        assert_eq!(digest, &digests[0].0, "{way:?}");
    }
}

#[test]
fn void_caches_are_gone_with_those_of_the_base() {
    if !can_run() {
        return;
    }
    let mut digests = Vec::new();
    for way in ways() {
        let env = Env::new();
        env.write("aux-cache", "of the base");
        env.dockerfile(
            "FROM busybox\nRUN ln -s nowhere /etc/machine-id\n\
             RUN mkdir -p /var/lib/dbus && echo 01234567890123456789012345678901 \
                 > /var/lib/dbus/machine-id\nCOPY aux-cache /var/cache/ldconfig/aux-cache\n\
             RUN touch -d @1000000000 /var/cache/ldconfig\n\
             RUN echo 1 > /var/cache/ldconfig/aux-cache\n\
             RUN cd /var/cache/ldconfig && stat -c %Y . > /seen && ls -A >> /seen && \
                 echo 1 > aux-cache\n\
             RUN stat -c %Y /var/cache/ldconfig > /then; ls -A /var/cache/ldconfig >> /then\n",
        );
        digests.push((env.build(way).success().digest(), way));
        let image = env.image();
        assert_eq!(image.text("seen"), "1000000000\n", "{way:?}");
        assert_eq!(image.text("then"), "315619200\n", "{way:?}");
        assert!(!image.has("var/cache/ldconfig/aux-cache"));
    }
    for (digest, way) in &digests {
        assert_eq!(digest, &digests[0].0, "{way:?}");
    }
}
