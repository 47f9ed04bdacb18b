//! Pulling from registries that are well-behaved, slow, broken or hostile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use oci::error::RegistryError;
use oci::image::{Image, ResolvedImage};
use oci::platform::Platform;
use oci::reference::Reference;
use oci::registry::{Client, Options};
use oci::testing::{Received, Registry, Reply, serving};
use store::Digest;
use store::content::{Content, Item};
use store::tree::Kind;

use super::images::image;
use super::tarball::entry;

fn sample() -> (Image, Vec<(Digest, Vec<u8>)>) {
    // Noise, so that the layer is larger than one read of a socket.
    let mut state = 7_u32;
    let noise: Vec<u8> = (0..3_000_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    let entry = entry(
        "noise",
        Kind::File {
            size: 0,
            hash: [0; 32],
        },
    );
    image(vec![vec![Item {
        entry,
        content: Content::Bytes(noise.into()),
    }]])
}

fn client() -> Client {
    let millisecond = Duration::from_millis(1);
    let options = Options {
        wait: millisecond,
        wait_max: millisecond,
        ..Options::default()
    };
    Client::new(options)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder
        .enable_all()
        .build()
        .expect("runtime")
        .block_on(future)
}

fn reference(registry: &Registry, name: &str) -> Reference {
    format!("{}/{name}", registry.host())
        .parse()
        .expect("reference")
}

fn resolve(registry: &Registry, name: &str) -> Result<ResolvedImage, RegistryError> {
    let platform = Platform::new("linux", "amd64", "");
    run(client().resolve(&reference(registry, name), &platform))
}

/// The only layer, fetched from what `answer` makes of a good registry's answers.
fn pull(
    answer: impl Fn(&Received, &dyn Fn(&Received) -> Reply) -> Reply + Send + Sync + 'static,
) -> (Result<bool, RegistryError>, Vec<Received>) {
    let (image, layers) = sample();
    let (digest, bytes) = layers[0].clone();
    let good = serving("app", &image, layers);
    let registry = Registry::start(move |request| answer(request, &good)).expect("registry");
    let mut fetched = Vec::new();
    let size = bytes.len() as u64;
    let reference = reference(&registry, "app:1");
    let result = run(client().fetch_blob(&reference, &digest, size, &mut fetched));
    (result.map(|()| fetched == bytes), registry.received())
}

#[test]
fn an_image_is_resolved_and_fetched() {
    let (image, layers) = sample();
    let registry = Registry::start(serving("o/app", &image, layers)).expect("registry");
    let resolved = resolve(&registry, "o/app:1").expect("resolve");
    assert_eq!(resolved.manifest, image.manifest);
    assert_eq!(resolved.config, image.config);
    assert_eq!(resolved.layers[0].digest, image.layers[0].digest);
    let digest = image.manifest_digest;
    let pinned = resolve(&registry, &format!("o/app:9@{digest}")).expect("by digest");
    assert_eq!(pinned, resolved);
    let before = registry.received().len();
    assert_eq!(
        run(client().digest(&reference(&registry, "o/app"))).expect("digest"),
        digest
    );
    let head = &registry.received()[before..];
    assert!(matches!(head, [r] if r.method == "HEAD" && r.target.ends_with("/manifests/latest")));
    let error = resolve(&registry, "o/other").expect_err("unknown");
    assert!(matches!(&error, RegistryError::NotFound { message, .. } if message == "not here"));
}

#[test]
fn a_token_is_fetched_once_and_used() {
    let (image, layers) = sample();
    let good = serving("app", &image, layers);
    let registry = Registry::start(move |request| {
        let host = &request.headers["host"];
        if let Some(query) = request.target.strip_prefix("/token?") {
            assert_eq!(query, "service=reg&scope=repository%3Aapp%3Apull");
            return Reply::new(200, r#"{"token":"secret"}"#);
        }
        if request
            .headers
            .get("authorization")
            .is_some_and(|a| a == "Bearer secret")
        {
            return good(request);
        }
        let challenge = format!(
            r#"Bearer realm="http://{host}/token",service="reg",scope="repository:app:pull""#
        );
        Reply::new(401, "").header("WWW-Authenticate", &challenge)
    })
    .expect("registry");
    assert!(resolve(&registry, "app:1").is_ok());
    let targets: Vec<_> = registry.received().into_iter().map(|r| r.target).collect();
    assert_eq!(
        targets.iter().filter(|t| t.starts_with("/token")).count(),
        1,
        "{targets:?}"
    );
    assert_eq!(
        targets.len(),
        4,
        "manifest, token, manifest, config: {targets:?}"
    );
}

#[test]
fn a_token_that_does_not_suffice_is_not_asked_for_forever() {
    let registry = Registry::start(|request| {
        if request.target.starts_with("/token") {
            return Reply::new(200, r#"{"access_token":"weak"}"#);
        }
        let host = &request.headers["host"];
        Reply::new(
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"not yours"}]}"#,
        )
        .header(
            "WWW-Authenticate",
            &format!(r#"Bearer realm="http://{host}/token""#),
        )
    })
    .expect("registry");
    let error = resolve(&registry, "private").expect_err("denied");
    assert!(matches!(&error, RegistryError::Denied { message, .. } if message == "not yours"));
    assert_eq!(registry.received().len(), 3);
}

#[test]
fn credentials_are_refused_by_name() {
    let challenges = |challenge: &'static str| {
        let answer = move |_: &Received| Reply::new(401, "").header("WWW-Authenticate", challenge);
        let registry = Registry::start(answer).expect("registry");
        resolve(&registry, "app").expect_err("refused")
    };
    let basic = challenges(r#"Basic realm="x""#);
    assert!(matches!(&basic, RegistryError::Credentials { scheme, .. } if scheme == "Basic"));
    assert!(basic.to_string().contains("not implemented yet"), "{basic}");
    for elsewhere in [
        r#"Bearer realm="http://registry.invalid/token""#,
        r#"Bearer realm="x""#,
        "\"",
    ] {
        let error = challenges(elsewhere);
        assert!(matches!(error, RegistryError::Challenge { .. }), "{error}");
    }
}

#[test]
fn a_redirect_is_followed_without_the_token() {
    let (image, layers) = sample();
    let (digest, bytes) = layers[0].clone();
    let size = bytes.len() as u64;
    let storage = Registry::start(serving("app", &image, layers)).expect("storage");
    let to = storage.host();
    let registry = Registry::start(move |request| {
        if request.target == "/token?scope=repository%3Aapp%3Apull" {
            return Reply::new(200, r#"{"token":"secret"}"#);
        }
        if !request.headers.contains_key("authorization") {
            let realm = format!(r#"Bearer realm="http://{}/token""#, request.headers["host"]);
            return Reply::new(401, "").header("WWW-Authenticate", &realm);
        }
        Reply::new(307, "").header("Location", &format!("http://{to}{}", request.target))
    })
    .expect("registry");
    let mut fetched = Vec::new();
    run(client().fetch_blob(&reference(&registry, "app"), &digest, size, &mut fetched))
        .expect("fetch");
    assert!(fetched == bytes);
    let [request] = &storage.received()[..] else {
        panic!("one request")
    };
    assert!(
        !request.headers.contains_key("authorization"),
        "{request:?}"
    );
    assert!(registry.received()[2].headers.contains_key("authorization"));
}

#[test]
fn endless_redirects_end() {
    let registry = Registry::start(|request| {
        Reply::new(307, "").header("Location", &format!("{}x", request.target))
    })
    .expect("registry");
    assert!(matches!(
        resolve(&registry, "app"),
        Err(RegistryError::Network { .. })
    ));
    assert!(registry.received().len() <= 12);
}

#[test]
fn busy_registries_are_asked_again() {
    for status in [429, 500, 503] {
        let asked = AtomicUsize::new(0);
        let (result, received) = pull(move |request, good| {
            if asked.fetch_add(1, Ordering::Relaxed) < 2 {
                return Reply::new(status, "busy").header("Retry-After", "3600");
            }
            good(request)
        });
        assert!(result.expect("fetched in the end"), "{status}");
        assert_eq!(received.len(), 3, "{status}");
    }
    let (result, received) = pull(|_, _| Reply::new(429, r#"{"message":"slow down"}"#));
    let error = result.expect_err("never");
    assert!(
        matches!(&error, RegistryError::TooManyRequests { message, .. } if message == "slow down"),
        "{error}"
    );
    assert_eq!(received.len(), 5);
}

#[test]
fn a_broken_transfer_is_resumed() {
    for obeys_range in [true, false] {
        let (result, received) = pull(move |request, good| {
            match request.range_start() {
                None => good(request).cut(1_000_000),
                Some(1_000_000) if obeys_range => good(request).cut(500_000),
                Some(start) if obeys_range => {
                    assert_eq!(start, 1_500_000);
                    good(request)
                }
                // Starts at the beginning again.
                Some(_) => {
                    let mut plain = request.clone();
                    plain.headers.remove("range");
                    good(&plain)
                }
            }
        });
        assert!(result.expect("fetched in the end"), "{obeys_range}");
        assert_eq!(received.len(), if obeys_range { 3 } else { 2 });
    }
}

#[test]
fn a_transfer_without_progress_ends() {
    let (result, received) = pull(|request, good| {
        let start = request.range_start().unwrap_or(0);
        good(request).cut(if start < 2_000_000 { 2_000_000 } else { 0 })
    });
    assert!(matches!(
        result,
        Err(RegistryError::Network { .. } | RegistryError::Interrupted { .. })
    ));
    // The first made progress, so the count began with it; the other four made none.
    assert_eq!(received.len(), 5);
}

#[test]
fn wrong_bytes_are_refused() {
    let (result, _) = pull(|_, _| Reply::new(200, vec![b'x'; 1000]));
    assert!(
        matches!(result, Err(RegistryError::Interrupted { .. })),
        "shorter: {result:?}"
    );
    let (image, _) = sample();
    let size = usize::try_from(image.layers[0].size).expect("small");
    let (result, _) = pull(move |_, _| Reply::new(200, vec![b'x'; size]));
    assert!(
        matches!(result, Err(RegistryError::Mismatch { .. })),
        "same length: {result:?}"
    );
    let (result, _) = pull(move |_, _| Reply::new(200, vec![b'x'; size + 1]));
    assert!(
        matches!(result, Err(RegistryError::Size { .. })),
        "longer: {result:?}"
    );
}

#[test]
fn wrong_manifests_are_refused() {
    let (image, layers) = sample();
    let digest = image.manifest_digest;
    let answers: [(&str, Reply); 5] = [
        (
            "sent something else",
            Reply::new(200, "{}").header("Docker-Content-Digest", &digest.to_string()),
        ),
        ("longer than", Reply::new(200, vec![b' '; 5 << 20])),
        ("invalid JSON", Reply::new(200, "<html>")),
        (
            "schema 1",
            Reply::new(200, r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#),
        ),
        ("status 418", Reply::new(418, "{}")),
    ];
    for (expected, reply) in answers {
        let registry = Registry::start(move |_| reply.clone()).expect("registry");
        let error = resolve(&registry, "app").expect_err(expected);
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let text = format!("{error}: {}", source.unwrap_or_default());
        assert!(text.contains(expected), "{text}");
    }
    let registry = Registry::start(serving("app", &image, layers)).expect("registry");
    let other = Digest::of(b"other");
    let error = resolve(&registry, &format!("app@{other}")).expect_err("unknown digest");
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
}

#[test]
fn nobody_there_is_an_error_with_a_name() {
    // A port that is given to nobody who does not ask for it.
    let host = "127.0.0.1:1";
    let reference: Reference = format!("{host}/app").parse().expect("reference");
    let result = run(client().digest(&reference));
    assert!(matches!(result, Err(RegistryError::Network { host: h, .. }) if h == host));
}

#[test]
fn downloads_at_the_same_time_are_bounded() {
    let now = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (image, layers) = sample();
    let (digest, bytes) = layers[0].clone();
    let size = bytes.len() as u64;
    let good = serving("app", &image, layers);
    let (of_now, of_most) = (now.clone(), most.clone());
    let registry = Registry::start(move |request| {
        of_most.fetch_max(of_now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // The first waits for the second, however long that takes; then there is time for a third.
        for _ in 0..2000 {
            std::thread::sleep(Duration::from_millis(30));
            if of_most.load(Ordering::SeqCst) > 1 {
                break;
            }
        }
        of_now.fetch_sub(1, Ordering::SeqCst);
        good(request)
    })
    .expect("registry");
    let reference = reference(&registry, "app");
    let client = Client::new(Options {
        downloads: 2,
        ..Options::default()
    });
    let client = Arc::new(client);
    run(async {
        let mut tasks = Vec::new();
        for _ in 0..6 {
            let (client, reference) = (client.clone(), reference.clone());
            tasks.push(tokio::spawn(async move {
                let mut fetched = Vec::new();
                client
                    .fetch_blob(&reference, &digest, size, &mut fetched)
                    .await
                    .map(|()| fetched)
            }));
        }
        for task in tasks {
            assert!(task.await.expect("task").expect("fetch") == bytes);
        }
    });
    assert_eq!(most.load(Ordering::SeqCst), 2);
}
