//! `EXPOSE` words (rule W18), as far as the checks look at them.

use super::report::Report;
use super::rules;
use crate::instruction::Place;

/// Warns of what is odd in one port; false when it is not a port at all.
pub(super) fn check(port: &str, place: Place, report: &mut Report<'_>) -> bool {
    let (mapped, container) = match port.rsplit_once(':') {
        Some((before, container)) => (before.rsplit(':').any(|part| !part.is_empty()), container),
        None => (false, port),
    };
    let (number, protocol) = container.split_once('/').unwrap_or((container, ""));
    let lower = protocol.to_lowercase();
    if number.is_empty() || !matches!(lower.as_str(), "" | "tcp" | "udp" | "sctp") {
        return false;
    }
    if protocol != lower {
        let message =
            format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
        let help = Some(format!("write {number}/{lower}"));
        report.warn(rules::EXPOSE_PROTO_CASING, place, message, help);
    }
    if mapped {
        let message = format!(
            "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
        );
        report.warn(
            rules::EXPOSE_INVALID_FORMAT,
            place,
            message,
            Some(format!("write {container}")),
        );
    }
    true
}
