//! `EXPOSE` (rules W18, X14).

use super::error::LowerError;
use super::history::{self, list};
use super::stage::Scope;

pub(crate) fn lower(scope: &mut Scope<'_>, written: &[String]) -> Result<(), LowerError> {
    let words = scope.words();
    let mut ports = Vec::new();
    for word in written {
        for spec in words.split(word)? {
            parse(&spec, &mut ports).map_err(|error| error.about(word))?;
        }
    }
    for port in &ports {
        let exposed = &mut scope.state.config.config.exposed_ports;
        exposed.insert(port.clone(), serde_json::json!({}));
    }
    scope
        .state
        .record(history::metadata(format!("EXPOSE {}", list(&ports))));
    Ok(())
}

/// Adds the `port/protocol` of `[ip:][host:]port[-last][/protocol]`; address and host port are
/// checked and dropped, as BuildKit does with a warning.
fn parse(spec: &str, ports: &mut Vec<String>) -> Result<(), LowerError> {
    let invalid = |reason: &str| {
        LowerError::value(format!("invalid port: \"{spec}\": {reason}"))
            .help("write EXPOSE port[-last][/protocol], protocol tcp, udp or sctp")
    };
    let (address, container) = match spec.rsplit_once(':') {
        Some((address, container)) => (Some(address), container),
        None => (None, spec),
    };
    let (range, protocol) = container.split_once('/').unwrap_or((container, ""));
    if range.is_empty() {
        return Err(invalid("no port specified"));
    }
    let protocol = match protocol.to_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
        _ => return Err(invalid(&format!("invalid proto: {protocol}"))),
    };
    let number_error = |what: &str, text: &str| {
        LowerError::value(format!("invalid {what}: {text}"))
            .help("ports are numbers from 0 to 65535, ranges go upwards")
    };
    let (first, last) = parse_range(range).ok_or_else(|| number_error("containerPort", range))?;
    if let Some(address) = address {
        let (ip, host) = address.rsplit_once(':').unwrap_or(("", address));
        if !ip.is_empty()
            && ip
                .trim_matches(['[', ']'])
                .parse::<std::net::IpAddr>()
                .is_err()
        {
            return Err(LowerError::value(format!("invalid IP address: {ip}")));
        }
        if !host.is_empty() {
            let (low, high) = parse_range(host).ok_or_else(|| number_error("hostPort", host))?;
            if first != last && high - low != last - first {
                return Err(LowerError::value(format!(
                    "invalid ranges specified for container and host Ports: {range} and {host}"
                )));
            }
        }
    }
    ports.extend((first..=last).map(|port| format!("{port}/{protocol}")));
    Ok(())
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (parse_number(first)?, parse_number(last)?);
    (first <= last).then_some((first, last))
}

/// As `strconv.ParseInt` reads it: a sign may stand before the digits.
fn parse_number(text: &str) -> Option<u16> {
    text.parse::<i64>()
        .ok()
        .and_then(|number| u16::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(spec: &str) -> Result<Vec<String>, String> {
        let mut ports = Vec::new();
        parse(spec, &mut ports).map_err(|error| error.message)?;
        Ok(ports)
    }

    #[test]
    fn w18_ports() {
        for (spec, expected) in [
            ("80", &["80/tcp"][..]),
            ("80/UDP", &["80/udp"]),
            ("8000-8002/sctp", &["8000/sctp", "8001/sctp", "8002/sctp"]),
            ("127.0.0.1:80:90", &["90/tcp"]),
            ("[::1]:80:90", &["90/tcp"]),
            ("8080:80", &["80/tcp"]),
            ("9000-9010:80", &["80/tcp"]),
        ] {
            assert_eq!(parsed(spec).unwrap(), expected, "{spec}");
        }
        for (spec, message) in [
            ("70000", "invalid containerPort: 70000"),
            ("5-3", "invalid containerPort: 5-3"),
            ("http", "invalid containerPort: http"),
            ("80/icmp", "invalid port: \"80/icmp\": invalid proto: icmp"),
            ("/tcp", "invalid port: \"/tcp\": no port specified"),
            ("x:80", "invalid hostPort: x"),
            ("1.2.3:80:80", "invalid IP address: 1.2.3"),
            (
                "1-3:4-5",
                "invalid ranges specified for container and host Ports: 4-5 and 1-3",
            ),
        ] {
            assert_eq!(parsed(spec).unwrap_err(), message, "{spec}");
        }
    }
}
