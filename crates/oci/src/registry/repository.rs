//! Where the documents of a reference are.

use std::net::IpAddr;

use reqwest::Url;
use store::digest::Digest;

use crate::error::RegistryError;
use crate::reference::Reference;

/// docker.io is a name for people; its registry is elsewhere.
const DOCKER_IO: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// A repository of a registry.
#[derive(Debug, Clone)]
pub(super) struct Repository {
    /// Host and port, for messages.
    pub host: String,
    /// Ends in `/v2/<path>/`.
    base: Url,
    path: String,
}

impl Repository {
    pub(super) fn of(reference: &Reference) -> Result<Self, RegistryError> {
        let host = if reference.domain() == DOCKER_IO.0 {
            DOCKER_IO.1
        } else {
            reference.domain()
        };
        let scheme = if is_loopback(host) { "http" } else { "https" };
        let path = reference.path();
        let base = Url::parse(&format!("{scheme}://{host}/v2/{path}/"))
            .map_err(|e| RegistryError::Setup(Box::new(e)))?;
        Ok(Self {
            host: host.to_owned(),
            base,
            path: path.to_owned(),
        })
    }

    /// What a token is for.
    pub(super) fn key(&self) -> String {
        self.base.to_string()
    }

    /// The scope of a token that may read this repository (distribution, "Token Scope").
    pub(super) fn scope(&self) -> String {
        format!("repository:{}:pull", self.path)
    }

    pub(super) fn is_https(&self) -> bool {
        self.base.scheme() == "https"
    }

    /// `name` is a tag or a digest; neither needs escaping.
    pub(super) fn manifest(&self, name: &str) -> String {
        format!("{}manifests/{name}", self.base)
    }

    pub(super) fn blob(&self, digest: &Digest) -> String {
        format!("{}blobs/{digest}", self.base)
    }
}

/// True for hosts (with or without port) that are this machine: `localhost`, 127.0.0.0/8, `::1`.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to_in_the_clear() {
        for (text, url) in [
            (
                "debian",
                "https://registry-1.docker.io/v2/library/debian/manifests/x",
            ),
            ("reg.example/a/b", "https://reg.example/v2/a/b/manifests/x"),
            ("localhost/a", "http://localhost/v2/a/manifests/x"),
            ("localhost:5000/a", "http://localhost:5000/v2/a/manifests/x"),
            ("127.1.2.3:5000/a", "http://127.1.2.3:5000/v2/a/manifests/x"),
            ("[::1]:5000/a", "http://[::1]:5000/v2/a/manifests/x"),
            (
                "128.0.0.1:5000/a",
                "https://128.0.0.1:5000/v2/a/manifests/x",
            ),
            (
                "localhost.example.com/a",
                "https://localhost.example.com/v2/a/manifests/x",
            ),
            ("[::2]/a", "https://[::2]/v2/a/manifests/x"),
        ] {
            let repository = Repository::of(&text.parse().expect(text)).expect(text);
            assert_eq!(repository.manifest("x"), url, "{text}");
        }
    }
}
