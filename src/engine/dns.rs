//! `/etc/resolv.conf` of steps (rule R10).

use crate::request::Dns;

/// The host's settings, since steps share its network; a kind of setting that is given on the
/// command line replaces that of the host, as with `docker run --dns`.
pub(crate) fn resolv_conf(dns: &Dns) -> Vec<u8> {
    let host = std::fs::read("/etc/resolv.conf").unwrap_or_default();
    if dns.is_default() {
        return host;
    }
    merged(&String::from_utf8_lossy(&host), dns).into_bytes()
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
