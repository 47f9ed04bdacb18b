//! Owners where there is only one id (docs/design/0005): the same image as where there are many.

use crate::rungs::{is_chroot, ways};
use crate::support::{Env, can_run};

/// Files of every kind with owners: given, made by a user, renamed, linked, in setgid directories.
const OWNERS: &str = "FROM busybox\n\
    RUN mkdir /l && cd /l && ln -s x a && chown -h 5:6 a && mkfifo p && chown 7:8 p && \
        echo > f && ln f g && chown 9:9 g && mkdir s && chown 0:50 s && chmod 2775 s && echo > s/f\n\
    RUN cd /l && mv a c && chown -h 1:1 p && echo more >> f && mkdir s/d && \
        [ $(stat -c %u:%g c) = 5:6 ] && [ $(stat -c %u:%g g) = 9:9 ]\n\
    COPY --chown=3:4 file /copied/\n\
    USER 1000:1000\n\
    RUN cd /tmp && ln -s y s && ln s t && mkdir d && mkfifo d/q && touch d/r && id > i\n\
    RUN cd /tmp && mv d e && [ $(stat -c %u:%g e/q) = 1000:1000 ]\n\
    RUN --mount=type=cache,target=/c,uid=1000 stat -c %u:%g /c > /tmp/c\n\
    USER root\n\
    RUN chmod 4755 /bin/busybox && tar cf /tmp/t -C /l . && mkdir /x && tar xf /tmp/t -C /x && \
        rm /tmp/t && chown -R 1000 /x\n";

#[test]
fn every_way_keeps_the_same_owners() {
    if !can_run() {
        return;
    }
    let digests: Vec<_> = ways()
        .into_iter()
        // A chroot has other capabilities, which does not matter here, but it is slow.
        .filter(|way| !is_chroot(way))
        .map(|way| {
            let env = Env::new();
            env.write("file", "file of the context");
            env.dockerfile(OWNERS);
            let mut flags = vec!["--quiet"];
            flags.extend_from_slice(way);
            (env.build(&flags).success().digest(), way)
        })
        .collect();
    for (digest, way) in &digests {
        // A directory is renamed in a plain root and copied in an overlay, which shows in times.
        let is_plain = way.contains(&"plain");
        let alike = digests
            .iter()
            .find(|(_, other)| other.contains(&"plain") == is_plain);
        let (first, other) = alike.unwrap();
        assert_eq!(digest, first, "{way:?} and {other:?}");
    }
}
