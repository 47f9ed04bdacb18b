//! Every kind of file and every kind of change: the same layers from every way to run steps and
//! both kinds of roots.

use crate::rungs::ways;
use crate::support::{Env, can_run};

/// A file `ping` with the file capability `cap_net_raw` and one `second` name of it.
fn archive() -> Vec<u8> {
    // `struct vfs_cap_data`, revision 2, effective; capability 13 permitted.
    let capability: Vec<u8> = [0x0200_0001_u32, 1 << 13, 0, 0, 0]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let mut archive = tar::Builder::new(Vec::new());
    let key = "SCHILY.xattr.security.capability";
    let extensions = [(key, capability.as_slice())];
    archive.append_pax_extensions(extensions).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_mtime(1_000_000_000);
    header.set_size(4);
    archive
        .append_data(&mut header, "ping", &b"ping"[..])
        .unwrap();
    archive.into_inner().unwrap()
}

/// The names and what they are before the steps of [`CHANGES`].
const FILES: &str = "\
    FROM busybox\n\
    SHELL [\"/bin/busybox\", \"sh\", \"-ec\"]\n\
    RUN for c in $(busybox --list); do [ -e /bin/$c ] || ln -s busybox /bin/$c; done\n\
    ADD caps.tar /caps/\n\
    RUN mkdir /l && cd /l && for n in a b c d e f; do echo $n > $n; done && ln a a2 && ln b b2 && \
        ln -s a s && ln s s2 && ln -s nowhere dangling && mkfifo p && ln p p2 && \
        mkdir -p t/u/v w x/y empty && echo 1 > t/u/v/1 && echo 2 > t/u/2 && echo 3 > x/y/3 && \
        ln x/y/3 x/y/linked && echo w > w/w && chmod 1777 w && echo o > \"$(printf 'o d\\nd\\377')\" && \
        mkdir deep && cd deep && for i in $(seq 60); do mkdir 0123456789; cd 0123456789; done && \
        echo deep > file\n\
    RUN mkdir /m && cd /m && for d in $(seq 20); do mkdir $d && for f in $(seq 20); do \
        echo $d.$f > $d/$f; done; done\n\
    RUN truncate -s 3000000 /sparse && echo end >> /sparse && \
        dd if=/dev/zero of=/holes bs=4096 seek=100 count=1 conv=notrunc && \
        fallocate -l 100000 /allocated\n\
    RUN mkdir -p /g/plain && chgrp 50 /g && chmod 2775 /g && touch /g/one && mkdir /g/two && \
        chmod 777 /g/two && echo x > /g/set && chmod 6755 /g/set && chown 1000:1001 /g/plain\n\
    RUN cd /l && touch -d '1960-01-02 03:04:05' c && touch -d '2099-01-02 03:04:05' d && \
        touch -d '1999-01-02 03:04:05' w dangling && touch -h -d '1999-01-02 03:04:05' s\n";

/// One line for each kind of change; each is a layer.
const CHANGES: &str = "\
    RUN cd /l && rm -r t && mkdir t && echo new > t/new\n\
    RUN cd /l && rm a && echo again > a && ln -f b c && echo more >> b2\n\
    RUN cd /l && rm -r x && echo 'a file' > x && rm f && mkdir -p f/g && rm e && ln -s d e\n\
    RUN cd /l && rm p && echo file > p && rm dangling && mkfifo dangling && chown -h 5:6 s\n\
    RUN cd /l && mkdir new && echo n > new/n && rmdir empty && mv new empty && mv d d2\n\
    RUN cd /l && mv a z && mv b a && mv z b && ln s s3 && rm s2 && ln p2 p3 && chown 7:8 p3\n\
    RUN cd /l && ln a a9 && rm a2 && ln w/w w9 && chown 3:4 w/w && rm w9\n\
    RUN cd /l && cat c > /kept && touch -r c /time && cat /kept > c && touch -r /time c && rm /kept /time\n\
    RUN cd /l && chmod 700 w && chown 5 w && cd deep && until [ -e file ]; do cd 0123456789; done && \
        echo deeper > file && ln file \"$(seq 90 | tr -d '\\n')\"\n\
    RUN rm -r /m/[1-9] /m/1?/2* && echo x > /m/20/20 && mkdir /m/1 && echo 1 > /m/1/1\n\
    RUN rm -r /m && mkdir /m && mkdir /m/20 && echo y > /m/20/20\n\
    RUN rm -r /m && ln -s /l /m && echo through > /m/through\n\
    RUN printf X | dd of=/sparse bs=1 seek=1000000 conv=notrunc && cp /sparse /sparse2 && \
        truncate -s 5000 /holes && truncate -s 200000 /allocated\n\
    RUN ln /caps/ping /caps/linked && cp /caps/ping /caps/copied\n\
    RUN chmod 750 /caps/ping && mv /caps/linked /caps/moved\n\
    RUN chown 1:1 /caps/ping && echo x >> /caps/moved\n\
    USER 1000:1001\n\
    RUN echo 1 > /g/two/one && mkdir /g/two/d && cd /g/plain && echo 1 > 1 && mkdir 2 && chmod 2755 2 && \
        echo 3 > 2/3 && ln 1 4 && ln -s 1 5 && mkfifo 6\n\
    USER root\n\
    RUN chown 4:4 /g/set /g/plain/1 && chgrp -h 9 /g/plain/5 && mkdir /g/three && mv /g/one /g/three\n\
    RUN umask 077 && mkdir -p /u/v && echo > /u/v/w && cp -a /l/w /u && chmod 0 /u/v/w\n\
    RUN chmod 711 / && chown 1:1 /etc && touch -d @1000000000 /etc\n\
    RUN cd /l && rm s3 p2 && ln -s elsewhere s3 && mkfifo p2\n\
    RUN touch /l/w && find /l -exec touch -h -r /l/w {} + && rm -rf /l/f /l/nothing\n\
    RUN : nothing changes\n\
    RUN cat /etc/passwd > /tmp/x && cat /tmp/x > /etc/passwd && rm /tmp/x\n\
    RUN rm /bin/ls && cp /bin/busybox /bin/ls && rm -r /root && ln -s tmp /root\n";

#[test]
fn every_change_gives_the_same_layer_everywhere() {
    if !can_run() {
        return;
    }
    let mut first: Option<Vec<String>> = None;
    for way in ways() {
        let env = Env::new();
        std::fs::write(env.context().join("caps.tar"), archive()).unwrap();
        env.dockerfile(&format!("{FILES}{CHANGES}"));
        env.build(&[&["--quiet"], way].concat()).success();
        let layers = layers(&env);
        let expected = first.get_or_insert_with(|| layers.clone());
        for (number, (layer, other)) in layers.iter().zip(&*expected).enumerate() {
            assert_eq!(layer, other, "{way:?}: {}", instruction(number));
        }
        assert_eq!(layers.len(), expected.len());
    }
}

/// Digests of the layers above the base image.
fn layers(env: &Env) -> Vec<String> {
    let base = 2;
    let image = env.image();
    let layers = image.manifest["layers"].as_array().unwrap();
    let digest = |layer: &serde_json::Value| layer["digest"].as_str().unwrap().to_owned();
    layers.iter().skip(base).map(digest).collect()
}

/// The instruction that made a layer.
fn instruction(number: usize) -> String {
    let text = format!("{FILES}{CHANGES}");
    let makes_layer = |line: &&str| line.starts_with("RUN") || line.starts_with("ADD");
    let line = text.lines().filter(makes_layer).nth(number);
    line.unwrap_or("?").to_owned()
}
