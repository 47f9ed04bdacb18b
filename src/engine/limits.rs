//! What a step may use: time, memory, processors; and how it is said that it wanted more.

use std::time::Duration;

use sandbox::spec::{Resource, Status};

use crate::failure::{Failure, FailureKind};
use crate::request::StepLimits;

impl StepLimits {
    /// Whether control groups are needed for them.
    pub(crate) fn need_cgroups(&self) -> bool {
        self.memory.is_some() || self.cpu_millis.is_some()
    }

    /// Why a step ended as it did, in words, unless it succeeded; `oom_kills` is the number of
    /// processes that the kernel killed because the step's own group was out of memory.
    pub(crate) fn explain(&self, status: &Status, oom_kills: u64) -> Option<String> {
        let end = match status {
            Status::Exited(0) | Status::Cancelled => return None,
            Status::TimedOut => {
                let timeout = self.timeout.unwrap_or_default();
                return Some(format!(
                    "it ran longer than --step-timeout {} and was killed",
                    duration_text(timeout)
                ));
            }
            Status::Exited(code) => format!("exit code: {code}"),
            // As a shell would say it.
            Status::Signalled(signal) => {
                format!("exit code: {} (killed by signal {signal})", 128 + signal)
            }
        };
        Some(match self.memory {
            Some(limit) if oom_kills > 0 => format!(
                "{end}: out of memory: it needed more than --memory {}",
                size_text(limit)
            ),
            _ => end,
        })
    }
}

/// Whether the kernel may have killed it for want of memory on the whole machine: no signal of
/// ours, and none that a step would send itself.
pub(crate) fn is_mysterious_kill(status: &Status) -> bool {
    matches!(status, Status::Signalled(9) | Status::Exited(137))
}

/// `1h2m3.5s`, as it is written on the command line.
pub(crate) fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let mut text = String::new();
    for (unit, length) in [("h", 3600), ("m", 60)] {
        let count = seconds / length % if length == 60 { 60 } else { u64::MAX };
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    let rest = Duration::new(seconds % 60, duration.subsec_nanos());
    if !rest.is_zero() || text.is_empty() {
        text.push_str(&format!("{}s", rest.as_secs_f64()));
    }
    text
}

/// `64 MiB`: with the largest unit that leaves a whole number.
fn size_text(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units
        .iter()
        .find(|(_, shift)| bytes.trailing_zeros() >= *shift);
    match unit {
        Some((name, shift)) => format!("{} {name}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

/// `NAME=SOFT[:HARD]` of `--ulimit`; `-1` or `unlimited` for no limit.
pub(crate) fn ulimit(text: &str) -> Result<(Resource, u64, u64), Failure> {
    let invalid = |why: &str| {
        let message = format!("--ulimit {text}: {why}");
        Failure::new(FailureKind::Usage, message)
    };
    let form = "not of the form NAME=SOFT[:HARD]";
    let (name, limits) = text.split_once('=').ok_or_else(|| invalid(form))?;
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        digits => digits.parse().map_err(|_| invalid(form)),
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft > hard {
        return Err(invalid("the soft limit is above the hard one"));
    }
    let resource = RESOURCES.iter().find(|r| r.name() == name);
    let resource = resource.ok_or_else(|| {
        let names: Vec<&str> = RESOURCES.iter().map(|r| r.name()).collect();
        invalid("there is no such limit").hint(format!("there are {}", names.join(", ")))
    })?;
    Ok((*resource, soft, hard))
}

/// Those that `docker build --ulimit` knows (go-units `ulimit.go`).
const RESOURCES: [Resource; 15] = [
    Resource::Core,
    Resource::Cpu,
    Resource::Data,
    Resource::Fsize,
    Resource::Locks,
    Resource::Memlock,
    Resource::Msgqueue,
    Resource::Nice,
    Resource::Nofile,
    Resource::Nproc,
    Resource::Rss,
    Resource::Rtprio,
    Resource::Rttime,
    Resource::Sigpending,
    Resource::Stack,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_but_success_is_explained() {
        let limits = StepLimits {
            timeout: Some(Duration::from_millis(90_500)),
            memory: Some(64 << 20),
            cpu_millis: None,
        };
        let explain = |status, kills| limits.explain(&status, kills).unwrap_or_default();
        assert_eq!(explain(Status::Exited(0), 1), "");
        assert_eq!(explain(Status::Exited(3), 0), "exit code: 3");
        assert_eq!(
            explain(Status::Exited(137), 1),
            "exit code: 137: out of memory: it needed more than --memory 64 MiB"
        );
        assert_eq!(
            explain(Status::Signalled(15), 0),
            "exit code: 143 (killed by signal 15)"
        );
        assert_eq!(
            explain(Status::TimedOut, 0),
            "it ran longer than --step-timeout 1m30.5s and was killed"
        );
    }

    #[test]
    fn durations_read_as_they_are_written() {
        for (seconds, text) in [
            (0, "0s"),
            (5, "5s"),
            (60, "1m"),
            (3600, "1h"),
            (93_784, "26h3m4s"),
        ] {
            assert_eq!(duration_text(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn r36_ulimits() {
        let ok = |text| {
            ulimit(text)
                .map(|(r, soft, hard)| (r.name(), soft, hard))
                .ok()
        };
        assert_eq!(ok("nofile=1024"), Some(("nofile", 1024, 1024)));
        assert_eq!(ok("nproc=10:20"), Some(("nproc", 10, 20)));
        assert_eq!(ok("core=0:-1"), Some(("core", 0, u64::MAX)));
        for (text, says) in [
            ("nofile", "NAME=SOFT"),
            ("nofile=x", "NAME=SOFT"),
            ("nofile=2:1", "above the hard"),
            ("files=1", "no such limit"),
        ] {
            let failure = ulimit(text).expect_err(text);
            assert!(failure.message.contains(says), "{}", failure.message);
        }
    }
}
