//! Independent steps run at the same time.

use crate::rungs::has_containers;
use crate::support::{Env, can_run};

#[test]
fn steps_of_independent_stages_overlap() {
    if !has_containers() {
        return;
    }
    let env = Env::new();
    // Each stage waits for the file that the other makes in a shared cache: one after the other
    // neither would ever end.
    let stage = |name: &str, other: &str| {
        format!(
            "FROM busybox AS {name}\nRUN --mount=type=cache,target=/m touch /m/{name}; i=0; \
             while ! test -e /m/{other}; do i=$((i+1)); test $i -lt 3000 || exit 1; sleep 0.1; \
             done; touch /{name}\n"
        )
    };
    let (a, b) = (stage("a", "b"), stage("b", "a"));
    env.dockerfile(&format!(
        "{a}{b}FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n"
    ));
    env.build(&[]).success();
    assert!(env.image().has("a") && env.image().has("b"));
}

#[test]
fn k17_equal_steps_run_once() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    let step = "RUN --mount=type=cache,target=/m echo x >> /m/log; sleep 0.2; wc -l < /m/log > /n";
    env.dockerfile(&format!(
        "FROM busybox AS a\n{step}\nFROM busybox AS b\n{step}\nFROM scratch\n\
         COPY --from=a /n /a\nCOPY --from=b /n /b\n"
    ));
    env.build(&[]).success();
    assert_eq!(
        (env.image().text("a"), env.image().text("b")),
        ("1\n".into(), "1\n".into())
    );
}

#[test]
fn a_failure_stops_the_steps_beside_it() {
    if !has_containers() {
        return;
    }
    let env = Env::new();
    env.dockerfile(
        "FROM busybox AS slow\nRUN sleep 600\nFROM busybox AS bad\nRUN sleep 0.2; exit 3\n\
         FROM scratch\nCOPY --from=slow / /\nCOPY --from=bad / /\n",
    );
    // Ends at all: the test runner's limit is far below the sleep.
    env.build(&[])
        .failure(1)
        .says("exit code: 3")
        .says("CANCELED");
}
