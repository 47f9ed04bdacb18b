//! Host names without the C library: a statically linked glibc would load shared objects of
//! whatever version the system has.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Reads `/etc/resolv.conf` and `/etc/hosts` when the first name is asked for. Unlike reqwest's
/// own use of the same library it asks no public server when there is no configuration.
#[derive(Debug, Clone, Default)]
pub(super) struct Resolver(Arc<OnceLock<TokioResolver>>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let found = resolver.get()?.lookup_ip(name.as_str()).await?;
            let addresses: Vec<_> = found.iter().map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

impl Resolver {
    fn get(&self) -> Result<&TokioResolver, Box<dyn std::error::Error + Send + Sync>> {
        if let Some(ready) = self.0.get() {
            return Ok(ready);
        }
        let mut builder = TokioResolver::builder_tokio()?;
        // Both are asked for, and the second family is tried when the first does not answer.
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let resolver = builder.build()?;
        Ok(self.0.get_or_init(|| resolver))
    }
}
