//! `/etc/resolv.conf` of steps (rule R10).

use std::net::IpAddr;

use graph::op::Network;

use crate::request::Dns;

/// The file for each network: the host's settings; a kind of setting that is given on the command
/// line replaces that of the host, as with `docker run --dns`.
#[derive(Debug, Default)]
pub(crate) struct ResolvConf {
    host: Vec<u8>,
    sandbox: Vec<u8>,
}

impl ResolvConf {
    pub(crate) fn new(dns: &Dns) -> Self {
        let host = std::fs::read("/etc/resolv.conf").unwrap_or_default();
        let text = String::from_utf8_lossy(&host);
        Self {
            sandbox: merged(&forwarded(&text), dns).into_bytes(),
            host: if dns.is_default() {
                host
            } else {
                merged(&text, dns).into_bytes()
            },
        }
    }

    /// Whether the file of a sandbox has the address at which a server of the host is found.
    pub(crate) fn needs_forwarding(&self) -> bool {
        let line = forward_line();
        let mut lines = self.sandbox.split(|&byte| byte == b'\n');
        lines.any(|each| each == line.as_bytes())
    }

    pub(crate) fn of(&self, network: Network) -> Vec<u8> {
        match network {
            Network::Sandbox => self.sandbox.clone(),
            Network::Default | Network::Host | Network::None => self.host.clone(),
        }
    }
}

/// What a sandbox sees instead of the host's name servers, of which it does not reach those on the
/// host's loopback. The first IPv4 one is forwarded when it is such a one; others are left out.
fn forwarded(host: &str) -> String {
    let mut is_first = true;
    let mut text = String::new();
    for line in host.lines() {
        let mut words = line.split_whitespace();
        let server = match (words.next(), words.next().map(str::parse::<IpAddr>)) {
            (Some("nameserver"), Some(Ok(address))) => Some(address),
            _ => None,
        };
        let is_candidate = server.is_some_and(|s| s.is_ipv4()) && std::mem::take(&mut is_first);
        match server {
            Some(server) if !server.is_loopback() => text.push_str(line),
            None => text.push_str(line),
            Some(_) if is_candidate => text.push_str(&forward_line()),
            Some(_) => continue,
        }
        text.push('\n');
    }
    text
}

fn forward_line() -> String {
    format!("nameserver {}", sandbox::DNS_FORWARD)
}

fn merged(host: &str, dns: &Dns) -> String {
    let mut text = String::new();
    let replaced = |keyword: &str| match keyword {
        "nameserver" => !dns.servers.is_empty(),
        // The last of these two counts (resolv.conf(5)).
        "search" | "domain" => !dns.search.is_empty(),
        "options" => !dns.options.is_empty(),
        _ => false,
    };
    for line in host.lines() {
        let keyword = line.split_whitespace().next().unwrap_or_default();
        if !replaced(keyword) {
            text.push_str(line);
            text.push('\n');
        }
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    for (keyword, values) in [("search", &dns.search), ("options", &dns.options)] {
        if !values.is_empty() {
            text.push_str(&format!("{keyword} {}\n", values.join(" ")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "# made by hand\nnameserver 10.0.0.1\nsearch a.example\noptions ndots:2\n";

    fn with(servers: &[&str], search: &[&str], options: &[&str]) -> String {
        let strings = |given: &[&str]| given.iter().map(|s| (*s).to_owned()).collect();
        let dns = Dns {
            servers: servers.iter().map(|s| s.parse().unwrap()).collect(),
            search: strings(search),
            options: strings(options),
        };
        merged(HOST, &dns)
    }

    #[test]
    fn name_servers_on_the_loopback_of_the_host_are_forwarded_to_a_sandbox() {
        for (host, sandbox) in [
            (
                "nameserver 127.0.0.53\noptions edns0\n",
                "nameserver 169.254.1.1\noptions edns0\n",
            ),
            (
                "nameserver ::1\nnameserver 127.0.0.1\nnameserver 127.0.0.2\n",
                "nameserver 169.254.1.1\n",
            ),
            // Only the first one can be forwarded.
            (
                "nameserver 9.9.9.9\nnameserver 127.0.0.1\n",
                "nameserver 9.9.9.9\n",
            ),
            (HOST, HOST),
        ] {
            assert_eq!(forwarded(host), sandbox);
        }
    }

    #[test]
    fn r10_each_kind_of_setting_is_replaced_as_a_whole() {
        assert_eq!(
            with(&["9.9.9.9", "2620:fe::fe"], &[], &[]),
            "# made by hand\nsearch a.example\noptions ndots:2\nnameserver 9.9.9.9\n\
             nameserver 2620:fe::fe\n"
        );
        assert_eq!(
            with(&[], &["b.example", "c.example"], &["timeout:1"]),
            "# made by hand\nnameserver 10.0.0.1\nsearch b.example c.example\noptions timeout:1\n"
        );
    }
}
